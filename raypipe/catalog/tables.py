"""A catalog in a Delta Lake, Iceberg or Lance table: copied once into the run, then Parquet.

    location → snapshot (newest, or pinned) → <run>/tables/<kind>-<digest>/ → Source

What a run reads cannot change beneath it, whatever becomes of the table, and everything after the
copy sees Parquet files as ever. The copy is a committed artifact: files of an interrupted one are
in no manifest, and the same call copies again. It is derived, and may be deleted to save space.
"""

import contextlib
import hashlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cached_property, partial
from types import TracebackType
from typing import Any, Self

import pyarrow as pa
import pyarrow.compute as pc

from raypipe import storage
from raypipe.catalog.answer_files import AnswerFiles, open_answers
from raypipe.catalog.hashed_files import HashedFiles
from raypipe.catalog.snapshots import Location, Snapshot, parse_location, resolve_snapshot
from raypipe.catalog.sources import Column, Source, check_columns, is_text, open_source
from raypipe.config import Config
from raypipe.errors import ConfigDriftError, InputError, RaypipeError
from raypipe.runtime import progress, stream
from raypipe.runtime.cluster import ensure_ray, without_bars
from raypipe.schemas import Table
from raypipe.security.identifiers import bounded
from raypipe.store import data_files, parquet
from raypipe.store.artifacts import Attempt, Run
from raypipe.store.data_files import DataFile
from raypipe.store.lease import lease
from raypipe.store.manifest import Commit
from raypipe.store.paths import TABLES

_ADVICE = ("Failed to apply UDF transform", "To change retry attempts")
_PAIR = pa.struct({"attribute": pa.string(), "value": pa.string()})


@dataclass(frozen=True, kw_only=True)
class Copy(Source):
    """The copy of a table's snapshot.

    It says of itself what the snapshot is and what its rows are, which is the same however often
    it is copied, into whatever files.
    """

    snapshot: str
    num_rows: int
    rows_digest: str
    file_hashes: tuple[str, ...]

    @property
    def name(self) -> str:
        return self.snapshot

    @cached_property
    def identity(self) -> list[list[object]]:
        return [[self.snapshot, self.num_rows, self.rows_digest]]

    def stamps(self) -> list[str]:
        return list(self.file_hashes)

    def content_stamps(self, hashed: HashedFiles) -> list[str]:
        return list(self.file_hashes)

    def digest(self, prefix: str, hashed: HashedFiles) -> dict[str, object]:
        return {
            f"{prefix}.snapshot": self.snapshot,
            f"{prefix}.rows": self.num_rows,
            f"{prefix}.digest": self.rows_digest,
        }


@dataclass(frozen=True, kw_only=True)
class CopiedAnswers(Copy, AnswerFiles):
    """The copy of a table of answers."""


class Tables:
    """Opens what a configuration names, tables and Parquet files alike. Use it as a context
    manager: where no Ray runs, the first copy starts one for all copies.

    Args:
        config: ``catalog.iceberg`` and ``cluster`` are used.
        run: where copies are.
        held: the fingerprint of what was made from these tables before. A table that it names is
            read at the snapshot that is in it, although the table has moved on.
    """

    def __init__(self, config: Config, run: Run, held: Mapping[str, Any] | None = None) -> None:
        self._config = config
        self._run = run
        self._held = dict(held or {})
        self._session = contextlib.ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._session.__exit__(kind, error, traceback)

    def open(self, location: str, columns: tuple[Column, ...], prefix: str = "") -> Source:
        """A source over Parquet files; a table is copied first, if it was not yet.

        Args:
            location: a path or URI of Parquet files, or a table as in :func:`snapshots.parse`.
            columns: the columns that are read, and copied.
            prefix: of the keys that this source has in the fingerprint ``held``.

        Raises:
            ConfigError: a package or a catalog is missing.
            ConfigDriftError: the location is pinned to another snapshot than the one in ``held``.
            InputError: no such table or snapshot, a column missing or mistyped, or an id that is
                null or there twice.
        """
        if parse_location(location) is None:
            return open_source(location, columns, image_roots=self._config.catalog.image_roots)
        return self._opened(location, columns, prefix)

    def _opened(self, location: str, columns: tuple[Column, ...], prefix: str) -> Copy:
        asked = parse_location(location)
        assert asked is not None
        parquet.refuse_unpickling(os.environ)
        held = self._held.get(f"{prefix}.snapshot")
        if held is not None:
            found = self._kept(asked, held, columns)
            if found is not None:
                return found
        snapshot = resolve_snapshot(
            (held and asked.pinned_by(held)) or asked, self._config.catalog.iceberg
        )
        if held not in (None, str(snapshot)):
            raise ConfigDriftError(
                f"{prefix}.snapshot: this run was made from {held}, not from {snapshot}. Give the "
                "run another name (run.name=…), or pin the snapshot that it was made from"
            )
        return self._copied(snapshot, columns)

    def answers(self, location: str, columns: tuple[Column, ...], prefix: str = "") -> AnswerFiles:
        """:meth:`open` for a seed or a truth."""
        if parse_location(location) is None:
            return open_answers(location, columns)
        copy = self._opened(location, columns, prefix)
        return CopiedAnswers(**{field.name: getattr(copy, field.name) for field in fields(copy)})

    def _kept(self, asked: Location, held: str, columns: tuple[Column, ...]) -> Copy | None:
        """The copy that the run was made from; without a table it is as good as with it."""
        artifact = self._run.artifact(_name(asked, held, columns))
        commit = artifact.commit()
        if asked.pinned_by(held) is None or commit is None:
            return None
        if asked.pin is None:
            try:
                newest = str(resolve_snapshot(asked, self._config.catalog.iceberg))
            except RaypipeError as error:
                newest = str(error)
            if newest != held:
                progress.logger.info(f"the run stays with {held}; now: {newest}")
        return self._source(commit, held, columns)

    def _copied(self, snapshot: Snapshot, columns: tuple[Column, ...]) -> Copy:
        name = str(snapshot)
        contract = _contract(snapshot, columns)
        artifact = self._run.artifact(_name(snapshot.location, name, columns), contract)
        commit = artifact.commit()
        if commit is None:
            progress.logger.info(f"copying {name} to {self._run.path(artifact.name)}")
            fingerprint = {"snapshot": name, "columns": [column.name for column in columns]}
            self._session.enter_context(ensure_ray(self._config.cluster))
            with lease(self._run, artifact.name):
                commit = artifact.commit() or _copy(
                    artifact.attempt(fingerprint), snapshot, contract
                )
        return self._source(commit, name, columns)

    def _source(self, commit: Commit, snapshot: str, columns: tuple[Column, ...]) -> Copy:
        files = sorted(commit.files, key=lambda file: file.sha256)
        return Copy(
            self._run.filesystem,
            tuple(self._run.path(commit.artifact, file.path) for file in files),
            None,
            columns,
            snapshot=snapshot,
            num_rows=commit.rows,
            rows_digest=commit.digest,
            file_hashes=tuple(file.sha256 for file in files),
        )


def _name(location: Location, snapshot: str, columns: tuple[Column, ...]) -> str:
    """The copy's artifact; other columns of the same snapshot are another copy."""
    canonical = json.dumps([snapshot, [column.name for column in columns]])
    digest = hashlib.sha256(canonical.encode()).hexdigest()[:12]
    return f"{TABLES}/{location.kind}-{digest}"


def _contract(snapshot: Snapshot, columns: tuple[Column, ...]) -> Table:
    """The columns of a table that are read, in types that do not depend on its format.

    Raises:
        InputError: a column is missing, of another type, or of one that may hold code.
    """
    present = [column.name for column in columns if column.name in snapshot.schema.names]
    read = pa.schema([snapshot.schema.field(name) for name in present])
    parquet.check_types(read, str(snapshot))  # before its notes are lost below
    fields = [(name, _plain(snapshot.schema.field(name).type)) for name in present]
    others = [(name, pa.null()) for name in snapshot.schema.names if name not in present]
    check_columns(pa.schema([*fields, *others]), columns, str(snapshot))
    return Table("tables", pa.schema(fields), ("listing_id",))


def _plain(kind: pa.DataType) -> pa.DataType:
    """A type as Parquet's own reader gives it; a map of texts as a list of its pairs."""
    if is_text(kind) or pa.types.is_string_view(kind):
        return pa.string()
    if pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind):
        return pa.binary()
    if pa.types.is_map(kind):
        texts = is_text(kind.key_type) and is_text(kind.item_type)
        return pa.list_(_PAIR) if texts else kind
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return pa.list_(_plain(kind.value_type))
    if pa.types.is_struct(kind):
        return pa.struct([(field.name, _plain(field.type)) for field in kind])
    return kind


def _copy(attempt: Attempt, snapshot: Snapshot, contract: Table) -> Commit:
    """Write the rows of a snapshot, each block where it was read.

    Raises:
        InputError: no rows, an id that is null or there twice, or files that cannot be read.
        StorageError: the table or the run is out of reach.
    """
    name = str(snapshot)
    written: list[DataFile] = []

    def far() -> str | None:
        return f"{sum(len(file.ids) for file in written):,} rows copied" if written else None

    try:
        with without_bars(), progress.reported(far):
            dataset = snapshot.read(contract.schema.names).map_batches(
                partial(_write, attempt, name), batch_format="pyarrow", batch_size=None
            )
            for batch in dataset.iter_batches(batch_size=None, batch_format="pyarrow"):
                written += data_files.from_table(batch)
    except Exception as error:
        known = stream.unwrap_ray_error(error)
        if isinstance(known, OSError | pa.ArrowException | ValueError) or _is_of_reader(known):
            unknown = InputError(f"{name} cannot be read: {_said(known)}")
            raise storage.unreadable(name, known, unknown) from error
        raise known from error
    if not written:
        raise InputError(f"{name} holds no rows")
    _check_ids(pa.concat_arrays([file.ids for file in written]), name)
    return attempt.commit(written=written)


def _is_of_reader(error: BaseException) -> bool:
    """Whether a task raised it that reads: readers of tables have errors of their own."""
    from ray.exceptions import RayTaskError, UserCodeException

    return isinstance(error, RayTaskError) and not isinstance(error, UserCodeException)


def _said(error: BaseException) -> str:
    """What a reader says, without Ray's advice on retries and on unpickling what a file holds."""
    text = str(error).strip()
    if parquet.UNPICKLING not in text:
        lines = [line for line in text.splitlines() if not line.startswith(_ADVICE)]
        return lines[-1]
    columns = re.search(r"arrow_\w+_object': (\[.*?\])", text)
    which = f"the columns {columns[1]} are" if columns else "a column is"
    return f"in a data file {which} of an extension type that holds code"


def _write(attempt: Attempt, name: str, block: pa.Table) -> pa.Table:
    parquet.refuse_unpickling(os.environ)
    parquet.check_types(block.schema, name)
    if not len(block):
        return data_files.to_table([])
    _check_ids(block.column("listing_id").combine_chunks(), name)
    return data_files.to_table([attempt.store(block)])


def _check_ids(ids: pa.Array, name: str) -> None:
    if ids.null_count:
        raise InputError(f"{name}: a listing_id is null; every row needs one")
    counted = pc.value_counts(ids)
    doubled = counted.field("values").filter(pc.greater(counted.field("counts"), 1))
    if len(doubled):
        first = bounded(pc.min(doubled).as_py())
        raise InputError(f"{name}: the listing_id '{first}' is there twice")
