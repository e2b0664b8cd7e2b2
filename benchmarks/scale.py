"""Sampling at catalog scale through everything but the engine: memory, driver time, listings/s.

The engine is *scripted* (``ScriptedEngine`` below): it answers at once with chains that were made
before, so that what is left is raypipe's: reading prepared listings, Ray Data's hops, the actor,
Arrow, writing, data files, the exactness check and the commit. Five attributes a listing, seven
chains a query, forty tokens a chain; images are a few bytes, which the engine never looks at.

Every size runs in a process and a Ray session of its own. Memory is the proportional set size of
the driver and of all processes below it, Ray's own and the object store included, sampled every
second; driver time is the processor time of the driver's process. Run it on a quiet machine:

    python benchmarks/scale.py --sizes 10000 1000000

The last line compares the largest size with the smallest:

    {"benchmark": "scale", "peak_memory_ratio": x, "driver_us_per_listing": x, "listings_per_s": x}
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa

from raypipe import config as configuration
from raypipe.attributes.prompts import completion
from raypipe.config import Config
from raypipe.models.policies import Policy
from raypipe.runtime.cluster import ray_session
from raypipe.sampling import stage
from raypipe.sampling.chains import Chain
from raypipe.sampling.engine import Prompt, Request
from raypipe.schemas import LISTINGS
from raypipe.store.artifacts import Run

NUM_ATTRIBUTES, NUM_IMAGES, NUM_TOKENS = 5, 3, 40
LISTINGS_PER_FILE = 1024
OVERRIDES = (
    "sampling.listings_per_call=256",
    "sampling.num_chains=7",
)
OPTIONS = ["Red", "Blue", "Green", "Black", "White", "Yellow"]


class ScriptedEngine:
    """Answers every request with chains out of a fixed set, chosen by the seed."""

    max_prompt_tokens = 4096

    def __init__(self) -> None:
        self._sets = [[_chain(7 * kind + index) for index in range(7)] for kind in range(64)]

    def generate(self, requests: list[Request]) -> list[list[Chain]]:
        return [self._sets[request.seed % 64][: request.num_chains] for request in requests]

    def num_prompt_tokens(self, prompt: Prompt) -> int:
        return len(prompt.text) // 4


def scripted(config: Config, policy: Policy) -> ScriptedEngine:
    return ScriptedEngine()


def _chain(number: int) -> Chain:
    value = OPTIONS[number % len(OPTIONS)]
    reasoning = f"View {number % 5 + 1} shows the product in full, and what shows is {value}."
    tokens = tuple((number * 31 + place * 7) % 600 for place in range(NUM_TOKENS))
    return Chain(completion(value, reasoning, "reasoning"), tokens, -float(number), "stop")


def prepare(run: Run, size: int) -> None:
    """Commit ``catalog/listings`` with so many pool listings."""
    queries = [
        {
            "attribute": f"attribute {number}",
            "prompt": f"what is the most suitable value for attribute {number} for this shirt. "
            f"Which one? Options: {OPTIONS}",
            "options": OPTIONS,
            "seller_value": None,
        }
        for number in range(NUM_ATTRIBUTES)
    ]
    listing = {
        "vertical": "Shirt",
        "split": "pool",
        "group_id": None,
        "images": [bytes(200)] * NUM_IMAGES,
        "image_hashes": [f"{number:032x}" for number in range(NUM_IMAGES)],
        "queries": queries,
        "source_key": None,
    }
    rows = [{"listing_id": "", **listing} for _ in range(min(size, LISTINGS_PER_FILE))]
    block = LISTINGS.from_rows(rows)
    attempt = run.artifact("catalog/listings", LISTINGS).attempt({})
    for first in range(0, size, LISTINGS_PER_FILE):
        ids = [f"listing-{number:08d}" for number in range(first, min(size, first + len(block)))]
        attempt.write(block.slice(0, len(ids)).set_column(0, "listing_id", pa.array(ids)))
    attempt.commit()


class Memory:
    """Peak of the memory of this process and of everything below it."""

    def __init__(self) -> None:
        self.peak = 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> "Memory":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        own = psutil.Process()
        while not self._over.wait(1.0):
            total = 0
            for process in (own, *own.children(recursive=True)):
                try:
                    total += process.memory_full_info().pss
                except psutil.Error:
                    continue
            self.peak = max(self.peak, total)


def measure(size: int, directory: Path) -> dict[str, Any]:
    """Sample so many listings with the scripted engine."""
    config = configuration.load(None, OVERRIDES)
    run = Run(str(directory))
    prepare(run, size)
    with ray_session(config.cluster), Memory() as memory:
        busy, started = time.process_time(), time.perf_counter()
        commit = stage.run(
            config,
            run,
            policy=Policy("pretrained", config.model),
            scope="sft",
            round_index=1,
            start=scripted,
        )
        seconds, busy = time.perf_counter() - started, time.process_time() - busy
    assert commit.rows == size, commit
    assert commit.counts["chains"] == size * NUM_ATTRIBUTES * 7
    return {
        "listings": size,
        "seconds": round(seconds, 1),
        "listings_per_s": round(size / seconds, 1),
        "driver_us_per_listing": round(1e6 * busy / size, 1),
        "peak_memory_mib": memory.peak >> 20,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=[10_000, 1_000_000])
    parser.add_argument("--only", type=int, help="measure one size in this process")
    parser.add_argument("--directory", type=Path, default=Path(tempfile.gettempdir()))
    arguments = parser.parse_args()
    if arguments.only:
        directory = Path(tempfile.mkdtemp(prefix="raypipe-scale-", dir=arguments.directory))
        try:
            print(json.dumps(measure(arguments.only, directory)), flush=True)
        finally:
            shutil.rmtree(directory)
        return
    measured = []
    for size in sorted(arguments.sizes):
        command = [sys.executable, __file__, "--only", str(size)]
        command += ["--directory", str(arguments.directory)]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        measured.append(json.loads(done.stdout.splitlines()[-1]))
        print(json.dumps(measured[-1]), flush=True)
    small, large = measured[0], measured[-1]
    more = large["listings"] - small["listings"]
    summary = {
        "benchmark": "scale",
        "peak_memory_ratio": round(large["peak_memory_mib"] / small["peak_memory_mib"], 3),
        "driver_us_per_listing": large["driver_us_per_listing"],
        "listings_per_s": round(more / (large["seconds"] - small["seconds"]), 1),
    }
    print(json.dumps(summary))


if __name__ == "__main__":
    main()
