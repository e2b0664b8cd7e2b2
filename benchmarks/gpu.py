"""The DPO step of Qwen2.5-VL-3B's shape on one GPU: time, memory, kernels, and TRL beside it.

    python benchmarks/gpu.py                    every phase, some ten minutes
    python benchmarks/gpu.py env step trl       some of them
    python benchmarks/gpu.py --smoke            a tiny model, on a CPU too: does it run?

Weights are random and in bfloat16; listings have five images and four attributes with one to three
pairs each, and no two lengths are alike. Each phase is a process of its own with one model in
memory, and prints one JSON line:

    env         versions, GPU, cuDNN, the order of SDPA's backends
    step        the shared-prefix step with checkpointing, three epochs: in the first every shape is
                new. Seconds by part, pairs and tokens per second, MFU, peak memory
    step-flash  the same with cuDNN's attention behind the flash and memory-efficient ones
    step-full   the same without checkpointing
    vision      the vision tower as transformers runs it, and with one SDPA call for each layer
    kernels     the profiler's most expensive kernels of one pack
    trl         TRL's DPOTrainer, micro-batches of two pairs, its own checkpointing
    agree       gradients of both on the same pairs
    zero        our Trainer under DeepSpeed's ZeRO stages 1 and 0

Ray is imported by the Trainer, and nothing of it is used: where it is not installed, an empty
package takes its place.
"""

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

PHASES = ("env", "step", "step-flash", "step-full", "vision", "kernels", "trl", "agree", "zero")
_EMPTY_MODULE = "def __getattr__(name):\n    return None\n"


def run_phase(phase: str, options: argparse.Namespace, directory: str) -> bool:
    """Run one phase in a process of its own; whether it succeeded."""
    environment = os.environ | {"TOKENIZERS_PARALLELISM": "false"}
    paths = [str(Path(__file__).parent), str(Path(__file__).parents[1])]
    if importlib.util.find_spec("ray") is None:
        paths.append(empty_ray(Path(directory)))
    environment["PYTHONPATH"] = os.pathsep.join([*paths, environment.get("PYTHONPATH", "")])
    if phase == "step-flash":
        environment["TORCH_CUDNN_SDPA_DEPRIORITIZED"] = "1"
    command = [sys.executable, "-m", "gpu_phases", phase, f"--layers={options.layers}"]
    command += [f"--listings={options.listings}", *(["--smoke"] if options.smoke else [])]
    try:
        ran = subprocess.run(
            command,
            env=environment,
            timeout=options.timeout,
            stdout=subprocess.PIPE,
            text=True,
            check=False,
        )
    except subprocess.TimeoutExpired:
        print(json.dumps({"phase": phase, "error": f"over {options.timeout} s"}), flush=True)
        return False
    print("\n".join(ran.stdout.splitlines()[-1:]), flush=True)  # TRL prints its log before
    return ran.returncode == 0


def empty_ray(directory: Path) -> str:
    """A package with the names of Ray that are imported, and nothing in them."""
    (directory / "ray" / "train").mkdir(parents=True, exist_ok=True)
    for name in ("__init__.py", "train/__init__.py", "train/collective.py"):
        (directory / "ray" / name).write_text(_EMPTY_MODULE)
    return str(directory)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("phases", nargs="*", metavar="PHASE", help=", ".join(PHASES))
    parser.add_argument("--smoke", action="store_true", help="a tiny model, on any device")
    parser.add_argument("--listings", type=int, default=12)
    parser.add_argument("--layers", type=int, default=36, help="of the language model")
    parser.add_argument("--timeout", type=float, default=300, help="seconds of a phase")
    options = parser.parse_args()
    unknown = set(options.phases) - set(PHASES)
    if unknown:
        parser.error(f"no phase {', '.join(sorted(unknown))}")
    with tempfile.TemporaryDirectory() as directory:
        phases = options.phases or PHASES
        succeeded = [run_phase(phase, options, directory) for phase in phases]
    return 0 if all(succeeded) else 1


if __name__ == "__main__":
    sys.exit(main())
