"""Peak memory of the driver and seconds of ``prepare`` at a number of listings.

    python benchmarks/prepare_memory.py 10000 [--ray]

Listings have one photo of 64 pixels each. The last line is JSON.
"""

import argparse
import io
import json
import resource
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from raypipe.catalog import stage
from raypipe.config import resolve
from raypipe.runtime.cluster import ray_session
from raypipe.store.artifacts import Run

_ROWS_PER_FILE = 5_000
_NAMED = 200
_SCHEMA = "- {vertical: shoe, attribute: color, description: Its color., values: [Red, Blue]}\n"


def main() -> None:
    """Write a catalog, prepare it, and print what that took."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("listings", type=int)
    parser.add_argument("--ray", action="store_true", help="in the tasks of a Ray session")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="raypipe-benchmark-") as name:
        directory = Path(name)
        _write_catalog(directory, given.listings)
        before = _peak_mib()
        config = resolve(
            {
                "catalog": {
                    "embedded": None,
                    "image_size": 56,
                    "listings": str(directory / "listings"),
                    "attribute_schema": str(directory / "schema.yaml"),
                    "seed": str(directory / "seed.parquet"),
                    "truth": str(directory / "truth.parquet"),
                }
            }
        )
        started = time.monotonic()
        run = Run(str(directory / "run"))
        if given.ray:
            with ray_session(config.cluster):
                rows = stage.run(config, run).rows
        else:
            rows = stage.run(config, run).rows
        values = {
            "listings": rows,
            "seconds": round(time.monotonic() - started, 1),
            "peak_mib": round(_peak_mib()),
            "peak_before_mib": round(before),
        }
    print(json.dumps(values))


def _peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _write_catalog(directory: Path, count: int) -> None:
    (directory / "listings").mkdir()
    (directory / "schema.yaml").write_text(_SCHEMA)
    numbers = np.random.default_rng(0)
    for first in range(0, count, _ROWS_PER_FILE):
        rows = [
            {"listing_id": f"L{index:08}", "vertical": "shoe", "images": [_photo(numbers)]}
            for index in range(first, min(first + _ROWS_PER_FILE, count))
        ]
        table = pa.Table.from_pylist(rows)
        pq.write_table(table, directory / "listings" / f"{first:08}.parquet", row_group_size=1000)
    ids = [f"L{index:08}" for index in range(_NAMED)]
    answers = {"seed": ("reasoning", "answer"), "truth": ("value",)}
    for place, (name, fields) in enumerate(answers.items()):
        answer = {"attribute": "color"} | dict.fromkeys(fields, "Red")
        rows = [{"listing_id": one, "answers": [answer]} for one in ids[place::2]]
        pq.write_table(pa.Table.from_pylist(rows), directory / f"{name}.parquet")


def _photo(numbers: np.random.Generator) -> bytes:
    stream = io.BytesIO()
    pixels = numbers.integers(0, 255, (8, 8, 3), dtype=np.uint8)
    Image.fromarray(pixels).resize((64, 64)).save(stream, "JPEG")
    return stream.getvalue()


if __name__ == "__main__":
    main()
