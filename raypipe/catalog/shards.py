"""How a catalog's files are cut into shards: the unit in which labels are made, checked, committed
and taken over.

The cut depends on the files alone. A changed file changes the shards that hold rows of it, and a
new one between others hardly any.
"""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

SHARD_ROWS = 20_000
LEAST_ROWS, MOST_ROWS = 10_000, 50_000
READ_ROWS = 1024
# Bytes (as stored) of a row group above which it is read as a whole: for a slice of it, all rows
# before are decoded.
MAX_SLICED_BYTES = 64 << 20


@dataclass(frozen=True)
class RowGroup:
    """Rows of a row group of a Parquet file, and the bytes that they take there."""

    rows: int
    size: int


@dataclass(frozen=True)
class SourceFile:
    """A file of a catalog; equal stamps mean that the content is the same."""

    path: str
    stamp: str
    groups: tuple[RowGroup, ...]

    @property
    def rows(self) -> int:
        return sum(group.rows for group in self.groups)


@dataclass(frozen=True)
class Piece:
    """The rows ``first`` to ``first + rows`` of a row group of a file."""

    path: str
    group: int
    first: int
    rows: int
    size: int = 0

    def slices(self, rows: int = READ_ROWS) -> "Iterator[Piece]":
        """Pieces of at most so many rows, for one read task each."""
        if self.size > MAX_SLICED_BYTES:
            yield self
            return
        for first in range(self.first, self.first + self.rows, rows):
            left = self.first + self.rows - first
            yield Piece(self.path, self.group, first, min(rows, left), self.size)


@dataclass(frozen=True)
class SourceShard:
    """Some ten thousand listings of a catalog; the key is a digest of where they come from."""

    key: str
    pieces: tuple[Piece, ...]

    @property
    def rows(self) -> int:
        return sum(piece.rows for piece in self.pieces)


def cut(files: Iterable[SourceFile]) -> list[SourceShard]:
    """The shards of files, in their order. A file of ``LEAST_ROWS`` rows or more has shards of its
    own; smaller ones share some, which end where the name of a file says so."""
    shards: list[SourceShard] = []
    small: list[SourceFile] = []

    def flush() -> None:
        if small:
            shards.append(_shard(small, [piece for file in small for piece in _pieces(file)]))
            small.clear()

    for file in files:
        if file.rows >= LEAST_ROWS:
            flush()
            shards.extend(_shard([file], pieces) for pieces in _evenly(list(_pieces(file))))
            continue
        if sum(one.rows for one in small) + file.rows > MOST_ROWS:
            flush()
        if file.rows:
            small.append(file)
        if sum(one.rows for one in small) >= LEAST_ROWS and _ends_here(file):
            flush()
    flush()
    return shards


def _pieces(file: SourceFile) -> Iterator[Piece]:
    """The row groups of a file; those of many more rows than a shard has in slices."""
    for number, group in enumerate(file.groups):
        parts = 1
        if group.rows > MOST_ROWS and group.size / group.rows * SHARD_ROWS <= MAX_SLICED_BYTES:
            parts = round(group.rows / SHARD_ROWS)
        ends = [group.rows * part // parts for part in range(parts + 1)]
        for first, end in pairwise(ends):
            if end > first:
                yield Piece(file.path, number, first, end - first, group.size)


def _evenly(pieces: Sequence[Piece]) -> list[list[Piece]]:
    """Pieces in shards of nearly the same number of rows."""
    total = sum(piece.rows for piece in pieces)
    parts = max(1, round(total / SHARD_ROWS))
    found: list[list[Piece]] = [[] for _ in range(parts)]
    before = 0
    for piece in pieces:
        found[(2 * before + piece.rows) * parts // (2 * total)].append(piece)
        before += piece.rows
    return [part for part in found if part]


def _ends_here(file: SourceFile) -> bool:
    return hashlib.blake2b(file.path.encode(errors="replace")).digest()[0] % 2 == 0


def _shard(files: Sequence[SourceFile], pieces: Sequence[Piece]) -> SourceShard:
    stamps = {file.path: file.stamp for file in files}
    content = hashlib.blake2b(digest_size=16)
    for piece in pieces:
        named = f"{stamps[piece.path]}\0{piece.group}\0{piece.first}\0{piece.rows}\n"
        content.update(named.encode(errors="replace"))
    return SourceShard(content.hexdigest(), tuple(pieces))
