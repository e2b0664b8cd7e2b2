"""The digest of rows, independent of their order, files and chunks.

A row's hash covers the bytes of its leaves (values, lengths and validity of every column, nested
ones flattened in Arrow), so that no row becomes a Python object.
"""

import hashlib
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

MODULUS = 1 << 128


def digest_rows(table: pa.Table) -> int:
    """Order-independent digest of rows: the sum of their 128-bit hashes, modulo 2^128."""
    rows = np.arange(len(table) + 1, dtype=np.int64)
    leaves = [
        leaf for name in table.column_names for leaf in _leaves(_whole(table.column(name)), rows)
    ]
    parts = (map(content.__getitem__, map(slice, ends[:-1], ends[1:])) for content, ends in leaves)
    total = 0
    for row in zip(*parts, strict=True):
        total += int.from_bytes(hashlib.blake2b(b"".join(row), digest_size=16).digest())
    return total % MODULUS


_Leaf = tuple[memoryview, list[int]]


def _whole(column: pa.ChunkedArray) -> pa.Array:
    """A column as one array with offset 0."""
    return pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)


def _leaves(values: pa.Array, ends: np.ndarray) -> Iterator[_Leaf]:
    """The bytes of an array and its children, with the offsets of each row.

    Args:
        values: of one column, or nested in it.
        ends: row ``i`` owns ``values[ends[i]:ends[i + 1]]``.
    """
    kind = values.type
    yield _leaf(np.asarray(values.is_valid().cast(pa.uint8())), ends)
    if pa.types.is_struct(kind):
        for child in values.flatten():
            yield from _leaves(child, ends)
    elif pa.types.is_list(kind) or pa.types.is_large_list(kind):
        lengths = np.asarray(pc.fill_null(pc.list_value_length(values), 0), dtype=np.int64)
        yield _leaf(lengths, ends)
        yield from _leaves(values.flatten(), _starts(lengths)[ends])
    elif pa.types.is_boolean(kind):
        yield _leaf(np.asarray(pc.fill_null(values, False).cast(pa.uint8())), ends)
    elif pa.types.is_primitive(kind):
        yield _leaf(np.asarray(pc.fill_null(values, 0)), ends)
    else:
        # With nulls filled, the texts are contiguous between the array's offsets.
        texts = pc.fill_null(values.cast(pa.large_binary()), b"")
        offsets, content = (
            (np.frombuffer(texts.buffers()[1], np.int64)[texts.offset :], texts.buffers()[2])
            if len(texts)
            else (np.zeros(1, np.int64), None)
        )
        yield _leaf(np.diff(offsets[: len(texts) + 1]), ends)
        yield memoryview(content or b""), offsets[ends].tolist()


def _leaf(values: np.ndarray, ends: np.ndarray) -> _Leaf:
    content = memoryview(values.tobytes())
    return content, (ends * values.itemsize).tolist()


def _starts(lengths: np.ndarray) -> np.ndarray:
    return np.concatenate(([0], np.cumsum(lengths)))
