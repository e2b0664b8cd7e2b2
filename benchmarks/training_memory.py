"""Peak memory of a training, of its worker and of its driver, against the number of listings.

The nano model trains on preference pairs of every listing of a synthetic pool for a fixed number of
optimizer steps: trees are built by Ray tasks, the reference's log-probabilities are computed, and a
Ray Train worker takes the steps. No engine. What a worker or the driver holds of the whole pool
shows as growth between the sizes.

Every size runs in a process and a Ray session of its own; the pool is made by another process.
Memory is the peak resident set size, which includes what was read from Ray's object store.

    python benchmarks/training_memory.py --sizes 10000 100000

The last line has the figures of every size, and those of the largest over those of the smallest:

    {"benchmark": "training_memory", "sizes": {...}, "worker_ratio": x, "driver_ratio": x}
"""

import argparse
import io
import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from raypipe import config as configuration
from raypipe.attributes.prompts import completion
from raypipe.config import Config
from raypipe.schemas import CHAINS, CONSENSUS, LISTINGS, PAIRS, TREES
from raypipe.store.artifacts import Run
from raypipe.training import stage

LISTINGS_PER_FILE, LISTINGS_PER_PAIRS_FILE = 256, 4096
OPTIONS = ["Red", "Blue", "Green", "Black", "White", "Yellow"]
SCOPE = "pretrained"
Row = dict[str, Any]


def settings(directory: Path, steps: int, workers: int) -> Config:
    return configuration.load(
        None,
        [
            f"run.directory={directory}",
            "run.report_to=[]",
            "training.batch_size=8",
            f"training.max_steps={steps}",
            f"cluster.num_train_workers={workers}",
            "cluster.checkpoint_steps=1000",
        ],
    )


def pictures(side: int) -> list[bytes]:
    """Encoded images of noise: they do not compress."""
    from PIL import Image

    made = []
    for number in range(64):
        stream = io.BytesIO()
        noise = random.Random(number).randbytes(3 * side * side)
        Image.frombytes("RGB", (side, side), noise).save(stream, "JPEG", quality=90)
        made.append(stream.getvalue())
    return made


def listing_row(number: int, queries: int, images: list[bytes]) -> Row:
    chosen = [images[(number + at) % len(images)] for at in range(2)]
    return {
        "listing_id": f"listing-{number:09}",
        "vertical": "Shoe",
        "split": "pool",
        "group_id": None,
        "images": chosen,
        "image_hashes": [f"{number}-{at}" for at in range(len(chosen))],
        "queries": [
            {
                "attribute": f"attribute {at}",
                "prompt": f"What is attribute {at} of this shoe? Options: {', '.join(OPTIONS)}.",
                "options": OPTIONS,
                "seller_value": None,
            }
            for at in range(queries)
        ],
    }


def pair_rows(listing: Row, number: int) -> Iterator[Row]:
    """Two pairs for each query."""
    lottery = random.Random(number)
    for query in listing["queries"]:
        texts = [
            completion(value, f"View {place} shows that it is {value}.", "reasoning")
            for place, value in enumerate(lottery.sample(OPTIONS, 4))
        ]
        pairs = [
            {
                "chosen": texts[at],
                "rejected": texts[at + 1],
                "chosen_index": at,
                "rejected_index": at + 1,
            }
            for at in (0, 2)
        ]
        yield {
            "listing_id": listing["listing_id"],
            "attribute": query["attribute"],
            "prompt": query["prompt"],
            "margin": 0.5,
            "pairs": pairs,
        }


def prepare(run: Run, size: int, queries: int, side: int) -> None:
    """Commit a pool of so many listings, and pairs of all of them."""
    images = pictures(side)
    listings = run.artifact("catalog/listings", LISTINGS).attempt({})
    pairs = run.artifact(f"{SCOPE}/pairs", PAIRS).attempt({})
    paired: list[Row] = []
    for first in range(0, size, LISTINGS_PER_FILE):
        numbers = range(first, min(first + LISTINGS_PER_FILE, size))
        rows = [listing_row(number, queries, images) for number in numbers]
        listings.write(LISTINGS.from_rows(rows))
        for number, row in zip(numbers, rows, strict=True):
            paired += pair_rows(row, number)
        if len(paired) >= LISTINGS_PER_PAIRS_FILE * queries:
            pairs.write(PAIRS.from_rows(paired))
            paired = []
    if paired:
        pairs.write(PAIRS.from_rows(paired))
    listings.commit()
    pairs.commit()
    for name, table in (("chains", CHAINS), ("consensus", CONSENSUS)):
        run.artifact(f"{SCOPE}/{name}", table).attempt({}).commit()


def train(config: Config, run: Run) -> dict[str, float]:
    """Take the steps; the peaks of this process and of the largest worker in GiB."""
    from raypipe.runtime.cluster import ray_session

    started = time.monotonic()
    with ray_session(config.cluster):
        commit = stage.run_round(
            config,
            run,
            name="round-1",
            round_index=1,
            start="pretrained",
            source=SCOPE,
            reference="pretrained",
        )
    trees = run.artifact(f"{SCOPE}/trees", TREES).require_commit()
    return {
        "driver_peak_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 << 20),
        "worker_peak_gib": commit.counts["last_peak_memory_gib"],
        "num_steps": commit.counts["num_steps"],
        "trees_s": trees.seconds,
        "seconds": time.monotonic() - started,
    }


def measured(size: int, options: argparse.Namespace) -> dict[str, float]:
    """Prepare and train a size, each in a process of its own."""
    with tempfile.TemporaryDirectory(dir=options.directory) as directory:
        command = [sys.executable, __file__, "--sizes", str(size), "--run", directory]
        for name in ("steps", "workers", "queries"):
            command += [f"--{name}", str(getattr(options, name))]
        subprocess.run([*command, "--part", "prepare"], check=True)
        trained = subprocess.run(
            [*command, "--part", "train"], check=True, stdout=subprocess.PIPE, text=True
        )
    found: dict[str, float] = json.loads(trained.stdout.splitlines()[-1])
    return found


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--sizes", type=int, nargs="+", default=[10_000, 100_000])
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--queries", type=int, default=5)
    parser.add_argument("--directory", help="where the runs lie meanwhile")
    parser.add_argument("--run", help=argparse.SUPPRESS)
    parser.add_argument("--part", choices=("prepare", "train"), help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    options = parsed()
    if options.part:
        config = settings(Path(options.run), options.steps, options.workers)
        run = Run(f"{options.run}/local")
        if options.part == "prepare":
            prepare(run, options.sizes[0], options.queries, config.catalog.image_size)
        else:
            print(json.dumps(train(config, run)))
        return
    sizes = {size: measured(size, options) for size in sorted(options.sizes)}
    smallest, largest = sizes[min(sizes)], sizes[max(sizes)]
    ratios = {
        f"{name}_ratio": round(largest[f"{name}_peak_gib"] / smallest[f"{name}_peak_gib"], 3)
        for name in ("worker", "driver")
    }
    rounded = {
        size: {name: round(value, 3) for name, value in each.items()}
        for size, each in sizes.items()
    }
    print(json.dumps({"benchmark": "training_memory", "sizes": rounded} | ratios))


if __name__ == "__main__":
    main()
