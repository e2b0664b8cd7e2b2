"""A catalog labeled shard by shard: what is read, asked, kept and refused."""

from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raypipe import config as configuration
from raypipe.attributes.schema import AttributeSchema
from raypipe.catalog import shards
from raypipe.errors import InputError
from raypipe.store.artifacts import Run
from tests.fakes.catalog_files import LISTINGS, SCHEMA, photo
from tests.fakes.labeled_catalog import LabeledCatalog

pytestmark = [pytest.mark.engine, pytest.mark.usefixtures("local_ray")]
SHOP = AttributeSchema.from_json(SCHEMA)
WriteFile = Callable[[str, range], None]


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each file of eight listings or more is a shard."""
    monkeypatch.setattr(shards, "SHARD_ROWS", 12)
    monkeypatch.setattr(shards, "LEAST_ROWS", 8)
    monkeypatch.setattr(shards, "MOST_ROWS", 24)


@pytest.fixture
def write(tmp_path: Path) -> WriteFile:
    def write(name: str, numbers: range) -> None:
        rows = [
            {"listing_id": f"L{number:03}", "vertical": "shoe", "images": [photo(number)]}
            for number in numbers
        ]
        path = tmp_path / "shop" / f"{name}.parquet"
        path.parent.mkdir(exist_ok=True)
        pq.write_table(pa.Table.from_pylist(rows, schema=LISTINGS), path, row_group_size=4)

    return write


@pytest.fixture
def shop(run: Run, tmp_path: Path) -> LabeledCatalog:
    config = configuration.load(
        None,
        ["catalog.image_size=28", "catalog.max_quarantined=0.2", "sampling.num_chains=2",
         "sampling.listings_per_call=5", "sampling.num_actors=1"],
    )  # fmt: skip
    return LabeledCatalog(run, config, SHOP, str(tmp_path / "shop"), tmp_path / "asked")


def test_a_catalog_is_labeled_in_shards_and_what_is_unchanged_is_not_read(
    shop: LabeledCatalog, write: WriteFile
) -> None:
    write("a", range(0, 12))
    write("b", range(12, 24))
    commit, asked = shop.label()
    assert (len(commit.parts), len(asked), commit.rows) == (2, 24, 48)
    assert {row["listing_id"] for row in shop.rows(commit)} == {f"L{n:03}" for n in range(24)}
    again, asked = shop.label()
    assert (again.digest, asked) == (commit.digest, [])
    write("c", range(24, 36))
    more, asked = shop.label()
    assert (len(more.parts), len(asked), more.counts["carried"]) == (3, 12, 24)
    assert all(part in more.parts for part in commit.parts)
    write("b", range(10, 24))
    with pytest.raises(InputError, match=r"'L01[01]' is there twice.*a.parquet.*b.parquet"):
        shop.label()
    write("b", range(13, 26))
    with pytest.raises(InputError, match=r"is there twice"):
        shop.label()
    write("c", range(26, 36))
    moved, asked = shop.label()
    assert asked == []
    assert len({row["listing_id"] for row in shop.rows(moved)}) == 35
    assert moved.counts["carried"] == 35


def write_rows(shop: LabeledCatalog, name: str, rows: list[dict[str, object]]) -> None:
    path = Path(shop.location) / f"{name}.parquet"
    path.parent.mkdir(exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows, schema=LISTINGS), path, row_group_size=4)


def test_a_catalog_without_rows_and_one_of_refused_rows_are_labeled(shop: LabeledCatalog) -> None:
    write_rows(shop, "empty", [])
    commit, asked = shop.label()
    assert (commit.rows, commit.counts["listings"], asked) == (0, 0, [])
    shop.config = shop.config.model_copy(
        update={"catalog": shop.config.catalog.model_copy(update={"max_quarantined": 1.0})}
    )
    bad = [{"listing_id": f"B{n}", "vertical": "shoe", "images": [b"no"]} for n in range(9)]
    write_rows(shop, "größe 42 – copy", bad)
    commit, asked = shop.label()
    assert (commit.rows, commit.quarantined, asked) == (0, 9, [])
    again, _ = shop.label()
    assert again.digest == commit.digest


def test_rows_without_ids_in_several_files_are_refused_each(
    shop: LabeledCatalog, write: WriteFile
) -> None:
    write("good", range(40))
    for name in ("a", "b"):
        write_rows(shop, name, [{"listing_id": None, "vertical": "shoe", "images": [photo(1)]}] * 2)
    commit, asked = shop.label()
    assert (commit.quarantined, len(asked)) == (4, 40)
    assert {reason.split()[0] for reason in shop.refused(commit).values()} == {"bad_id"}
    assert commit.counts["listings"] == 44


def test_an_id_that_is_twice_in_a_file_is_named_before_an_engine_starts(
    shop: LabeledCatalog, write: WriteFile
) -> None:
    write("good", range(10))
    row = {"listing_id": "twice", "vertical": "shoe", "images": [photo(1)]}
    write_rows(shop, "z", [row, *({**row, "listing_id": f"M{n}"} for n in range(11)), row])
    with pytest.raises(InputError, match=r"z\.parquet: the listing_id 'twice' is there twice"):
        shop.label()
    assert not shop.diary.exists()
