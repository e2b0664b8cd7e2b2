"""``jobs/prepare.py`` on files that would run code: exit codes, and what is told."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from raypipe.config import Config
from tests.fakes.pickle_payloads import OBJECT, TENSOR_V2, add_column, add_field, hostile, nested

ROOT = Path(__file__).resolve().parents[3]
# As a process that has made other things with Ray Data before.
WITH_RAY = (
    "import ray.data, sys; from raypipe.cli.jobs import main; sys.exit(main('prepare', None))"
)


def prepared(shop: Any, how: list[str], **environment: str) -> subprocess.CompletedProcess[str]:
    config: Config = shop.config()
    names = ("listings", "attribute_schema", "seed", "truth")
    places = [f"catalog.{name}={getattr(config.catalog, name)}" for name in names]
    runs = f"run.directory={shop.directory / 'runs'}"
    return subprocess.run(
        [sys.executable, *how, "catalog.embedded=null", *places, "catalog.image_size=28", runs],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(
    ("how", "kind", "name"),
    [
        (["jobs/prepare.py"], OBJECT, "truth"),
        (["-c", WITH_RAY], OBJECT, "listings"),
        (["-c", WITH_RAY], TENSOR_V2, "truth"),
    ],
    ids=["alone", "object with Ray", "tensor with Ray"],
)
def test_prepare_names_the_column_and_exits_3(shop, how, kind, name):
    shop.write()
    path, canary = shop.directory / f"{name}.parquet", shop.directory / "ran"
    if name == "listings":
        column = "note.x"
        add_column(path, "note", nested(hostile(canary, 12, kind), "large list of structs"))
    else:
        column = "answers.note"
        count = len(pq.read_table(path).column("answers").combine_chunks().flatten())
        add_field(path, "answers", "note", hostile(canary, count, kind))
    done = prepared(shop, how)
    assert done.returncode == 3, done.stderr
    assert f"{name}.parquet: the column '{column}' is of the extension type" in done.stderr
    assert "Traceback" not in done.stderr
    assert not canary.exists()


def test_prepare_reads_nothing_while_ray_is_told_to_unpickle(shop):
    given = {"RAY_DATA_AUTOLOAD_CLOUDPICKLE_TENSOR_METADATA": "1"}
    shop.write()
    add_column(
        shop.directory / "listings.parquet", "note", hostile(shop.directory / "ran", 12, TENSOR_V2)
    )
    done = prepared(shop, ["-c", WITH_RAY], **given)
    assert done.returncode == 2, done.stderr
    assert next(iter(given)) in done.stderr
    assert not (shop.directory / "ran").exists()
