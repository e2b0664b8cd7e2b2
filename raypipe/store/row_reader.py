"""Single rows of a committed artifact, read when they are asked for.

A file of at most a mebibyte is read whole, of a larger one the row group that holds the row. What
was read last is kept, up to a number of bytes, so that memory does not depend on the artifact.
"""

import threading
from collections import OrderedDict
from collections.abc import Sequence

import pyarrow as pa

from raypipe import storage
from raypipe.errors import ArtifactError, InputError
from raypipe.store import parquet
from raypipe.store.artifacts import Artifact
from raypipe.store.manifest import RESTORE, File

_WHOLE_BYTES = 1 << 20


class RowReader:
    """Reads rows by the number of their file and row; threads may share it.

    Args:
        columns: to read; the first one is the id.
        max_bytes: of the rows that are kept, in memory. The newest part is always kept.
    """

    def __init__(self, artifact: Artifact, columns: Sequence[str], max_bytes: int) -> None:
        self._artifact = artifact
        self._columns = list(columns)
        self._max_bytes = max_bytes
        self._files = artifact.files()
        self._kept: OrderedDict[tuple[int, int], pa.Table] = OrderedDict()
        self._num_bytes = 0
        self._lock = threading.Lock()

    def row(self, file: int, row: int, row_id: str | None = None) -> pa.Table:
        """The row, as a table of one.

        Args:
            row_id: what its first column must hold; None takes anything.

        Raises:
            ArtifactError: the file is missing or corrupt, or the row is of another id.
            StorageError: the storage cannot be reached.
        """
        with self._lock:
            found = self._found(file, row)
        if row_id is not None and (found is None or found.column(0)[0].as_py() != row_id):
            raise ArtifactError(
                f"{self._artifact.name} does not hold '{row_id}' where it was; delete what was "
                "made from it, and run the same command again"
            )
        if found is None:
            raise ArtifactError(f"{self._artifact.name} has no row {row} in its file {file}")
        return found

    def _found(self, file: int, row: int) -> pa.Table | None:
        for (number, first), table in self._kept.items():
            if number == file and first <= row < first + len(table):
                self._kept.move_to_end((number, first))
                return table.slice(row - first, 1)
        if not (0 <= file < len(self._files) and 0 <= row < (self._files[file].rows or 0)):
            return None
        first, table = self._read(self._files[file], row)
        self._kept[file, first] = table
        self._num_bytes += table.nbytes
        while self._num_bytes > self._max_bytes and len(self._kept) > 1:
            self._num_bytes -= self._kept.popitem(last=False)[1].nbytes
        return table.slice(row - first, 1)

    def _read(self, file: File, row: int) -> tuple[int, pa.Table]:
        """The number of the first row that was read with it, and these rows."""
        if file.size <= _WHOLE_BYTES:
            return 0, self._artifact.rows_of(file, self._columns)
        run = self._artifact.run
        path = run.path(self._artifact.name, file.path)
        try:
            first, rows, table = parquet.read_group(path, run.filesystem, self._columns, row)
        except (InputError, pa.ArrowException, OSError) as error:
            corrupt = ArtifactError(f"{path} is missing or corrupt: {error}; {RESTORE}")
            raise storage.unreadable(path, error, corrupt) from error
        if rows != file.rows:
            raise ArtifactError(f"{path} is corrupt: {rows:,} rows, not {file.rows:,}; {RESTORE}")
        if self._artifact.table is not None:
            self._artifact.table.check_columns(table)
        return first, table
