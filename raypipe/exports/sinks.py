"""Publishes labels beside the run, in a table of the user's lakehouse or as Parquet files.

The published view comes in parts. A sink records which parts it holds, and takes those that have
changed, in batches: each batch is one commit of the table with its record, so that a call which was
interrupted goes on from the last one. Merging a batch again changes nothing.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa

from raypipe.config import Config
from raypipe.config.sinks import SinkLocation, parse_sink
from raypipe.errors import ArtifactError, SinkConflictError
from raypipe.exports.delta_sink import DeltaSink
from raypipe.exports.iceberg_sink import IcebergSink
from raypipe.exports.lance_sink import LanceSink
from raypipe.exports.parquet_sink import ParquetSink
from raypipe.exports.sink_records import part_mark
from raypipe.exports.sink_table import KEY, SinkTable

BATCH_BYTES = 256 << 20
"""Arrow bytes of the parts that are merged at once, or one part if it is larger."""
MAX_CONFLICTS = 6
FIRST_WAIT_S = 0.5
"""After a conflict; twice as long after each further one."""


@dataclass(frozen=True)
class SinkPart:
    """A part of the published view, tens of thousands of rows.

    ``name`` is stable while the content is; ``digest`` is of the rows and of the decision that
    publishes them, so that parts of equal digest have equal rows. ``read`` returns the rows: one
    per (listing_id, attribute), and no key that another part has too.
    """

    name: str
    digest: str
    read: Callable[[], pa.Table]


@dataclass(frozen=True)
class SinkResult:
    """What a call wrote. Skipped parts are those that the sink holds already and, of a table, those
    without rows."""

    location: str
    parts_written: int
    parts_skipped: int
    rows_written: int


def write_sink(config: Config, parts: Sequence[SinkPart], version: str) -> SinkResult | None:
    """Publish labels where ``labeling.sink`` says; None without one. Raises what :func:`upsert`
    does.

    Args:
        parts: all parts of the label version.
        version: its name, for people.
    """
    if config.labeling.sink is None:
        return None
    return upsert(config.labeling.sink, parts, iceberg=config.catalog.iceberg, version=version)


def upsert(
    location: str,
    parts: Sequence[SinkPart],
    *,
    iceberg: Mapping[str, str],
    version: str,
    batch_bytes: int = BATCH_BYTES,
) -> SinkResult:
    """Upsert the changed parts on (listing_id, attribute). Rows are never deleted from a table; a
    Parquet directory holds exactly the parts.

    Args:
        location: as in :func:`~raypipe.config.sinks.parse_sink`. A table that is not there is
            created with the parts' columns.
        parts: all of the view; those that the sink holds are not read.
        iceberg: properties of Iceberg's catalog (``catalog.iceberg``).
        version: of the labels, kept with each commit for people.
        batch_bytes: Arrow bytes that are merged at once.

    Raises:
        ConfigError: the location cannot be, or a package is missing.
        InputError: a table of other columns, or one that its library cannot write.
        ArtifactError: a part has a key twice, or other columns than another part.
        SinkConflictError: other writers came first each time.
        StorageError: the storage or the catalog is out of reach.
    """
    place = parse_sink(location)
    wanted = {part_mark(part.name, part.digest): part for part in parts}
    if place.kind == "parquet":
        named = {mark: (part.name, _checked(part)) for mark, part in wanted.items()}
        rows = ParquetSink(place).write(named, version)
    else:
        rows = list(_merge(_open(place, iceberg), wanted, version, batch_bytes))
    return SinkResult(
        location=str(place),
        parts_written=len(rows),
        parts_skipped=len(parts) - len(rows),
        rows_written=sum(rows),
    )


def _open(place: SinkLocation, iceberg: Mapping[str, str]) -> SinkTable:
    if place.kind == "iceberg":
        return IcebergSink(place, iceberg)
    return DeltaSink(place) if place.kind == "delta" else LanceSink(place)


def _merge(
    sink: SinkTable, wanted: Mapping[str, SinkPart], version: str, batch_bytes: int
) -> Iterator[int]:
    """Merge what the table does not hold, and yield the rows of each part once it does."""
    empty: set[str] = set()
    conflicts = 0
    while True:
        # Read again each time: what another writer made of the table counts.
        held = sink.open() & wanted.keys()
        missing = {mark: part for mark, part in wanted.items() if mark not in held | empty}
        batch = _read(missing, batch_bytes)
        empty |= {mark for mark, rows in batch.items() if not len(rows)}
        taken = {mark: rows for mark, rows in batch.items() if len(rows)}
        if not batch:
            return
        if not taken:
            continue
        rows = _concatenated(list(taken.values()))
        try:
            sink.prepare(rows.schema)
            sink.merge(rows, held | empty, frozenset(taken), version)
        except SinkConflictError:
            conflicts += 1
            if conflicts == MAX_CONFLICTS:
                raise
            time.sleep(FIRST_WAIT_S * 2 ** (conflicts - 1))
            continue
        conflicts = 0
        yield from map(len, taken.values())


def _read(parts: Mapping[str, SinkPart], batch_bytes: int) -> dict[str, pa.Table]:
    """The first of the parts, up to a size."""
    batch: dict[str, pa.Table] = {}
    size = 0
    for mark, part in parts.items():
        batch[mark] = _checked(part)()
        size += batch[mark].nbytes
        if size >= batch_bytes:
            break
    return batch


def _checked(part: SinkPart) -> Callable[[], pa.Table]:
    """A part's reader, which refuses a key that is there twice."""

    def read() -> pa.Table:
        rows = part.read()
        _refuse_doubled(rows, part.name)
        return rows

    return read


def _concatenated(tables: Sequence[pa.Table]) -> pa.Table:
    first = tables[0].schema
    if not all(table.schema.equals(first) for table in tables):
        raise ArtifactError("parts of the labels have different columns")
    rows = pa.concat_tables(tables)
    _refuse_doubled(rows, "parts of one batch")
    return rows


def _refuse_doubled(rows: pa.Table, name: str) -> None:
    keys = list(KEY)
    doubled = len(rows) - rows.select(keys).group_by(keys).aggregate([]).num_rows
    if doubled:
        raise ArtifactError(f"{name}: {doubled:,} labels are there twice")
