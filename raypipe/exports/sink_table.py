"""What every sink's table must be: its key, its columns, and what its library's errors mean."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

import pyarrow as pa

from raypipe import storage
from raypipe.catalog.snapshots import first_line
from raypipe.config.sinks import SinkLocation
from raypipe.errors import ConfigError, InputError, RaypipeError

KEY = ("listing_id", "attribute")


class SinkTable(Protocol):
    """A table that takes parts. ``open`` comes first, and again after a conflict."""

    def open(self) -> frozenset[str]:
        """Look at the table as it is now: the marks of the parts that it holds, none without it."""

    def prepare(self, schema: pa.Schema) -> None:
        """Create the table, or refuse one of other columns."""

    def merge(self, rows: pa.Table, held: frozenset[str], taken: frozenset[str], note: str) -> None:
        """Upsert rows on ``KEY``; the table's record is then ``held | taken``.

        Args:
            rows: one per key, at least one.
            held: the marks that are still true of the table, before and after.
            taken: the marks of the rows.
            note: a text for people, kept with the commit where the format has a place for it.

        Raises:
            SinkConflictError: another writer was first; nothing was written.
        """


@contextmanager
def table_errors(location: SinkLocation) -> Iterator[None]:
    """Calls a table's library in the body: its errors become ours.

    Raises:
        ConfigError: a package is missing.
        StorageError: the table's storage or catalog is out of reach.
        InputError: anything else that the library refuses.
    """
    try:
        yield
    except RaypipeError:
        raise
    except ImportError as error:
        raise ConfigError(
            f"{location} needs more packages: pip install 'raypipe[tables]' ({error})"
        ) from error
    except Exception as error:  # every library and kind of catalog has errors of its own
        if storage.is_at_fault(error):
            raise storage.failed(f"cannot write {location}", error) from error
        raise InputError(f"cannot write {location}: {first_line(error)}") from error


def refuse_other_columns(location: SinkLocation, table: pa.Schema, view: pa.Schema) -> None:
    """Refuse a table that cannot take the view's rows. Columns of its own stay as they are, and are
    null in new rows.

    Raises:
        InputError: names every column at fault, and what to do.
    """
    faults = []
    for field in view:
        index = table.get_field_index(field.name)
        if index < 0:
            faults.append(f"'{field.name}' ({field.type}) is missing")
        elif _plain(table.field(index).type) != _plain(field.type):
            faults.append(f"'{field.name}' is {table.field(index).type}, expected {field.type}")
        elif field.nullable and not table.field(index).nullable:
            faults.append(f"'{field.name}' must allow nulls")
    faults += [
        f"'{field.name}' is no column of labels, and must allow nulls"
        for field in table
        if field.name not in view.names and not field.nullable
    ]
    if faults:
        raise InputError(
            f"{location} has other columns than labels: {'; '.join(faults)}. Change the table, or "
            "name a new one in labeling.sink"
        )


def _plain(kind: pa.DataType) -> pa.DataType:
    """A type without what formats write down differently: sizes of offsets, names of elements, and
    whether what is nested may be null."""
    if pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return pa.string()
    if pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind):
        return pa.binary()
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return pa.list_(_plain(kind.value_type))
    if pa.types.is_struct(kind):
        return pa.struct([(field.name, _plain(field.type)) for field in kind])
    return kind
