"""A Delta Lake table as a sink: one MERGE a batch, which carries the number of the record."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pyarrow as pa

from raypipe import storage
from raypipe.catalog.snapshots import first_line
from raypipe.config.sinks import SinkLocation
from raypipe.errors import SinkConflictError
from raypipe.exports.sink_records import DirectoryRecords
from raypipe.exports.sink_table import KEY, refuse_other_columns, table_errors
from raypipe.store.run_directory import RunDirectory

APPLICATION = "raypipe"
"""Of the table's application transactions (``txn``), which outlive the log's clean-up."""


class DeltaSink:
    """See :class:`~raypipe.exports.sink_table.SinkTable`."""

    def __init__(self, location: SinkLocation) -> None:
        self._location = location
        directory = RunDirectory(location.place)
        self._address = directory.location
        self._records = DirectoryRecords(directory)
        self._table: Any = None
        self._number: int | None = None

    def open(self) -> frozenset[str]:
        with table_errors(self._location):
            from deltalake import DeltaTable
            from deltalake.exceptions import TableNotFoundError

            self._table = self._number = None
            try:
                self._table = DeltaTable(self._address)
            except TableNotFoundError:
                return frozenset()
            self._number = self._table.transaction_version(APPLICATION)
        return self._records.read(self._number)

    def prepare(self, schema: pa.Schema) -> None:
        with self._errors():
            from deltalake import DeltaTable

            if self._table is None:
                DeltaTable.create(self._address, schema, mode="ignore")
                self._table = DeltaTable(self._address)
            found = pa.schema(self._table.schema().to_arrow())
        refuse_other_columns(self._location, found, schema)

    def merge(self, rows: pa.Table, held: frozenset[str], taken: frozenset[str], note: str) -> None:
        number = self._records.write(held | taken)
        with self._errors():
            self._execute(rows, number, note)
        if self._number != number:
            self._records.remove(self._number)

    def _execute(self, rows: pa.Table, number: int, note: str) -> None:
        from deltalake import CommitProperties, Transaction

        values = {name: f"rows.{name}" for name in rows.column_names}
        (
            self._table.merge(
                rows,
                " AND ".join(f"sink.{name} = rows.{name}" for name in KEY),
                source_alias="rows",
                target_alias="sink",
                streamed_exec=False,  # the rows' range then says which files to look into
                commit_properties=CommitProperties(
                    custom_metadata={"raypipe": note},
                    # Of two commits at once with one application the second fails.
                    app_transactions=[Transaction(APPLICATION, number)],
                ),
            )
            .when_matched_update({key: values[key] for key in values if key not in KEY})
            .when_not_matched_insert(values)
            .execute()
        )

    @contextmanager
    def _errors(self) -> Iterator[None]:
        with table_errors(self._location):
            from deltalake.exceptions import CommitFailedError

            try:
                yield
            except CommitFailedError as error:
                if storage.is_at_fault(error):
                    raise
                raise SinkConflictError(
                    f"{self._location} was changed by another writer: {first_line(error)}"
                ) from error
