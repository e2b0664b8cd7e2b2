"""The user's Parquet files: checked up front, read in record batches, never as a whole.

A fault of a file (not of a row) is an InputError that names the file and the column.
"""

import hashlib
import posixpath
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from raypipe import storage
from raypipe.catalog.hashed_files import HashedFiles
from raypipe.catalog.paths import roots_on
from raypipe.catalog.record_batches import between, gathered
from raypipe.catalog.shards import Piece, RowGroup, SourceFile, SourceShard, cut
from raypipe.errors import InputError, RaypipeError
from raypipe.security.identifiers import all_bounded, identified
from raypipe.store import parquet

ROWS_PER_BATCH = 16
_FOOTERS_AT_ONCE = 16


@dataclass(frozen=True)
class Column:
    """A column that a file must have, or may have, and the types that it may be of.

    ``fields`` are those that are read of each of its structs, if it holds structs.
    """

    name: str
    expected: str
    accepts: Callable[[pa.DataType], bool]
    required: bool = True
    fields: tuple[str, ...] = ()


def is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _is_list_of(kind: pa.DataType, accepts: Callable[[pa.DataType], bool]) -> bool:
    is_list = pa.types.is_list(kind) or pa.types.is_large_list(kind)
    return bool(is_list and accepts(kind.value_type))


def _is_image(kind: pa.DataType) -> bool:
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or is_text(kind))


def _is_struct_of(*names: str) -> Callable[[pa.DataType], bool]:
    def accepts(kind: pa.DataType) -> bool:
        if not pa.types.is_struct(kind):
            return False
        fields = {field.name: field.type for field in kind}
        return all(name in fields and is_text(fields[name]) for name in names)

    return accepts


def _is_text_map(kind: pa.DataType) -> bool:
    return bool(pa.types.is_map(kind) and is_text(kind.key_type) and is_text(kind.item_type))


def _answers(*names: str) -> Column:
    fields = ", ".join(f"{name}: string" for name in names)
    return Column(
        "answers",
        f"list<struct<{fields}>>",
        lambda kind: _is_list_of(kind, _is_struct_of(*names)),
        fields=(*names, *_REVIEWED),
    )


# What an answer says of itself where a person gave it.
_REVIEWED = ("source", "reviewed_at")
_ID = Column("listing_id", "string", is_text)
LISTINGS_COLUMNS = (
    _ID,
    Column("vertical", "string", is_text),
    Column("images", "list<binary> or list<string>", lambda kind: _is_list_of(kind, _is_image)),
    Column("group_id", "string", is_text, required=False),
    Column(
        "seller_values",
        "list<struct<attribute: string, value: string>> or map<string, string>",
        lambda kind: _is_list_of(kind, _is_struct_of("attribute", "value")) or _is_text_map(kind),
        required=False,
        fields=("attribute", "value"),
    ),
)
SEED_COLUMNS = (_ID, _answers("attribute", "reasoning", "answer"))
TRUTH_COLUMNS = (
    _ID,
    _answers("attribute", "value"),
    Column("split", "string", is_text, required=False),
)
SPLITS_COLUMNS = (_ID, Column("split", "string", is_text))
SPLITS_FILE = "splits.parquet"


@dataclass(frozen=True)
class Footer:
    """Of a file: its row groups, and whether its images are paths or addresses."""

    groups: tuple[RowGroup, ...]
    names_images: bool


@dataclass(frozen=True)
class Source:
    """A Parquet file, or all Parquet files below a directory, whose columns were checked.

    ``directory`` is where the paths of images start; with None there are none, and images are bytes
    or URIs. ``image_roots`` are other directories below which they may lie. ``is_directory`` says
    that the directory was named, and not one file in it.
    """

    filesystem: pafs.FileSystem
    files: tuple[str, ...]
    directory: str | None
    columns: tuple[Column, ...]
    is_directory: bool = False
    image_roots: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """What messages call it."""
        return self.files[0]

    def beside(self, name: str, columns: tuple[Column, ...]) -> "Source | None":
        """The file ``name`` in this source's directory, checked; None when it is not there."""
        if self.directory is None:
            return None
        path = posixpath.join(self.directory, name)
        with storage.storage_errors(f"cannot look at {path}"):
            if not self.filesystem.get_file_info(path).is_file:
                return None
        return _checked(Source(self.filesystem, (path,), self.directory, columns))

    def rows(
        self, wanted: Collection[str] | None = None, names: Sequence[str] | None = None
    ) -> Iterator[dict[str, Any]]:
        """Rows as Python values, read a few at a time; a column that a file lacks is None.

        Args:
            wanted: the listing ids to return; None returns all rows.
            names: the columns to read, ``listing_id`` among them; None reads all.

        Raises:
            InputError: a file is truncated or corrupt.
            StorageError: a file is out of reach.
        """
        names = [column.name for column in self.columns] if names is None else list(names)
        for path in self.files:
            for batch in self._batches(path, names):
                if wanted is not None:
                    ids = batch.column("listing_id").to_pylist()
                    batch = batch.filter(pa.array([name in wanted for name in ids], pa.bool_()))
                for row in _values(path, batch):
                    yield dict.fromkeys(names) | row

    def read(self, names: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """Some columns of all rows; one that a file lacks is left out.

        Raises:
            InputError: a file is truncated or corrupt.
            StorageError: a file is out of reach.
        """
        for path in self.files:
            yield from self._batches(path, list(names))

    @cached_property
    def listing_ids(self) -> frozenset[str]:
        """Every id. Raises InputError for a doubled one."""
        seen: set[str] = set()
        for path in self.files:
            for batch in self._batches(path, ["listing_id"]):
                for identifier in batch.column(0).to_pylist():
                    if identifier in seen:
                        raise InputError(f"{path}: the listing_id '{identifier}' is there twice")
                    seen.add(identifier)
        return frozenset(seen)

    def _batches(
        self,
        path: str,
        names: Sequence[str],
        rows: int = ROWS_PER_BATCH,
        groups: list[int] | None = None,
    ) -> Iterator[pa.RecordBatch]:
        """Columns that the file has, of its structs only the fields that are known."""
        fields = {column.name: column.fields for column in self.columns}
        with _opened(self.filesystem, path) as file:
            present = [name for name in names if name in file.schema_arrow.names]
            chosen = parquet.leaves(file, {name: fields.get(name, ()) for name in present})
            if groups and groups[-1] >= file.num_row_groups:
                raise InputError(f"{path} changed while it was read; the same command reads it")
            before = range(groups[0]) if groups else ()
            row = sum(file.metadata.row_group(index).num_rows for index in before)
            try:
                for batch in file.iter_batches(rows, groups, columns=chosen, use_threads=False):
                    yield _bounded(batch.select(present), self._shown(path), row)
                    row += len(batch)
            except (pa.ArrowException, OSError) as error:
                raise _broken(path, error) from error

    def _shown(self, path: str) -> str:
        """A file's name below the directory that was named."""
        return posixpath.relpath(path, self.directory or posixpath.dirname(path))

    def shards(self, stamps: Sequence[str] | None = None) -> list[SourceShard]:
        """The shards of the files, from their footers.

        Args:
            stamps: what tells of every file whether it has changed; None takes :meth:`stamps`.
        """
        stamps = self.stamps() if stamps is None else stamps
        return cut(map(SourceFile, self.files, stamps, (one.groups for one in self.footers)))

    @cached_property
    def footers(self) -> list[Footer]:
        """What the footer of every file says; each file is opened once for it.

        Raises:
            InputError: the first file that cannot be read or whose columns are not those expected.
            StorageError: a file is out of reach.
        """
        with ThreadPoolExecutor(_FOOTERS_AT_ONCE, thread_name_prefix="footers") as threads:
            return list(threads.map(self._footer, self.files))

    def _footer(self, path: str) -> Footer:
        with _opened(self.filesystem, path) as file:
            check_columns(file.schema_arrow, self.columns, path)
            groups = map(file.metadata.row_group, range(file.num_row_groups))
            return Footer(
                tuple(RowGroup(group.num_rows, _stored_bytes(group)) for group in groups),
                _lists_texts(file.schema_arrow, "images"),
            )

    def stamps(self) -> list[str]:
        """Of every file, what changes with its content."""
        return [f"{path} {size} {time}" for path, size, time in self.identity]

    def read_piece(self, piece: Piece, names: Sequence[str], rows: int) -> Iterator[pa.Table]:
        """The rows of a piece, so many at a time, or fewer where they are large; a column that
        the file lacks is null.

        Raises:
            InputError: the file is truncated or corrupt.
            StorageError: it is out of reach.
        """
        batches = self._batches(piece.path, names, min(rows, ROWS_PER_BATCH), [piece.group])
        for some in gathered(between(batches, piece.first, piece.rows), rows):
            table = pa.Table.from_batches(some).combine_chunks()
            for name in names:
                if name not in table.column_names:
                    table = table.append_column(name, pa.nulls(len(table), pa.string()))
            yield table

    def each_file(self) -> Iterator["Source"]:
        """The files as sources of their own."""
        for path in self.files:
            yield Source(self.filesystem, (path,), self.directory, self.columns)

    @cached_property
    def identity(self) -> list[list[object]]:
        """Name, size and time of every file, from before its footers are read."""
        with storage.storage_errors(f"cannot look at {self.name}"):
            infos = self._infos()
        return [[info.path, info.size, info.mtime_ns] for info in infos]

    def __getstate__(self) -> dict[str, object]:
        # Without what is cached: tasks read pieces, and a catalog's footers are large.
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def _infos(self) -> list[pafs.FileInfo]:
        """Of the files; those of a directory come with its listing."""
        if not self.is_directory:
            return list(self.filesystem.get_file_info(list(self.files)))
        selector = pafs.FileSelector(self.directory, recursive=True)
        found = {info.path: info for info in self.filesystem.get_file_info(selector)}
        return [found.get(path, pafs.FileInfo(path)) for path in self.files]

    def content_stamps(self, hashed: HashedFiles) -> list[str]:
        """Of every file what tells its content, wherever it is; equal ones are numbered."""
        seen: Counter[str] = Counter()
        stamps = []
        for file in hashed.of(self.filesystem, self.files):
            stamps.append(f"{file.sha256} {seen[file.sha256]}")
            seen[file.sha256] += 1
        return stamps

    def digest(self, prefix: str, hashed: HashedFiles) -> dict[str, object]:
        """What the files hold, for a fingerprint: their number, bytes and one digest of them all.

        Names and places stay out, so that moving or reordering the files changes nothing.

        Args:
            prefix: of the keys.
            hashed: the files that were hashed before.
        """
        files = hashed.of(self.filesystem, self.files)
        digests = sorted(bytes.fromhex(file.sha256) for file in files)
        return {
            f"{prefix}.files": len(files),
            f"{prefix}.bytes": sum(file.size for file in files),
            f"{prefix}.sha256": hashlib.sha256(b"".join(digests)).hexdigest(),
        }


def open_source(
    location: str,
    columns: tuple[Column, ...],
    leave_out: Collection[str] = (),
    image_roots: Iterable[str] = (),
) -> Source:
    """Find the files behind a path or URI and check the columns of each.

    Args:
        location: a Parquet file, or a directory of them.
        columns: what the files must and may have.
        leave_out: names of files in that directory which are something else.
        image_roots: paths or URIs below which images may lie too.

    Raises:
        InputError: nothing there, not Parquet, truncated, or a column missing or mistyped.
        StorageError: the storage is out of reach.
    """
    source = find_source(location, columns, leave_out, image_roots)
    if source is None:
        raise InputError(f"there are no Parquet files at {location}")
    return source


def find_source(
    location: str,
    columns: tuple[Column, ...],
    leave_out: Collection[str] = (),
    image_roots: Iterable[str] = (),
) -> Source | None:
    """:func:`open_source`, but None where nothing is."""
    try:
        absolute = location if "://" in location else str(Path(location).resolve())
        filesystem, path = pafs.FileSystem.from_uri(absolute)
        info = filesystem.get_file_info(path)
        is_directory = info.type == pafs.FileType.Directory
        files = [path]
        if is_directory:
            found = filesystem.get_file_info(pafs.FileSelector(path, recursive=True))
            names = {
                entry.path: posixpath.relpath(entry.path, path)
                for entry in found
                if entry.type != pafs.FileType.Directory  # Spark calls one like a file
            }
            files = sorted(
                file for file, name in names.items() if _is_table(name) and name not in leave_out
            )
    except (pa.ArrowException, OSError) as error:
        unknown = InputError(f"cannot open {location}: {error}")
        raise storage.unreadable(location, error, unknown) from error
    if info.type == pafs.FileType.NotFound or not files:
        return None
    directory = path if is_directory else posixpath.dirname(path)
    roots = roots_on(filesystem, image_roots)
    return _checked(Source(filesystem, tuple(files), directory, columns, is_directory, roots))


def _checked(source: Source) -> Source:
    _ = source.identity, source.footers
    return source


def _lists_texts(schema: pa.Schema, name: str) -> bool:
    """Whether a column holds lists of texts."""
    return name in schema.names and _is_list_of(schema.field(name).type, is_text)


def _stored_bytes(group: pq.RowGroupMetaData) -> int:
    return sum(group.column(index).total_compressed_size for index in range(group.num_columns))


def _is_table(path: str) -> bool:
    """Hidden files and those that writers keep beside the tables (``_SUCCESS``) are not."""
    hidden = any(part.startswith((".", "_")) for part in path.split("/"))
    return path.endswith(".parquet") and not hidden


@contextmanager
def _opened(filesystem: pafs.FileSystem, path: str) -> Iterator[pq.ParquetFile]:
    with ExitStack() as opening:
        try:
            file = opening.enter_context(parquet.opened(path, filesystem))
        except (pa.ArrowException, OSError) as error:
            unknown = InputError(f"{path} is not a readable Parquet file: {error}")
            raise storage.unreadable(path, error, unknown) from error
        yield file


def _bounded(batch: pa.RecordBatch, place: str, first_row: int) -> pa.RecordBatch:
    """Rows of UTF-8 whose names (id, vertical, group, split) are not too long, and which can be
    told apart where an id is missing."""
    batch.validate(full=True)  # text that is not UTF-8 would fail much later
    columns = {
        name: all_bounded(column) if is_text(column.type) else column
        for name, column in zip(batch.schema.names, batch.columns, strict=True)
    }
    if "listing_id" in columns:
        columns["listing_id"] = identified(columns["listing_id"], place, first_row)
    return pa.RecordBatch.from_arrays(list(columns.values()), names=list(columns))


def _values(path: str, batch: pa.RecordBatch) -> list[dict[str, Any]]:
    try:
        return list(batch.to_pylist())
    except (ValueError, OverflowError) as error:  # a moment that Python has no date for
        raise InputError(f"{path} holds a value that cannot be read: {error}") from error


def _broken(path: str, error: Exception) -> RaypipeError:
    corrupt = InputError(f"{path} is truncated or corrupt: {error}")
    return storage.unreadable(path, error, corrupt)


def check_columns(schema: pa.Schema, columns: tuple[Column, ...], path: str) -> None:
    """Raises InputError for the first column that is missing, mistyped, doubled or of a type that
    may hold code in ``path``."""
    parquet.check_types(schema, path)
    for column in columns:
        if column.name not in schema.names:
            if column.required:
                raise InputError(
                    f"{path}: the column '{column.name}' ({column.expected}) is missing; there "
                    f"are {', '.join(schema.names)}"
                )
            continue
        kind = schema.field(column.name).type
        if not column.accepts(kind):
            raise InputError(
                f"{path}: the column '{column.name}' is {kind}, expected {column.expected}"
            )
