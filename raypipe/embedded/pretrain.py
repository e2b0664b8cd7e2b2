"""Make the nano checkpoint from nothing on two cores: vision first, then language.

    python -m raypipe.embedded.pretrain --output raypipe/embedded/nano

The vision half and each course but the last are kept beside the output (``<output>.vision``,
``<output>.course-1``, …) and not made again when they are there.
Deterministic for the same versions and number of threads. The model never sees a listing of the
embedded catalog: its products come from seeds of their own, and most of its photos are kinder.
"""

import argparse
import logging
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from raypipe.embedded.language import Course

VISION_PRODUCTS, VISION_STEPS = 9000, 1600
LANGUAGE_PRODUCTS = 4000
THREADS = 2


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, required=True, help="directory of the checkpoint")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--vision-steps", type=int, default=VISION_STEPS)
    parser.add_argument("--threads", type=int, default=THREADS)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")

    import torch

    from raypipe.embedded.language import COURSES

    torch.set_num_threads(arguments.threads)
    made = arguments.output.with_name(f"{arguments.output.name}.vision")
    if not (made / "config.json").exists():
        make_vision(made, num_steps=arguments.vision_steps, seed=arguments.seed)
    for number, course in enumerate(COURSES, start=1):
        last = number == len(COURSES)
        name = arguments.output.name if last else f"{arguments.output.name}.course-{number}"
        target = arguments.output.with_name(name)
        if last or not (target / "config.json").exists():
            make_language(made, target, course, seed=arguments.seed + number - 1)
        made = target


def make_vision(output: Path, *, num_steps: int, seed: int) -> None:
    """Write a checkpoint whose vision tower sees and whose language model is random."""
    from raypipe.embedded import nano
    from raypipe.embedded.vision import teach_vision

    processor = nano.build_processor()
    model = nano.build_model(processor, seed=seed)
    teach_vision(model, processor, num_products=VISION_PRODUCTS, num_steps=num_steps, seed=seed)
    nano.save(model, processor, output)


def make_language(start: Path, output: Path, course: "Course", *, seed: int) -> None:
    """Teach the checkpoint ``start`` one course, and write it to ``output``."""
    import torch
    from transformers import Qwen2_5_VLForConditionalGeneration

    from raypipe.embedded import nano
    from raypipe.embedded.language import teach_language

    processor = nano.build_processor()
    model = Qwen2_5_VLForConditionalGeneration.from_pretrained(start, dtype=torch.float32)
    teach_language(model, processor, course, num_products=LANGUAGE_PRODUCTS, seed=seed)
    nano.save(model, processor, output)


if __name__ == "__main__":
    main()
