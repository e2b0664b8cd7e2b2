"""``kill -9`` of prepare half-way: the same command decodes only what was not done."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from raypipe.catalog import stage
from raypipe.store.artifacts import Run
from tests.fakes.catalog_files import CatalogFiles

ROOT = Path(__file__).resolve().parents[2]
LISTINGS = 96
SLICE_ROWS = 6
SCRIPT = """
import json, sys, time
from raypipe.catalog import prepared, prepared_slices, stage
from raypipe.config import resolve
from raypipe.store.artifacts import Run

config, directory, diary = sys.argv[1:]
prepare = prepared.prepare_listing

def note(row, **options):
    with open(diary, "a") as file:
        file.write(row["listing_id"] + "\\n")
    time.sleep(0.01)
    return prepare(row, **options)

prepared.prepare_listing = note
prepared_slices.SLICE_ROWS = 6
stage.run(resolve(json.loads(config)), Run(directory))
"""


def noted(diary: Path) -> list[str]:
    return diary.read_text().split() if diary.exists() else []


def start(shop: CatalogFiles, run: Run, diary: Path) -> subprocess.Popen[bytes]:
    config = shop.config().model_dump_json()
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT, config, run.location, str(diary)],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )


def kill_half_way(shop: CatalogFiles, run: Run, diary: Path) -> None:
    job = start(shop, run, diary)
    deadline = time.monotonic() + 120
    while len(noted(diary)) < LISTINGS // 2:
        assert job.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.005)
    job.send_signal(signal.SIGKILL)
    job.wait()


def test_a_killed_preparation_decodes_only_what_was_missing(tmp_path: Path) -> None:
    shop = CatalogFiles(tmp_path / "shop")
    for index in range(LISTINGS):
        shop.add(f"L{index:02}", index)
    shop.seed["L00"] = shop.truth["L90"] = []
    shop.listings[40]["group_id"] = shop.listings[90]["group_id"] = "leak"
    shop.write()
    run, whole = Run(str(tmp_path / "run")), Run(str(tmp_path / "whole"))
    kill_half_way(shop, run, tmp_path / "first")
    assert run.artifact("catalog/listings").commit() is None
    records = list(Path(run.path("catalog/listings/files")).rglob("*.json"))
    done = sum(int(path.stem.rpartition("-")[2]) for path in records)
    assert LISTINGS // 2 - 2 * SLICE_ROWS < done < LISTINGS
    assert start(shop, run, tmp_path / "second").wait(120) == 0
    again = noted(tmp_path / "second")
    assert len(again) == len(set(again)) == LISTINGS - done
    expected = stage.run(shop.config(), whole)
    commit = run.artifact("catalog/listings").require_commit()
    assert (commit.digest, commit.counts) == (expected.digest, expected.counts)
    assert commit.counts["refused"] == {"leakage": 1}
    files = {Path(run.path(commit.artifact, file.path)) for file in commit.files}
    rows = pa.concat_tables(pq.read_table(path) for path in files if "/data/" in str(path))
    assert len(set(rows.column("listing_id").to_pylist())) == len(rows) == LISTINGS - 1
