"""The digest of rows, independent of their order, files and chunks.

A row's hash covers the bytes of its leaves (values, lengths and validity of every column, nested
ones flattened in Arrow), so that no row becomes a Python object.
"""

import hashlib
from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

MODULUS = 1 << 128
_BATCH_BYTES = 16 << 20


def digest_rows(table: pa.Table) -> int:
    """Order-independent digest of rows: the sum of their 128-bit hashes, modulo 2^128."""
    ends = np.arange(len(table) + 1, dtype=np.int64)
    leaves = [
        leaf for name in table.column_names for leaf in _leaves(_whole(table.column(name)), ends)
    ]
    num_bytes = sum(leaf.total_values_length for leaf in leaves)
    rows = max(1, len(table) * _BATCH_BYTES // max(num_bytes, 1))
    total = 0
    for first in range(0, len(table), rows):
        total += sum(_hashes([leaf.slice(first, rows) for leaf in leaves]))
    return total % MODULUS


def _hashes(leaves: Sequence[pa.LargeBinaryArray]) -> Iterator[int]:
    """The hash of each row, of which the leaves are parts."""
    nothing = pa.scalar(b"", pa.large_binary())
    offsets, content = _buffers(pc.binary_join_element_wise(*leaves, nothing))
    for start, end in pairwise(offsets.tolist()):
        yield int.from_bytes(hashlib.blake2b(content[start:end], digest_size=16).digest())


def _whole(column: pa.ChunkedArray) -> pa.Array:
    """A column as one array with offset 0."""
    return pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)


def _leaves(values: pa.Array, ends: np.ndarray) -> Iterator[pa.LargeBinaryArray]:
    """The bytes of an array and its children, one value a row.

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
        offsets, content = _buffers(pc.fill_null(values.cast(pa.large_binary()), b""))
        yield _leaf(np.diff(offsets), ends)
        yield _binary(offsets[ends], pa.py_buffer(content))


def _leaf(values: np.ndarray, ends: np.ndarray) -> pa.LargeBinaryArray:
    return _binary(ends * values.itemsize, pa.py_buffer(np.ascontiguousarray(values)))


def _binary(offsets: np.ndarray, content: pa.Buffer) -> pa.LargeBinaryArray:
    buffers = [None, pa.py_buffer(offsets), content]
    return pa.LargeBinaryArray.from_buffers(pa.large_binary(), len(offsets) - 1, buffers)


def _buffers(values: pa.LargeBinaryArray) -> tuple[np.ndarray, memoryview]:
    """Offsets and content of binary values without nulls."""
    if not len(values):
        return np.zeros(1, np.int64), memoryview(b"")
    _, offsets, content = values.buffers()
    own = np.frombuffer(offsets, np.int64)[values.offset : values.offset + len(values) + 1]
    return own, memoryview(content or b"")


def _starts(lengths: np.ndarray) -> np.ndarray:
    return np.concatenate(([0], np.cumsum(lengths)))
