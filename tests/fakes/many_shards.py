"""A process that plans labels of a catalog of many shards, and says what that took.

    python -m tests.fakes.many_shards DIRECTORY SHARDS

The shards are manifests of 20,000 listings each and their files of id hashes, made by rule; one
more, of a few real listings, is open.
"""

import hashlib
import json
import resource
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from raypipe import config as configuration
from raypipe.attributes.schema import AttributeSchema
from raypipe.catalog.shards import Piece, SourceShard
from raypipe.labeling.catalog_labels import CatalogLabels
from raypipe.runtime.parts import PartStore
from raypipe.schemas import LABELS
from raypipe.store.artifacts import Run
from raypipe.store.id_hashes import HASH
from raypipe.store.manifest import COMMIT, Commit, CommittedPart, encode
from raypipe.store.paths import LABEL_SHARDS, SURVEYS
from tests.fakes.catalog_files import SCHEMA

ROWS = 20_000
RECIPE = "recipe"


@dataclass(frozen=True)
class ManyShards:
    """A reader of shards of which only the last has listings."""

    count: int

    def shards(self) -> list[SourceShard]:
        made = [source(number) for number in range(self.count)]
        return [*made, SourceShard("f" * 32, (Piece("real.parquet", 0, 0, 3),))]

    def names(self, piece: Piece) -> Iterator[pa.Table]:
        assert piece.path == "real.parquet", "a shard that has not changed is read"
        yield pa.table({"listing_id": ["a", "b", "c"], "vertical": ["shoe"] * 3})

    def keys(self, piece: Piece) -> Iterator[pa.Table]:
        raise AssertionError("nothing has moved")

    read = keys

    def prepare(self, block: pa.Table) -> pa.Table:
        raise AssertionError("a plan prepares nothing")

    def has_image_files(self) -> bool:
        return False


def source(number: int) -> SourceShard:
    key = hashlib.blake2b(str(number).encode(), digest_size=16).hexdigest()
    return SourceShard(key, (Piece(f"{number}.parquet", 0, 0, ROWS),))


def labels_of(run: Run, count: int) -> CatalogLabels:
    schema = AttributeSchema.from_json(SCHEMA)
    store = PartStore(run, LABEL_SHARDS, LABELS)
    config = configuration.load(None, [])
    return CatalogLabels(config, run, ManyShards(count), store, schema, "fingerprint", RECIPE)


def write(run: Run, count: int) -> None:
    """Surveys and manifests of all shards but the real one, and a label version of them."""
    labels = labels_of(run, count)
    Path(run.path(SURVEYS)).mkdir(parents=True)
    steps = np.arange(ROWS, dtype=np.uint64) * np.uint64((1 << 64) // ROWS)
    parts = []
    for number, shard in enumerate(labels.shards[:-1]):
        hashes = np.empty(ROWS, HASH)
        hashes["high"], hashes["low"] = steps + np.uint64(number), number
        content = hashes.tobytes()
        values = {"listings": ROWS, "verticals": {"shoe": ROWS}}
        values["sha256"] = hashlib.sha256(content).hexdigest()
        Path(run.path(SURVEYS, f"{shard.source.key}.ids")).write_bytes(content)
        Path(run.path(SURVEYS, f"{shard.source.key}.json")).write_text(json.dumps(values))
        name = f"{LABEL_SHARDS}/{shard.key}"
        counts = {"listings": ROWS, "carried": 0, "source": shard.source.key,
                  "fingerprint": "fingerprint", "versions": {"torch 1": 2 * ROWS}}  # fmt: skip
        commit = Commit(name, f"{number:032x}", (), 2 * ROWS, 0, {}, counts, 1.0, "attempt")
        Path(run.path(name)).mkdir(parents=True)
        Path(run.path(name, COMMIT)).write_bytes(encode(commit))
        parts.append(CommittedPart.of(commit))
    run.artifact("labels/000001/labels", LABELS).attempt({}).commit_parts(parts)


def main() -> None:
    run, count = Run(sys.argv[1]), int(sys.argv[2])
    if not Path(run.path(SURVEYS)).exists():
        write(run, count)
        return
    started = time.perf_counter()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    labels = labels_of(run, count)
    found = labels.open("labels/000002", run.artifact("labels/000001/labels", LABELS))
    took = {
        "seconds": time.perf_counter() - started,
        "grown_bytes": (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) << 10,
        "total": found.left.total,
        "left": found.left.total - found.left.done,
        "queries": found.queries(labels.schema),
    }
    sys.stdout.write(json.dumps(took))


if __name__ == "__main__":
    main()
