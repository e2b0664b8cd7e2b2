"""Prepared listings wait on disk until every listing was seen and the splits are known.

Images are decoded once and memory does not grow with them.
"""

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pyarrow as pa
import pyarrow.ipc as ipc

from raypipe.schemas import LISTINGS, Split
from raypipe.storage import storage_errors

_SPLIT = LISTINGS.schema.get_field_index("split")
SCHEMA = LISTINGS.schema.remove(_SPLIT)


class Spill:
    """A file of rows of the listings table without their split; close it before reading."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._writer = ipc.new_stream(str(path), SCHEMA)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with self._writing():
            self._writer.close()

    def add(self, rows: list[dict[str, Any]]) -> None:
        """Append rows as one batch. Raises StorageError, for instance when the disk is full."""
        if rows:
            table = pa.Table.from_pylist(rows, schema=SCHEMA)
            with self._writing():
                self._writer.write_table(table)

    def _writing(self) -> AbstractContextManager[None]:
        """Names the file, of which the user has never heard, and its bytes when it cannot grow."""
        size = self.path.stat().st_size
        return storage_errors(
            f"cannot write {self.path} ({size:,} bytes so far; TMPDIR says where)"
        )

    def tables(self, splits: Mapping[str, Split], rows_per_table: int) -> Iterator[pa.Table]:
        """The rows whose id has a split, with that split, at most ``rows_per_table`` at a time."""
        waiting: list[pa.Table] = []
        with pa.memory_map(str(self.path)) as file, ipc.open_stream(file) as stream:
            for batch in stream:
                waiting.append(_with_split(pa.Table.from_batches([batch]), splits))
                while sum(map(len, waiting)) >= rows_per_table:
                    joined = pa.concat_tables(waiting)
                    yield joined.slice(0, rows_per_table)
                    waiting = [joined.slice(rows_per_table)]
        if any(map(len, waiting)):
            yield pa.concat_tables(waiting)


def _with_split(table: pa.Table, splits: Mapping[str, Split]) -> pa.Table:
    chosen = [splits.get(identifier) for identifier in table.column("listing_id").to_pylist()]
    column = pa.array(chosen, pa.string())
    placed = table.add_column(_SPLIT, LISTINGS.schema.field("split").with_nullable(True), column)
    return placed.filter(column.is_valid())
