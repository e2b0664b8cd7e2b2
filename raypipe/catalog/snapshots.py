"""One state of a Delta Lake, Iceberg or Lance table, read through Ray Data's own readers.

Rows that a table has deleted must not come back: Iceberg's position deletes and vectors and Lance's
deletion files are applied by those readers, Delta's deletion vectors are refused here.
"""

import hashlib
import os
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args
from urllib.parse import urlsplit

import pyarrow as pa

from raypipe import storage
from raypipe.errors import ConfigError, InputError, RaypipeError

TableFormat = Literal["delta", "iceberg", "lance"]
_LOCATION = re.compile(rf"({'|'.join(get_args(TableFormat))}):(.*?)(?:@([^@/]*))?")
_SNAPSHOT = re.compile(r"(?P<name>.+) @ (?P<version>\d+)(?: \(.*\))?")


@dataclass(frozen=True)
class Location:
    """A table as a configuration names it; ``pin`` is a snapshot, None the newest."""

    kind: TableFormat
    place: str
    pin: int | None

    def __str__(self) -> str:
        pinned = "" if self.pin is None else f"@{self.pin}"
        return f"{self.kind}:{self.place}{pinned}"

    @property
    def name(self) -> str:
        return f"{self.kind} {self.place}"

    def pinned_by(self, snapshot: str) -> "Location | None":
        """This location at a snapshot that an earlier call wrote down; None for another one."""
        found = _SNAPSHOT.fullmatch(snapshot)
        if found is None or found["name"] != self.name:
            return None
        version = int(found["version"])
        return Location(self.kind, self.place, version) if self.pin in (None, version) else None


def parse_location(location: str) -> Location | None:
    """``delta:<path or uri>``, ``lance:<path or uri>`` or ``iceberg:<namespace>.<table>``, each
    with or without ``@<snapshot>``; None for anything else.

    Raises:
        ConfigError: a snapshot that is no number, a name that Iceberg cannot have, or a URI that
            holds a password or a signature.
    """
    found = _LOCATION.fullmatch(location)
    if found is None:
        return None
    kind: TableFormat = found[1]  # type: ignore[assignment]
    place, pin = found[2], found[3]
    if pin is not None and not (pin.isascii() and pin.isdigit()):
        raise ConfigError(f"'{location}': after '@' comes the number of a snapshot")
    if not place or (kind == "iceberg" and not re.fullmatch(r"[^./\s]+(\.[^./\s]+)+", place)):
        form = "<namespace>.<table>" if kind == "iceberg" else "<path or uri>"
        raise ConfigError(f"'{location}': a table of this kind reads {kind}:{form}")
    if "://" in place and (urlsplit(place).password or urlsplit(place).query):
        where = "keys belong in environment variables, such as AWS_SECRET_ACCESS_KEY"
        raise ConfigError(f"a {kind} table's URI holds a password or a signature: {where}")
    return Location(kind, place, None if pin is None else int(pin))


@dataclass(frozen=True)
class Snapshot:
    """One state of a table.

    ``mark`` tells a table from another one that was made at the same place and counts its
    versions from the beginning again. ``read`` makes a Ray data set of the named columns.
    """

    location: Location
    version: int
    mark: str
    schema: pa.Schema
    read: Callable[[Sequence[str]], Any]

    def __str__(self) -> str:
        mark = f" ({self.mark})" if self.mark else ""
        return f"{self.location.name} @ {self.version}{mark}"


def resolve_snapshot(location: Location, iceberg: Mapping[str, str]) -> Snapshot:
    """Find a table and the snapshot that is asked for; no row is read.

    Args:
        location: of the table.
        iceberg: properties of Iceberg's catalog (``catalog.iceberg``).

    Raises:
        ConfigError: a package is missing, or the properties name no catalog.
        InputError: there is no such table or snapshot, or its deleted rows would come back.
        StorageError: the table or its catalog is out of reach.
    """
    try:
        match location.kind:
            case "delta":
                return _delta(location)
            case "iceberg":
                return _iceberg(location, iceberg)
            case "lance":
                return _lance(location)
    except ImportError as error:
        raise ConfigError(
            f"{location} needs more packages: pip install 'raypipe[tables]' ({error})"
        ) from error


def _delta(location: Location) -> Snapshot:
    from deltalake import DeltaTable
    from deltalake.exceptions import DeltaError

    address = _absolute(location.place)
    try:
        table = DeltaTable(address, version=location.pin)
        _refuse_hidden_deletes(location, table)
        schema = table.to_pyarrow_dataset().schema
        version, identifier = table.version(), table.metadata().id
    except (DeltaError, OSError, ValueError) as error:
        raise _unopened(location, error) from error

    def read(names: Sequence[str]) -> Any:
        import ray.data

        return ray.data.read_delta(address, version=version, columns=list(names))

    return Snapshot(location, version, f"table {identifier[:8]}", schema, read)


def _refuse_hidden_deletes(location: Location, table: Any) -> None:
    """What the reader would pass over: rows deleted by vectors, columns under other names.

    deltalake itself looks at the features that version 3 of the protocol lists; in version 2 column
    mapping is a property of the table, and every mapped column would come out null.
    """
    features = table.protocol().reader_features or ()
    mapping = table.metadata().configuration.get("delta.columnMapping.mode", "none")
    if "deletionVectors" in features:
        raise InputError(
            f"{location} has deletion vectors, which Ray Data's reader cannot apply: in Spark, "
            "set delta.enableDeletionVectors=false, REORG TABLE … APPLY (PURGE), and DROP FEATURE "
            "deletionVectors"
        )
    if mapping != "none" or "columnMapping" in features:
        raise InputError(
            f"{location} maps its columns to other names in its files, which Ray Data's reader "
            "cannot follow: DROP FEATURE columnMapping, or read a table without it"
        )


def _lance(location: Location) -> Snapshot:
    import lance

    # Ray forks to start its own programs alone.
    warnings.filterwarnings("ignore", "lance is not fork-safe", UserWarning)
    address = _absolute(location.place)
    try:
        table = lance.dataset(address, version=location.pin)
        version, schema = table.version, table.schema
        files = [file.path for part in table.get_fragments() for file in part.metadata.files]
    except (OSError, ValueError) as error:
        raise _unopened(location, error) from error
    # A Lance table has no id; its files have names of their own whenever it is written.
    mark = hashlib.blake2b("\n".join(sorted(files)).encode(), digest_size=4).hexdigest()

    def read(names: Sequence[str]) -> Any:
        import ray.data

        return ray.data.read_lance(address, version=version, columns=list(names))

    return Snapshot(location, version, f"files {mark}", schema, read)


def _iceberg(location: Location, properties: Mapping[str, str]) -> Snapshot:
    from pyiceberg.exceptions import NoSuchNamespaceError, NoSuchTableError
    from pyiceberg.io.pyarrow import schema_to_pyarrow

    properties = _with_store(properties)
    try:
        table = load_iceberg_catalog(str(location), properties).load_table(location.place)
    except (NoSuchTableError, NoSuchNamespaceError) as error:
        raise InputError(f"there is no {location}: {first_line(error)}") from error
    except (RaypipeError, ImportError):
        raise
    except Exception as error:  # every kind of catalog has a client with errors of its own
        raise _unopened(location, error) from error
    current = table.current_snapshot()
    version = location.pin if location.pin is not None else current and current.snapshot_id
    if version is None:
        raise InputError(f"{location} holds no rows")
    if table.snapshot_by_id(version) is None:
        raise InputError(f"{location}: the table has no snapshot {version}")
    schema = schema_to_pyarrow(table.scan(snapshot_id=version).projection())

    def read(names: Sequence[str]) -> Any:
        import ray.data

        dataset = ray.data.read_iceberg(
            table_identifier=location.place, snapshot_id=version, catalog_kwargs=dict(properties)
        )
        return dataset.select_columns(list(names))

    return Snapshot(location, version, "", schema, read)


def load_iceberg_catalog(table: str, properties: Mapping[str, str]) -> Any:
    """pyiceberg's catalog of these properties (``catalog.iceberg``).

    Args:
        table: what is looked for in it, for messages.

    Raises:
        ConfigError: the properties name no catalog.
        ImportError: a package is missing.
        Exception: what the catalog's client raises when it is out of reach.
    """
    from pyiceberg.catalog import load_catalog
    from pyiceberg.exceptions import NotInstalledError

    found = _with_store(properties)
    name = found.pop("name", "default")
    try:
        return load_catalog(name, **found)
    except NotInstalledError as error:
        raise ImportError(str(error)) from error
    except ValueError as error:
        raise ConfigError(
            f"catalog.iceberg names no catalog to find {table} in: {first_line(error)}"
        ) from error


def _with_store(properties: Mapping[str, str]) -> dict[str, str]:
    """Properties with the S3 server and region of the variables that the run itself needs, where
    neither they nor pyiceberg's own configuration name one."""
    from pyiceberg.utils.config import Config as Pyiceberg

    own = Pyiceberg().get_catalog_config(properties.get("name", "default")) or {}
    store = {"s3.endpoint": "AWS_ENDPOINT_URL", "s3.region": "AWS_REGION"}
    found = {
        key: os.environ[variable]
        for key, variable in store.items()
        if key not in own and variable in os.environ
    }
    return {**found, **properties}


def _absolute(place: str) -> str:
    return place if "://" in place else str(Path(place).resolve())


def _unopened(location: Location, error: Exception) -> RaypipeError:
    unknown = InputError(f"cannot open {location}: {first_line(error)}")
    return storage.unreadable(str(location), error, unknown)


def first_line(error: Exception) -> str:
    """What a library says, without the lines of its own source that Rust adds."""
    line = (str(error).splitlines() or [""])[0]
    return re.sub(r", \S+\.rs:\d+.*", "", line) or type(error).__name__
