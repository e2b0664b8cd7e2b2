"""The phase of ``gpu.py`` that samples: ``gpu_sampling.py sampling`` prints its figures."""

import argparse
import importlib.util
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ARMS = ("async_llm", "raypipe")
LISTINGS = 256
MAX_TOKENS = 60
ENGINE = (
    "model.dtype=bfloat16",
    "sampling.gpus_per_actor=1",
    "sampling.listings_per_call=64",
    "sampling.engine.gpu_memory_utilization=0.8",
    "sampling.engine.max_model_len=2048",
    "sampling.engine.enforce_eager=false",
    "sampling.engine.block_size=16",
    "sampling.engine.max_num_seqs=1024",
    "sampling.engine.max_num_batched_tokens=16384",
    "sampling.engine.enable_chunked_prefill=true",
)
Figures = dict[str, Any]


def sampling(options: argparse.Namespace) -> Figures:
    """Both arms once, each in a process of its own."""
    missing = [name for name in ("vllm", "ray") if importlib.util.find_spec(name) is None]
    if missing:
        return {"skipped": f"{' and '.join(missing)} not installed"}
    with tempfile.TemporaryDirectory() as place:
        sizes = [f"--listings={LISTINGS}", f"--max_tokens={MAX_TOKENS}"]
        overrides: tuple[str, ...] = ENGINE
        if options.smoke:
            sizes, overrides = ["--listings=2", "--max_tokens=8"], ()
        else:
            from random_checkpoint import write_checkpoint

            base = write_checkpoint(Path(place) / "base", options.layers, "cuda")
            overrides += (f"model.path={base}",)
        speed = {arm: _chains_per_s(arm, sizes, overrides) for arm in ARMS}
    return {**speed, "ratio": round(speed["raypipe"] / speed["async_llm"], 3)}


def _chains_per_s(arm: str, sizes: list[str], overrides: tuple[str, ...]) -> float:
    script = Path(__file__).with_name("sampling.py")
    command = [sys.executable, str(script), f"--arm={arm}", *sizes, *overrides]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return float(json.loads(done.stdout.splitlines()[-1])["chains_per_s"])


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("phase", choices=["sampling"])
    parser.add_argument("--smoke", action="store_true")
    parser.add_argument("--listings", type=int, default=12, help="of the other phases")
    parser.add_argument("--layers", type=int, default=36)
    options = parser.parse_args()
    started = time.monotonic()
    figures = sampling(options)
    seconds = round(time.monotonic() - started, 1)
    print(json.dumps({"phase": options.phase, "seconds": seconds} | figures), flush=True)


if __name__ == "__main__":
    main()
