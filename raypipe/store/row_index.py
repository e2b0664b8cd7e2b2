"""Where the rows of an artifact are, by the first column of their key.

16 bytes a row, whatever the ids are: of an id a 64-bit hash is kept. Whoever reads a row compares
the id in it.
"""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from raypipe.store.artifacts import Artifact
from raypipe.store.manifest import File

Keys = NDArray[np.uint64]


def keys_of(ids: Iterable[str]) -> Keys:
    """The hashes of ids, (ids,)."""
    digests = (hashlib.blake2b(one.encode(), digest_size=8).digest() for one in ids)
    return np.frombuffer(b"".join(digests), np.uint64)


@dataclass(frozen=True)
class RowPlace:
    """A row: the number of its file among an artifact's, the number of the row in the file, and the
    length of the list that the index counts, 0 without one."""

    file: int
    row: int
    length: int = 0


@dataclass(frozen=True)
class RowIndex:
    """Rows in the order of their keys; all arrays are (rows,)."""

    keys: Keys
    files: NDArray[np.int32]
    rows: NDArray[np.int32]
    lengths: NDArray[np.uint16]

    @classmethod
    def of(
        cls,
        artifact: Artifact,
        numbered: Sequence[tuple[int, File]] | None = None,
        length_of: str | None = None,
    ) -> Self:
        """The index of a committed artifact.

        Args:
            numbered: some of its files with their numbers; None takes all.
            length_of: a list column whose lengths are kept.
        """
        column = artifact.table.key[0] if artifact.table is not None else ""
        columns = [column, *([length_of] if length_of else [])]
        if numbered is None:
            parts = [cls._of_table(*each) for each in enumerate(artifact.read_files(columns))]
        else:
            parts = [
                cls._of_table(number, artifact.rows_of(file, columns)) for number, file in numbered
            ]
        return cls.merged(parts)

    @classmethod
    def _of_table(cls, number: int, table: pa.Table) -> Self:
        lengths = np.zeros(len(table), np.uint16)
        if table.num_columns > 1:
            lengths = np.asarray(pc.list_value_length(table.column(1))).astype(np.uint16)
        return cls(
            keys_of(table.column(0).to_pylist()),
            np.full(len(table), number, np.int32),
            np.arange(len(table), dtype=np.int32),
            lengths,
        )

    @classmethod
    def merged(cls, parts: Sequence[Self]) -> Self:
        """One index of the rows of several."""
        keys = np.concatenate([np.zeros(0, np.uint64), *(part.keys for part in parts)])
        order = np.argsort(keys, kind="stable")
        files = np.concatenate([np.zeros(0, np.int32), *(part.files for part in parts)])[order]
        rows = np.concatenate([np.zeros(0, np.int32), *(part.rows for part in parts)])[order]
        lengths = np.concatenate([np.zeros(0, np.uint16), *(part.lengths for part in parts)])
        return cls(keys[order], files, rows, lengths[order])

    def __len__(self) -> int:
        return len(self.keys)

    def find(self, row_id: str) -> RowPlace | None:
        """Where the row of an id is; None where there is none."""
        [key] = keys_of([row_id])
        at = int(np.searchsorted(self.keys, key))
        if at == len(self.keys) or self.keys[at] != key:
            return None
        return RowPlace(int(self.files[at]), int(self.rows[at]), int(self.lengths[at]))
