"""Single rows, read on demand, and how much of what was read is kept."""

import random
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from raypipe.errors import ArtifactError
from raypipe.schemas import LISTINGS
from raypipe.store import parquet
from raypipe.store.artifacts import Artifact, Run
from raypipe.store.row_reader import RowReader
from tests.conftest import CommitRows, MakeListing

NAME = "catalog/listings"
COLUMNS = ["listing_id", "images"]
LARGE = 400_000  # bytes of an image: a file of 12 is larger than a mebibyte


def picture(number: int, size: int) -> bytes:
    """Bytes that compress to nearly nothing less."""
    return random.Random(number).randbytes(size)


@pytest.fixture
def large(run: Run, commit_rows: CommitRows, make_listing: MakeListing) -> Artifact:
    """12 listings in a file that is read by row groups, 3 in one that is read whole."""
    rows = [
        make_listing(f"p{number:02}", "pool")
        | {"images": [picture(number, LARGE if number < 12 else 10)]}
        for number in range(15)
    ]
    commit_rows(run, NAME, LISTINGS, rows, per_file=12)
    return run.artifact(NAME, LISTINGS)


@pytest.mark.parametrize("max_bytes", [0, 1 << 30])
def test_any_row_of_any_file_comes_back(large: Artifact, max_bytes: int) -> None:
    reader = RowReader(large, COLUMNS, max_bytes)
    for number in (7, 0, 11, 14, 3, 12, 3, 7):
        row = reader.row(number // 12, number % 12, f"p{number:02}")
        size = LARGE if number < 12 else 10
        [found] = row.to_pylist()
        assert found == {"listing_id": f"p{number:02}", "images": [picture(number, size)]}


def test_a_row_of_a_large_file_is_read_with_its_neighbours_only(large: Artifact) -> None:
    path = large.paths()[0]
    sizes = [
        pq.ParquetFile(path).metadata.row_group(at).num_rows
        for at in range(pq.ParquetFile(path).num_row_groups)
    ]
    assert sum(sizes) == 12
    assert max(sizes) < 12
    first, rows, table = parquet.read_group(path, large.run.filesystem, COLUMNS, 11)
    assert (first, rows, len(table)) == (sum(sizes[:-1]), 12, sizes[-1])


@pytest.mark.parametrize(("max_bytes", "reads"), [(0, 4), (1 << 30, 2)])
def test_what_was_read_is_kept_within_the_limit(
    large: Artifact, monkeypatch: pytest.MonkeyPatch, max_bytes: int, reads: int
) -> None:
    counted = []
    read_group = parquet.read_group

    def counting(*arguments: object) -> object:
        counted.append(arguments)
        return read_group(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(parquet, "read_group", counting)
    reader = RowReader(large, COLUMNS, max_bytes)
    for row in (0, 0, 11, 0, 0, 11):
        reader.row(0, row)
    assert len(counted) == reads


@pytest.mark.parametrize(("file", "row"), [(0, 12), (2, 0), (0, -1), (-1, 0)])
def test_a_row_that_is_not_there_is_refused(large: Artifact, file: int, row: int) -> None:
    with pytest.raises(ArtifactError, match=rf"{NAME} has no row {row} in its file {file}"):
        RowReader(large, COLUMNS, 0).row(file, row)


@pytest.mark.parametrize(("file", "row"), [(0, 1), (2, 0)])
def test_a_row_of_another_id_is_refused_with_a_remedy(large: Artifact, file: int, row: int) -> None:
    with pytest.raises(ArtifactError, match=r"does not hold 'p00' where it was; delete"):
        RowReader(large, COLUMNS, 0).row(file, row, "p00")


@pytest.mark.parametrize("number", [0, 1])
def test_a_damaged_file_is_refused_by_name(large: Artifact, number: int) -> None:
    path = Path(large.paths()[number])
    content = bytearray(path.read_bytes())
    content[100] ^= 1  # in the pages of the first rows
    path.write_bytes(content)
    reader = RowReader(large, COLUMNS, 0)
    with pytest.raises(ArtifactError, match=f"{path.name} is missing or corrupt"):
        reader.row(number, 0)


def test_a_file_that_is_gone_is_refused_by_name(large: Artifact) -> None:
    path = Path(large.paths()[0])
    reader = RowReader(large, COLUMNS, 0)
    path.unlink()
    with pytest.raises(ArtifactError, match=f"{path.name} is missing or corrupt"):
        reader.row(0, 0)
