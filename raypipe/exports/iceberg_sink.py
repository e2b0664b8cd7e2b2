"""An Iceberg table as a sink: rows and the record's number in one transaction a batch.

pyiceberg's own ``upsert`` compares rows one by one in Python, in quadratic time, and nulls columns
that the rows do not have. Here the rows of the batch's listings are read, merged in Arrow, and
overwritten.
"""

import os
from collections.abc import Mapping
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from raypipe.catalog.snapshots import first_line, load_iceberg_catalog
from raypipe.config.sinks import SinkLocation
from raypipe.errors import SinkConflictError
from raypipe.exports.sink_records import IcebergRecords
from raypipe.exports.sink_table import KEY, refuse_other_columns, table_errors
from raypipe.store import parquet

PROPERTY = "raypipe.parts"
"""Of the table, so that it outlives its snapshots."""
NOTE = "raypipe.labels"
"""Of a snapshot's summary."""


class IcebergSink:
    """See :class:`~raypipe.exports.sink_table.SinkTable`."""

    def __init__(self, location: SinkLocation, properties: Mapping[str, str]) -> None:
        self._location = location
        self._properties = properties
        self._table: Any = None
        self._number: int | None = None

    def open(self) -> frozenset[str]:
        parquet.refuse_unpickling(os.environ)  # rows of the table's files are read
        with table_errors(self._location):
            catalog = load_iceberg_catalog(str(self._location), self._properties)
            from pyiceberg.exceptions import NoSuchNamespaceError, NoSuchTableError

            self._table = self._number = None
            try:
                self._table = catalog.load_table(self._location.place)
            except (NoSuchTableError, NoSuchNamespaceError):
                return frozenset()
            number = self._table.properties.get(PROPERTY)
            self._number = None if number is None else int(number, 16)
            return IcebergRecords(self._table).read(self._number)

    def prepare(self, schema: pa.Schema) -> None:
        with table_errors(self._location):
            from pyiceberg.io.pyarrow import schema_to_pyarrow

            if self._table is None:
                place = self._location.place
                catalog = load_iceberg_catalog(str(self._location), self._properties)
                catalog.create_namespace_if_not_exists(place.rpartition(".")[0])
                self._table = catalog.create_table_if_not_exists(place, schema)
            found = schema_to_pyarrow(self._table.schema())
        refuse_other_columns(self._location, found, schema)

    def merge(self, rows: pa.Table, held: frozenset[str], taken: frozenset[str], note: str) -> None:
        with table_errors(self._location):
            records = IcebergRecords(self._table)
            number = records.write(held | taken)
            self._execute(rows, number, note)
            if self._number != number:
                records.remove(self._number)

    def _execute(self, rows: pa.Table, number: int, note: str) -> None:
        from pyiceberg.exceptions import CommitFailedException, ValidationException
        from pyiceberg.expressions import And, GreaterThanOrEqual, In, LessThanOrEqual
        from pyiceberg.io.pyarrow import schema_to_pyarrow

        # Committing again after a conflict, pyiceberg would add the rows beside others of their
        # keys, which it has not read.
        self._table.metadata.properties["commit.retry.num-retries"] = "0"
        ids = sorted(pc.unique(rows.column("listing_id")).to_pylist())
        # Files are skipped by the range alone: of many values none are looked up.
        of_listings = And(
            GreaterThanOrEqual("listing_id", ids[0]),
            LessThanOrEqual("listing_id", ids[-1]),
            In("listing_id", ids),
        )
        schema = schema_to_pyarrow(self._table.schema(), include_field_ids=False)
        before = self._table.scan(row_filter=of_listings).to_arrow().cast(schema)
        after = merged(before, rows)
        properties = {NOTE: note}
        try:
            with self._table.transaction() as transaction:
                if len(before):
                    transaction.overwrite(after, of_listings, snapshot_properties=properties)
                else:
                    transaction.append(after, snapshot_properties=properties)
                transaction.set_properties({PROPERTY: f"{number:016x}"})
        except (CommitFailedException, ValidationException) as error:
            raise SinkConflictError(
                f"{self._location} was changed by another writer: {first_line(error)}"
            ) from error


def merged(before: pa.Table, rows: pa.Table) -> pa.Table:
    """Rows of a table after an upsert, in its schema.

    Args:
        before: the table's rows, with columns that ``rows`` may lack: those keep their values, and
            are null in new rows.
        rows: one per key.
    """
    keys = list(KEY)
    given = {name: rows.column(name).cast(before.field(name).type) for name in rows.column_names}
    new = pa.table({key: given[key] for key in keys})
    new = new.append_column("order", pa.array(range(len(rows)), pa.int64()))
    old = before.select(keys).append_column("place", pa.array(range(len(before)), pa.int64()))
    kept = old.join(new, keys, join_type="left anti").column("place")
    places = new.join(old, keys, join_type="left outer").sort_by("order").column("place")
    columns = [
        given[name] if name in given else before.column(name).take(places)
        for name in before.column_names
    ]
    return pa.concat_tables([before.take(kept), pa.table(columns, schema=before.schema)])
