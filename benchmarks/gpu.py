"""Qwen2.5-VL-3B's shape on one GPU: the DPO step, TRL beside it, and sampling beside plain vLLM.

    make gpu-check                              both calls, one after the other
    python benchmarks/gpu.py 1                  the step; under five minutes
    python benchmarks/gpu.py 2                  sampling and TRL; under five minutes
    python benchmarks/gpu.py env step kernels   some of the phases
    python benchmarks/gpu.py 1 --smoke          a tiny model, on a CPU too: does it run?

Weights are random and in bfloat16; listings have five images and four attributes with one to three
pairs each, and no two lengths are alike. Each phase is a process of its own with one model in
memory, and prints one JSON line:

    env         versions, GPU, cuDNN, the order of SDPA's backends
    step        the shared-prefix step with checkpointing, three epochs of packs as shipped: in the
                first every shape is new. Seconds by part, pairs and tokens per second, the share of
                the card's peak in bfloat16, peak memory
    step-full   the same without checkpointing
    vision      the vision tower as transformers runs it, and with all windows in one call
    kernels     the profiler's most expensive kernels of one pack
    trl         TRL's DPOTrainer, micro-batches of two pairs, its own checkpointing
    agree       gradients of both on the same pairs
    zero        our Trainer under DeepSpeed's ZeRO stages 1 and 0
    sampling    chains per second of our sampling stage and of plain vLLM, with Ray and vLLM
                installed; an arm of benchmarks/sampling.py each

A call ends in time whatever its phases take: the one under way is stopped, and says so. Ray is
imported by the Trainer, and nothing of it is used: where it is not installed, an empty package
takes its place.
"""

import argparse
import contextlib
import importlib.util
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

STEP_PHASES = ("env", "step", "step-full", "vision", "kernels", "trl", "agree", "zero")
PHASES = (*STEP_PHASES, "sampling")
CALLS = {"1": ("env", "step", "step-full", "vision", "agree"), "2": ("env", "trl", "sampling")}
CALL_LIMIT_S = 285.0
_EMPTY_MODULE = "def __getattr__(name):\n    return None\n"


def run_phase(phase: str, options: argparse.Namespace, directory: str, seconds: float) -> bool:
    """Run one phase in a process of its own, for so long; whether it succeeded."""
    environment = os.environ | {"TOKENIZERS_PARALLELISM": "false"}
    paths = [str(Path(__file__).parent), str(Path(__file__).parents[1])]
    if importlib.util.find_spec("ray") is None:
        paths.append(empty_ray(Path(directory)))
    environment["PYTHONPATH"] = os.pathsep.join([*paths, environment.get("PYTHONPATH", "")])
    module = "gpu_sampling" if phase == "sampling" else "gpu_phases"
    command = [sys.executable, "-m", module, phase, f"--layers={options.layers}"]
    command += [f"--listings={options.listings}", *(["--smoke"] if options.smoke else [])]
    # A session of its own: what vLLM and Ray have started ends with it.
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        said, _ = process.communicate(timeout=max(1.0, seconds))
    except subprocess.TimeoutExpired:
        print(json.dumps({"phase": phase, "error": f"over {seconds:.0f} s"}), flush=True)
        return False
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    print("\n".join(said.splitlines()[-1:]), flush=True)  # TRL prints its log before
    return process.returncode == 0


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
    parser.add_argument("phases", nargs="+", metavar="PHASE", help=f"1, 2, {', '.join(PHASES)}")
    parser.add_argument("--smoke", action="store_true", help="a tiny model, on any device")
    parser.add_argument("--listings", type=int, default=12)
    parser.add_argument("--layers", type=int, default=36, help="of the language model")
    parser.add_argument("--timeout", type=float, default=CALL_LIMIT_S, help="seconds of a call")
    options = parser.parse_args()
    unknown = set(options.phases) - set(PHASES) - set(CALLS)
    if unknown:
        parser.error(f"no phase {', '.join(sorted(unknown))}")
    phases = [phase for named in options.phases for phase in CALLS.get(named, (named,))]
    deadline = time.monotonic() + options.timeout
    with tempfile.TemporaryDirectory() as directory:
        succeeded = [
            run_phase(phase, options, directory, deadline - time.monotonic()) for phase in phases
        ]
    return 0 if all(succeeded) else 1


if __name__ == "__main__":
    sys.exit(main())
