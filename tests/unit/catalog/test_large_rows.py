"""Row groups whose images are more than Arrow reads at once."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raypipe.catalog import record_batches
from raypipe.catalog.sources import LISTINGS_COLUMNS, Source, open_source


def written(path: Path, count: int, image: bytes) -> Source:
    """Listings of one image each, which is in the file once."""
    once = pa.DictionaryArray.from_arrays(pa.array([0] * count, pa.int32()), pa.array([image]))
    images = pa.ListArray.from_arrays(list(range(count + 1)), once)
    ids = [f"L{number:04}" for number in range(count)]
    table = pa.table({"listing_id": ids, "vertical": ["shoe"] * count, "images": images})
    pq.write_table(table, path, compression="zstd", row_group_size=count)
    return open_source(str(path), LISTINGS_COLUMNS)


def test_images_of_more_than_2_gib_in_one_row_group_are_read(tmp_path: Path):
    source = written(tmp_path / "listings.parquet", 256, bytes(9 << 20))
    pieces = [piece for shard in source.shards() for piece in shard.pieces]
    count = 0
    for table in source.read_piece(pieces[0], ("listing_id", "images"), 256):
        assert table.nbytes <= record_batches.MAX_TABLE_BYTES + (16 * 10 << 20)
        count += len(table)
    assert count == 256


@pytest.mark.parametrize("rows", [1, 3, 16, 20, 64, 100])
@pytest.mark.parametrize("limit", [1, 2_000, 1 << 28])
def test_every_row_is_read_once_and_in_order(tmp_path: Path, monkeypatch, rows, limit):
    monkeypatch.setattr(record_batches, "MAX_TABLE_BYTES", limit)
    source = written(tmp_path / "listings.parquet", 70, b"an image")
    pieces = [piece for shard in source.shards() for piece in shard.pieces]
    tables = list(source.read_piece(pieces[0], ("listing_id", "images", "group_id"), rows))
    assert max(map(len, tables)) <= rows
    found = [name for table in tables for name in table.column("listing_id").to_pylist()]
    assert found == [f"L{number:04}" for number in range(70)]
    if limit > 2_000 and rows % 16 == 0:
        assert len(tables) == -(-70 // rows)
