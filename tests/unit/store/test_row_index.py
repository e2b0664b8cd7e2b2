"""Where rows are, by their ids."""

import numpy as np
import pytest

from raypipe.schemas import LISTINGS
from raypipe.store.artifacts import Artifact, Run
from raypipe.store.row_index import RowIndex, RowPlace, keys_of
from tests.conftest import CommitRows, MakeListing

NAME = "catalog/listings"


@pytest.fixture
def listings(run: Run, commit_rows: CommitRows, make_listing: MakeListing) -> Artifact:
    """Five listings in three files, the first with two images, the others with one."""
    rows = [make_listing(f"p{number}", "pool") for number in range(5)]
    rows[0]["image_hashes"].append("another")
    commit_rows(run, NAME, LISTINGS, rows, per_file=2)
    return run.artifact(NAME, LISTINGS)


def test_every_row_is_found_where_it_is(listings: Artifact) -> None:
    index = RowIndex.of(listings)
    assert len(index) == 5
    for number in range(5):
        place = index.find(f"p{number}")
        assert place == RowPlace(number // 2, number % 2)
        table = listings.rows_of(listings.files()[number // 2], ["listing_id"])
        assert table.column("listing_id")[number % 2].as_py() == f"p{number}"


@pytest.mark.parametrize("stranger", ["", "p5", "p", "zebra"])
def test_a_row_that_is_not_there_is_not_found(listings: Artifact, stranger: str) -> None:
    assert RowIndex.of(listings).find(stranger) is None


def test_an_index_of_nothing_finds_nothing(run: Run, commit_rows: CommitRows) -> None:
    commit_rows(run, NAME, LISTINGS)
    assert RowIndex.of(run.artifact(NAME, LISTINGS)).find("p0") is None
    assert len(RowIndex.merged([])) == 0


def test_parts_of_the_files_make_the_index_of_all(listings: Artifact) -> None:
    numbered = list(enumerate(listings.files()))
    parts = [RowIndex.of(listings, numbered[2:]), RowIndex.of(listings, numbered[:2])]
    merged, whole = RowIndex.merged(parts), RowIndex.of(listings)
    for name in ("keys", "files", "rows", "lengths"):
        assert np.array_equal(getattr(merged, name), getattr(whole, name))


def test_lengths_of_a_list_are_kept(listings: Artifact) -> None:
    index = RowIndex.of(listings, length_of="image_hashes")
    assert index.find("p0") == RowPlace(0, 0, 2)
    assert index.find("p4") == RowPlace(2, 0, 1)


def test_keys_are_64_bits_and_tell_ids_apart() -> None:
    keys = keys_of(f"listing-{number}" for number in range(1000))
    assert (keys.dtype, len(set(keys.tolist()))) == (np.uint64, 1000)
    assert keys_of([]).shape == (0,)
