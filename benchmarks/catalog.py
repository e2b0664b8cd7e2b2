"""Labeling a catalog of a hundred thousand, a million and a hundred million listings.

``label`` is called as a user calls it, but for the engine, which is scripted (see
benchmarks/catalog_job.py): it is killed at a quarter and called again, then again with nothing
changed, with one source file of a hundred changed, with one listing of a hundred changed in every
file, and at another precision. Every call is a process and a Ray session of its own. What the whole
costs is the resumed call's time for each listing that was left, times all listings. The hundred
million are the manifests of 5,000 shards with their files of id hashes, of which one is real.

    python benchmarks/catalog.py                 all of it; under 50 minutes on two cores
    python benchmarks/catalog.py --sizes 5000 20000 --shards 200 --s3 0

Times of a call begin where ``label`` has its Ray session, but for ``resume_s``, which is from the
start of the process to the first new chain. The last line:

    {"benchmark": "catalog", "driver_bytes_per_listing": x, …}
"""

import argparse
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq
from catalog_job import OVERRIDES
from PIL import Image
from scale import Memory

from raypipe import config as configuration
from raypipe.labeling.driver import LabelingDriver
from raypipe.labeling.label_shards import LabelShard
from raypipe.labeling.label_versions import label_versions
from raypipe.runtime.console import Console
from raypipe.schemas import LABELS
from raypipe.store.artifacts import Run
from raypipe.store.id_hashes import HASH, Hashes, hash_ids, joined, order
from raypipe.store.manifest import COMMIT, Commit, CommittedPart, encode
from raypipe.store.paths import LABEL_SHARDS, SURVEYS

VERTICAL, QUERIES = "sari", 3
FILES = 100
SHARD_ROWS = 20_000
LATENCY_S = 0.02
CALL_S = 3000
_JOB = Path(__file__).with_name("catalog_job.py")


def photo(number: int) -> bytes:
    """A JPEG of 64 pixels."""
    shades = np.random.default_rng(number).integers(0, 255, (4, 4, 3), dtype=np.uint8)
    stream = BytesIO()
    Image.fromarray(shades).resize((64, 64)).save(stream, "JPEG")
    return stream.getvalue()


PHOTOS = [photo(number) for number in range(512)]


def rows(first: int, count: int, salt: int = 0) -> pa.Table:
    """Listings with one embedded photo each."""
    return pa.table(
        {
            "listing_id": [f"listing-{number:09d}" for number in range(first, first + count)],
            "vertical": [VERTICAL] * count,
            "images": [[PHOTOS[(number + salt) % 512]] for number in range(first, first + count)],
        },
        schema=pa.schema(
            [
                ("listing_id", pa.string()),
                ("vertical", pa.string()),
                ("images", pa.list_(pa.binary())),
            ]
        ),
    )


def write_catalog(directory: Path, size: int) -> None:
    directory.mkdir(parents=True)
    per_file = size // FILES
    for number in range(FILES):
        write_file(directory, number, rows(number * per_file, per_file))


def write_file(directory: Path, number: int, table: pa.Table) -> None:
    pq.write_table(table, directory / f"part-{number:04d}.parquet", row_group_size=1000)


class Calls:
    """Calls of ``label`` on one run.

    Args:
        run: location of the run.
        catalog: location of the catalog.
        scratch: a local directory for reports.
        environment: further variables.
    """

    def __init__(
        self, run: str, catalog: str, scratch: Path, environment: dict[str, str] | None = None
    ) -> None:
        self.run, self.catalog = run, catalog
        self.environment = os.environ | (environment or {})
        self.peak = 0
        self._scratch = scratch
        self._count = 0

    def __call__(self, *overrides: str, kill_at: int | None = None) -> dict[str, Any]:
        """What a call reports; with ``kill_at`` it is killed once so many listings are done."""
        self._count += 1
        report = self._scratch / f"call-{self._count}.json"
        command = [sys.executable, str(_JOB), self.run, self.catalog]
        with report.with_suffix(".log").open("w") as log, Memory() as memory:
            process = subprocess.Popen(
                [*command, str(report), *overrides],
                env=self.environment,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            if kill_at is not None:
                self._kill(process, kill_at)
            process.wait(CALL_S)
        self.peak = max(self.peak, memory.peak)
        if kill_at is not None:
            return {}
        values: dict[str, Any] = json.loads(report.read_text())
        print(json.dumps({"call": " ".join(overrides) or "label", **values}), flush=True)
        return values

    def _kill(self, process: subprocess.Popen[bytes], listings: int) -> None:
        """Kill the driver and all that it has started, once so many listings are labeled."""
        root = Path(self.run, LABEL_SHARDS)
        while process.poll() is None and _labeled(root) < listings:
            time.sleep(1.0)
        for child in psutil.Process(process.pid).children(recursive=True):
            child.kill()
        process.send_signal(signal.SIGKILL)


def _labeled(root: Path) -> int:
    """About how many listings are labeled."""
    whole = sum(1 for _ in root.glob("*/_COMMIT.json"))
    return whole * SHARD_ROWS // 2 + 128 * sum(1 for _ in root.glob("*/data/*/*.parquet"))


def label_files(run: str) -> set[str]:
    """The files of labels in a run."""
    return {str(path) for path in Path(run, LABEL_SHARDS).rglob("*.parquet")}


def measure_rows(size: int, place: Path) -> dict[str, Any]:
    """A catalog of so many listings on a local disk."""
    write_catalog(place / "catalog", size)
    calls = Calls(str(place / "run"), str(place / "catalog"), place)
    per_file = size // FILES
    calls(kill_at=size // 4)
    resumed = calls("traced")
    found: dict[str, Any] = {name: resumed[name] for name in ("live_bytes", "block_stats")}
    found["resume_s"] = resumed["first_chain_s"]
    counts = last_labels(calls.run).counts
    left = size - counts["carried"] - counts["salvaged"]
    found["listings_per_s"] = left / resumed["call_s"]
    found["whole_s"] = size / found["listings_per_s"]
    found["peak"] = calls.peak
    again = calls()
    found["repeat_s"], found["repeat_rss"] = again["call_s"], again["peak_rss"]
    before = label_files(calls.run)
    found["precision_s"] = calls("labeling.precision=0.3")["call_s"]
    assert label_files(calls.run) == before, "another precision has written labels"
    write_file(place / "catalog", 50, rows(50 * per_file, per_file, salt=1))
    found["changed_s"] = calls()["call_s"]
    for number in range(FILES):
        first_row = number * per_file
        table = rows(first_row, per_file, salt=1 if number == 50 else 0)
        few = max(1, per_file // 100)
        changed = pa.concat_tables([rows(first_row, few, salt=2), table.slice(few)])
        write_file(place / "catalog", number, changed)
    found["scattered_s"] = calls()["call_s"]
    labels = last_labels(calls.run)
    assert (labels.counts["listings"], labels.rows) == (size, size * QUERIES), labels.counts
    return found


def last_labels(location: str) -> Commit:
    """The labels of the last label version of a run."""
    run = Run(location)
    return run.artifact(f"{label_versions(run)[-1]}/labels", LABELS).require_commit()


def measure_requests(size: int, place: Path) -> float:
    """Requests a listing of a catalog and a run in a slow object store, which the tests bring."""
    from tests.fakes.s3_server import S3Server

    class SlowServer(S3Server):
        def _serve(self, request: dict[str, Any], respond: Any) -> Any:
            time.sleep(LATENCY_S)
            return super()._serve(request, respond)

    with ExitStack() as stack:
        server = SlowServer()
        stack.callback(server.close)
        os.environ.update(server.environment)
        write_catalog(place / "catalog", size)
        filesystem, path = pafs.FileSystem.from_uri("s3://bucket/catalog")
        for file in sorted((place / "catalog").iterdir()):
            with filesystem.open_output_stream(f"{path}/{file.name}") as stream:
                stream.write(file.read_bytes())
        before = server.answered.total()
        calls = Calls("s3://bucket/run", "s3://bucket/catalog", place, server.environment)
        values = calls()
        assert "error" not in values, values
        return (server.answered.total() - before) / size


def measure_shards(count: int, place: Path) -> dict[str, Any]:
    """The manifests of many shards of 20,000 listings, of which one is real."""
    catalog, run = place / "catalog", Run(str(place / "run"))
    catalog.mkdir(parents=True)
    write_file(catalog, 0, rows(0, SHARD_ROWS))
    calls = Calls(run.location, str(catalog), place)
    calls()  # the calibration, and the labels of the one real shard
    version = label_versions(run)[-1]
    labels = run.artifact(f"{version}/labels", LABELS)
    (real,) = labels.require_commit().parts
    for number in range(1, count):
        os.link(catalog / "part-0000.parquet", catalog / f"part-{number:04d}.parquet")
    _write_shards(run, label_shards(calls), real)
    compared = calls()  # 100 million ids with each other, and their labels are counted
    assert "error" not in compared, compared
    assert "first_chain_s" not in compared, compared
    found: dict[str, Any] = {}
    again = calls()
    assert "error" not in again, again
    found["repeat_s"], found["repeat_rss"] = again["call_s"], again["peak_rss"]
    (catalog / "part-0000.parquet").unlink()
    write_file(catalog, 0, rows(0, SHARD_ROWS, salt=1))
    changed = calls()
    assert "error" not in changed, changed
    found["resume_s"], found["peak_rss"] = changed["first_chain_s"], changed["peak_rss"]
    (catalog / "part-0000.parquet").unlink()
    write_file(catalog, 0, rows(0, SHARD_ROWS, salt=2))
    other = label_shards(calls)[count // 2]
    hashes = np.frombuffer(run.read(f"{SURVEYS}/{other.source.key}.ids") or b"", HASH)
    planted = hash_ids(pa.array(["listing-000000077"]))
    _write_survey(run, other, joined([hashes[1:], planted]))
    refused = calls()
    assert "is there twice" in refused["error"], refused
    assert "first_chain_s" not in refused, "an engine has started"
    return found


def _write_shards(run: Run, shards: Sequence[LabelShard], real: CommittedPart) -> None:
    """Surveys and labels of shards, whose ids are random and whose labels those of a real one."""
    commit = run.artifact(real.name, LABELS).require_commit()
    random = np.random.default_rng(1)
    for shard in shards:
        name = f"{LABEL_SHARDS}/{shard.key}"
        if name == real.name:
            continue
        hashes = np.frombuffer(random.bytes(SHARD_ROWS * HASH.itemsize), HASH)
        _write_survey(run, shard, hashes)
        for file in commit.files:
            target = Path(run.path(name, file.path))
            target.parent.mkdir(parents=True)
            os.link(run.path(real.name, file.path), target)
        counts = commit.counts | {"source": shard.source.key}
        run.create(f"{name}/{COMMIT}", encode(replace(commit, artifact=name, counts=counts)))


def _write_survey(run: Run, shard: LabelShard, hashes: Hashes) -> None:
    content = hashes[order(hashes)].tobytes()
    values = {
        "listings": SHARD_ROWS,
        "verticals": {VERTICAL: SHARD_ROWS},
        "sha256": hashlib.sha256(content).hexdigest(),
    }
    Path(run.path(SURVEYS)).mkdir(exist_ok=True)
    Path(run.path(SURVEYS, f"{shard.source.key}.ids")).write_bytes(content)
    Path(run.path(SURVEYS, f"{shard.source.key}.json")).write_text(json.dumps(values))


def label_shards(calls: Calls) -> list[LabelShard]:
    """The shards that ``label`` makes of a catalog."""
    directory, _, name = calls.run.rpartition("/")
    own = [f"run.directory={directory}", f"run.name={name}", f"labeling.listings={calls.catalog}"]
    config = configuration.load(None, [*OVERRIDES, *own])
    return LabelingDriver(config, Run(calls.run), Console()).catalog.shards


def main() -> None:
    """Measure, and print what came out."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, nargs=2, default=[100_000, 1_000_000])
    parser.add_argument("--shards", type=int, default=5000)
    parser.add_argument("--s3", type=int, default=100_000, help="listings in the object store")
    parser.add_argument("--directory", type=Path, default=Path(tempfile.gettempdir()))
    arguments = parser.parse_args()
    sizes = sorted(arguments.sizes)
    with tempfile.TemporaryDirectory(prefix="raypipe-catalog-", dir=arguments.directory) as place:
        measured = {size: measure_rows(size, Path(place, str(size))) for size in sizes}
        for size in sizes:
            shutil.rmtree(Path(place, str(size)))
            print(json.dumps({"listings": size, **measured[size]}), flush=True)
        many = measure_shards(arguments.shards, Path(place, "shards"))
        print(json.dumps({"shards": arguments.shards, **many}), flush=True)
        shutil.rmtree(Path(place, "shards"))
        requests = measure_requests(arguments.s3, Path(place, "s3")) if arguments.s3 else None
    small, large = (measured[size] for size in sizes)
    more_rows, more = sizes[1] - sizes[0], arguments.shards * SHARD_ROWS - sizes[1]
    slopes = {
        "rows": (large["live_bytes"] - small["live_bytes"]) / more_rows,
        "rows, Ray's statistics of blocks": (large["block_stats"] - small["block_stats"])
        / more_rows,
        "manifests": (many["repeat_rss"] - large["repeat_rss"]) / more,
    }
    print(json.dumps({"driver_bytes_per_listing": slopes}))
    names = [f"{size:.0e}".replace("+0", "") for size in (sizes[1], arguments.shards * SHARD_ROWS)]
    summary = {
        "benchmark": "catalog",
        "driver_bytes_per_listing": round(max(slopes["rows"], slopes["manifests"]), 2),
        "resume_s": {names[0]: large["resume_s"], names[1]: many["resume_s"]},
        "repeat_s": {names[0]: large["repeat_s"], names[1]: many["repeat_s"]},
        "changed_cost_ratio": round(large["changed_s"] / large["whole_s"], 3),
        "scattered_cost_ratio": round(large["scattered_s"] / large["whole_s"], 3),
        "precision_cost_s": {names[0]: large["precision_s"]},
        "listings_per_s": round(large["listings_per_s"], 1),
        "s3_requests_per_listing": requests and round(requests, 4),
        "peak_memory_ratio": round(large["peak"] / small["peak"], 3),
    }
    print(json.dumps(summary))


if __name__ == "__main__":
    main()
