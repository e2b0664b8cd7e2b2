"""Labels in shards survive what kills their driver: nothing is lost, doubled or paid for twice."""

from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raypipe.catalog import shards
from raypipe.labeling.label_versions import label_versions
from raypipe.schemas import LABELS
from raypipe.store.artifacts import Run
from raypipe.store.paths import LABEL_SHARDS
from tests.fakes.catalog_files import LISTINGS, photo
from tests.fakes.label_process import (
    LEAST_ROWS,
    MOST_ROWS,
    SHARD_ROWS,
    labeled_catalog,
    started,
)

pytestmark = pytest.mark.engine
NUM_LISTINGS, PER_FILE = 48, 12
QUERIES = 2
CHAINS = 2


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """A catalog of four files, which are four shards."""
    directory = tmp_path / "shop"
    directory.mkdir()
    for first in range(0, NUM_LISTINGS, PER_FILE):
        rows = [
            {"listing_id": f"L{number:03}", "vertical": "shoe", "images": [photo(number)]}
            for number in range(first, first + PER_FILE)
        ]
        table = pa.Table.from_pylist(rows, schema=LISTINGS)
        pq.write_table(table, directory / f"{first:03}.parquet", row_group_size=5)
    return directory


def label(tmp_path: Path, shop: Path, *arguments: str) -> int:
    log = tmp_path / "log.txt"
    process = started(
        str(tmp_path / "run"), str(shop), str(tmp_path / "asked"), *arguments, log=log
    )
    code = process.wait(240)
    if code > 0:
        pytest.fail(log.read_text())
    return code


def check(run: Run) -> str:
    """Every listing came out once; the digest of its labels."""
    artifact = run.artifact(f"{label_versions(run)[-1]}/labels", LABELS)
    ids = artifact.read(["listing_id"]).column("listing_id").to_pylist()
    assert Counter(ids) == {f"L{number:03}": QUERIES for number in range(NUM_LISTINGS)}
    parts = artifact.require_commit().parts
    assert len(parts) == NUM_LISTINGS // PER_FILE
    return ",".join(sorted(part.digest for part in parts))


def asked(tmp_path: Path) -> list[str]:
    return (tmp_path / "asked").read_text().splitlines()


@pytest.fixture
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    """In this process as in the others."""
    for name, rows in (
        ("SHARD_ROWS", SHARD_ROWS),
        ("LEAST_ROWS", LEAST_ROWS),
        ("MOST_ROWS", MOST_ROWS),
    ):
        monkeypatch.setattr(shards, name, rows)


@pytest.mark.usefixtures("local_ray", "small_shards")
def test_killed_within_a_shards_commit_and_before_the_whole_commit(
    tmp_path: Path, shop: Path
) -> None:
    run = Run(str(tmp_path / "run"))
    assert label(tmp_path, shop, "--killed-at", "shard") == -9
    assert run.artifact("labels/000001/labels").commit() is None
    begun = len(set(asked(tmp_path)))
    assert label(tmp_path, shop, "--killed-at", "root") == -9
    assert run.artifact("labels/000001/labels").commit() is None
    assert len(list(Path(run.path(LABEL_SHARDS)).glob("*/_COMMIT.json"))) == 4
    assert label(tmp_path, shop) == 0
    digests = check(run)
    counted = Counter(asked(tmp_path))
    again = [name for name, count in counted.items() if count > QUERIES]
    assert len(again) <= NUM_LISTINGS - begun + 2 * 3 * 3, "what was written is not asked again"
    leftovers = [
        path
        for path in Path(run.path(LABEL_SHARDS)).rglob("*.parquet")
        if str(path) not in run.artifact("labels/000001/labels", LABELS).paths()
    ]
    assert leftovers == []
    untouched = Run(str(tmp_path / "untouched"))
    labeled_catalog(untouched.location, str(shop), tmp_path / "asked again").label()
    assert check(untouched) == digests


def test_of_two_drivers_at_once_one_labels(tmp_path: Path, shop: Path) -> None:
    arguments = (str(tmp_path / "run"), str(shop), str(tmp_path / "asked"), "--seconds", "0.5")
    logs = [tmp_path / f"log-{number}.txt" for number in range(2)]
    processes = [started(*arguments, log=log) for log in logs]
    codes = [process.wait(300) for process in processes]
    assert codes == [0, 0], "\n".join(log.read_text() for log in logs)
    check(Run(str(tmp_path / "run")))
    assert set(Counter(asked(tmp_path)).values()) == {QUERIES}
    digests = {log.read_text().splitlines()[-1].split()[0] for log in logs}
    assert len(digests) == 1
