"""The versions that raypipe was tested with, where an installed package can read them.

``tests/contracts/test_requirements.py`` holds them to the pins in ``requirements/``.
"""

TESTED = {
    "ray": "2.60.0",
    "torch": "2.13.0",
    "torchvision": "0.28.0",
    "transformers": "5.19.0",
    "peft": "0.21.2",
    "trl": "1.16.0",
    "vllm": "0.32.0",
    "deepspeed": "0.19.8",
    "accelerate": "1.15.0",
    "pyarrow": "26.0.1",
    "obstore": "0.12.1",
}
