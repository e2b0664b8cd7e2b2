"""Record batches of a file, put together or cut."""

from collections.abc import Iterable, Iterator

import pyarrow as pa

# What is gathered of larger rows; Arrow reads no more than 2 GiB of images at once.
MAX_TABLE_BYTES = 1 << 28


def gathered(batches: Iterable[pa.RecordBatch], rows: int) -> Iterator[list[pa.RecordBatch]]:
    """Batches one after the other, of so many rows together or of ``MAX_TABLE_BYTES``."""
    held: list[pa.RecordBatch] = []
    for batch in batches:
        is_full = sum(map(len, held)) + len(batch) > rows
        if held and (is_full or sum(one.nbytes for one in held) >= MAX_TABLE_BYTES):
            yield held
            held = []
        held.append(batch)
    if held:
        yield held


def between(batches: Iterable[pa.RecordBatch], first: int, rows: int) -> Iterator[pa.RecordBatch]:
    """Of the rows of some batches those from ``first`` on."""
    before = 0
    for batch in batches:
        skipped = max(0, first - before)
        taken = batch.slice(skipped, max(0, first + rows - before - skipped))
        before += len(batch)
        if len(taken):
            yield taken
        if before >= first + rows:
            break
