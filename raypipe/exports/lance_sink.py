"""A Lance table as a sink: ``merge_insert``, and the record's number in the table's configuration.

Lance commits rows and configuration one after the other. The record is cut down to what stays true
before rows change, and grows afterwards: a batch that was interrupted between the two is merged
again.
"""

import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import pyarrow as pa

from raypipe.catalog.snapshots import first_line
from raypipe.config.sinks import SinkLocation
from raypipe.errors import SinkConflictError
from raypipe.exports.sink_records import DirectoryRecords
from raypipe.exports.sink_table import KEY, refuse_other_columns, table_errors
from raypipe.store.run_directory import RunDirectory

PROPERTY = "raypipe.parts"
# Of these columns Lance finds out that two writers insert the same key.
_IDENTIFIES = {"lance-schema:unenforced-primary-key": "true"}
_CONFLICT = re.compile(r"concurrent|conflict|already exists", re.IGNORECASE)
_RETRY_FOR = timedelta(minutes=10)


class LanceSink:
    """See :class:`~raypipe.exports.sink_table.SinkTable`."""

    def __init__(self, location: SinkLocation) -> None:
        self._location = location
        directory = RunDirectory(location.place)
        self._address = directory.location
        self._records = DirectoryRecords(directory)
        self._table: Any = None
        self._number: int | None = None
        self._held: frozenset[str] = frozenset()

    def open(self) -> frozenset[str]:
        with self._errors():
            import lance

            # Ray forks to start its own programs alone.
            warnings.filterwarnings("ignore", "lance is not fork-safe", UserWarning)
            self._table, self._number, self._held = None, None, frozenset()
            try:
                self._table = lance.dataset(self._address)
            except ValueError as error:
                if "was not found" not in str(error):
                    raise
                return frozenset()
            number = self._table.config().get(PROPERTY)
            self._number = None if number is None else int(number, 16)
        self._held = self._records.read(self._number)
        return self._held

    def prepare(self, schema: pa.Schema) -> None:
        with self._errors():
            import lance

            if self._table is None:
                fields = [
                    field.with_metadata(_IDENTIFIES) if field.name in KEY else field
                    for field in schema
                ]
                empty = pa.schema(fields).empty_table()
                self._table = lance.write_dataset(empty, self._address, mode="create")
        refuse_other_columns(self._location, self._table.schema, schema)

    def merge(self, rows: pa.Table, held: frozenset[str], taken: frozenset[str], note: str) -> None:
        with self._errors():
            self._keep(held)
            (
                self._table.merge_insert(list(KEY))
                .when_matched_update_all()
                .when_not_matched_insert_all()
                .retry_timeout(_RETRY_FOR)
                .execute(rows)
            )
            self._keep(held | taken)

    def _keep(self, marks: frozenset[str]) -> None:
        """Have the table name the record of these marks, in place of the one that was opened."""
        named = None if self._number is None else _hexadecimal(self._number)
        if self._table.config().get(PROPERTY) != named:
            raise SinkConflictError(f"{self._location} was changed by another labeling")
        if marks == self._held:
            return
        number = self._records.write(marks)
        self._table.update_config({PROPERTY: _hexadecimal(number)})
        if self._number != number:
            self._records.remove(self._number)
        self._number, self._held = number, marks

    @contextmanager
    def _errors(self) -> Iterator[None]:
        with table_errors(self._location):
            try:
                yield
            except OSError as error:
                if not _CONFLICT.search(str(error)):
                    raise
                raise SinkConflictError(
                    f"{self._location} was changed by another writer: {first_line(error)}"
                ) from error


def _hexadecimal(number: int) -> str:
    return f"{number:016x}"
