"""Opens all Parquet files, a user's and a run's own.

A file may name an extension type for any column, and Arrow instantiates a registered one when it
opens the file: the type's Python class gets bytes of the file, which Ray's may run as code. So the
metadata that names them (``ARROW:schema``) is removed from the footer before Arrow sees it, and
checked separately in a copy without extension names. Arrow then sees Parquet's own types only:
bytes, numbers and text.
"""

import base64
import contextlib
import os
import secrets
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from raypipe.errors import ConfigError, InputError

# Arrow's own extension types, implemented without Python, with JSON or no metadata: a file may name
# them, and is read as their storage types.
HARMLESS = frozenset(
    {
        "arrow.bool8",  # int8
        "arrow.fixed_shape_tensor",  # a list; catalogs keep embeddings so
        "arrow.json",  # text
        "arrow.uuid",  # 16 bytes
    }
)
# With these set, Ray runs code in a file; other versions may have more of them.
UNPICKLING = "RAY_DATA_AUTOLOAD_"
MAX_FOOTER = 256 << 20
STREAM_BUFFER = 1 << 20
_NOTE = b"ARROW:schema"
_EXTENSION = b"ARROW:extension:name"
_MAGIC = b"PAR1"
_ENDING = 8  # the footer's length and the magic
_TAIL = 64 << 10  # holds most footers whole, so that an object store gets one request


def refuse_unpickling(environment: Mapping[str, str]) -> None:
    """Raises ConfigError if an environment variable lets Ray run code in files."""
    for name, value in environment.items():
        is_on = value.strip().lower() not in ("", "0", "false", "no", "off")
        if name.startswith(UNPICKLING) and is_on:
            raise ConfigError(
                f"{name}={value}: with it Ray runs code that a Parquet file holds; unset it, here "
                "and on every node"
            )


@contextlib.contextmanager
def opened(
    source: str | pa.Buffer, filesystem: pafs.FileSystem | None = None, *, streamed: bool = True
) -> Iterator[pq.ParquetFile]:
    """Open a Parquet file with unique columns of Parquet's own types.

    Args:
        source: its path, or its bytes.
        filesystem: of the path.
        streamed: read column chunks piece by piece, not a row group at a time.

    Raises:
        ConfigError: an environment variable lets Ray run code in files.
        InputError: a column is of an extension type, or two have one name.
        ArrowException, OSError: it is not Parquet, truncated, corrupt or unreachable.
    """
    refuse_unpickling(os.environ)
    name = source if isinstance(source, str) else "a file in memory"
    is_local = isinstance(filesystem, pafs.LocalFileSystem)
    if is_local and Path(name).exists() and not Path(name).is_file():
        raise pa.ArrowInvalid("it is no regular file")  # opening a pipe would wait for a writer
    with filesystem.open_input_file(source) if filesystem else pa.BufferReader(source) as content:
        try:
            file = pq.ParquetFile(
                content,
                metadata=_metadata(content, name),
                buffer_size=STREAM_BUFFER if streamed else 0,
                pre_buffer=not streamed,
                page_checksum_verification=True,
                arrow_extensions_enabled=False,
            )
            check_types(file.schema_arrow, name)
            _check_paths(file, name)
        except (ValueError, RecursionError) as error:  # a name that is not UTF-8, endless nesting
            raise pa.ArrowInvalid(str(error)) from error
        yield file


def read(
    source: str | pa.Buffer,
    filesystem: pafs.FileSystem | None = None,
    columns: Sequence[str] | None = None,
) -> pa.Table:
    """All rows of a file, or some columns of them; "queries.attribute" is one field of a struct, or
    of a list of structs. Raises what :func:`opened` raises."""
    with opened(source, filesystem, streamed=False) as file:
        if columns is None:
            return file.read()
        wanted: dict[str, list[str]] = {}
        for column in columns:
            name, _, path = column.partition(".")
            inner = [path] if path else []
            if not leaves(file, {name: inner}):
                raise pa.ArrowInvalid(f"there is no column '{column}'")
            wanted.setdefault(name, []).extend(inner)
        return file.read(leaves(file, wanted)).select(list(wanted))


def read_group(
    path: str, filesystem: pafs.FileSystem, columns: Sequence[str], row: int
) -> tuple[int, int, pa.Table]:
    """The row group that holds a row: its first row, the rows of the file, and its rows.

    Raises what :func:`opened` raises, and ArrowException when there is no such row.
    """
    with opened(path, filesystem, streamed=False) as file:
        first = 0
        for number in range(file.metadata.num_row_groups):
            size = file.metadata.row_group(number).num_rows
            if first <= row < first + size:
                table = file.read_row_group(number, list(columns)).select(list(columns))
                return first, file.metadata.num_rows, table
            first += size
    raise pa.ArrowInvalid(f"there is no row {row}")


def leaves(file: pq.ParquetFile, wanted: Mapping[str, Collection[str]]) -> list[str]:
    """The paths of the leaf columns to read; ``wanted`` holds columns of the file, each with the
    fields to read of a struct or a list of structs, empty for all. A dot is between a field and
    one of its own fields."""
    schema = file.metadata.schema
    paths = iter([schema.column(index).path for index in range(len(schema))])
    chosen = []
    for field in file.schema_arrow:
        own = list(islice(paths, _num_leaves(field.type)))
        if field.name in wanted:
            chosen += _chosen(field.type, own, wanted[field.name])
    return chosen


def _chosen(kind: pa.DataType, own: list[str], wanted: Collection[str]) -> list[str]:
    """Of the leaf columns of a type, those of the wanted fields."""
    element = kind.value_type if pa.types.is_list(kind) else kind
    if not wanted or not pa.types.is_struct(element):
        return own
    left, chosen = iter(own), []
    for field in element:
        of_field = list(islice(left, _num_leaves(field.type)))
        inner = [
            path for name, _, path in (one.partition(".") for one in wanted) if name == field.name
        ]
        if inner:
            chosen += _chosen(field.type, of_field, [path for path in inner if path])
    return chosen


def check_types(schema: pa.Schema, name: str, key: bytes = _EXTENSION) -> None:
    """Refuse extension types and duplicate columns.

    Args:
        schema: of the file or table.
        name: its name, for messages.
        key: the field metadata key that names an extension type unknown to Arrow.

    Raises:
        InputError: an extension type anywhere, or two columns of one name.
    """
    for path, kind in _extensions(schema, "", key):
        if kind not in HARMLESS:
            raise InputError(
                f"{name}: the column '{path}' is of the extension type '{kind}', which may hold "
                "code that runs when it is read; write the file without this column, or with a "
                "plain type"
            )
    for path in _doubled(schema, ""):
        raise InputError(f"{name}: there are two columns '{path}'; keep one, or rename one")


def _metadata(content: pa.NativeFile, name: str) -> pq.FileMetaData:
    """The footer without ``ARROW:schema``, which is checked separately."""
    footer = _footer(content)
    note = secrets.token_hex(len(_NOTE) // 2).encode()  # a file cannot guess it
    renamed = footer.replace(_NOTE, note)
    whole = b"".join((_MAGIC, renamed, len(renamed).to_bytes(4, "little"), _MAGIC))
    with pq.ParquetFile(pa.BufferReader(whole), arrow_extensions_enabled=False) as file:
        metadata = file.metadata
    encoded = (metadata.metadata or {}).get(note)
    if encoded is not None:
        _check_note(encoded, name)
    return metadata


def _footer(content: pa.NativeFile) -> bytes:
    size = content.size()
    tail = content.read_at(min(size, _TAIL), max(0, size - _TAIL))
    if tail[-4:] == b"PARE":
        raise pa.ArrowInvalid("it is encrypted")
    if size < len(_MAGIC) + _ENDING or tail[-4:] != _MAGIC:
        raise pa.ArrowInvalid("it does not end as a Parquet file does")
    length = int.from_bytes(tail[-_ENDING:-4], "little")
    if length > min(size - len(_MAGIC) - _ENDING, MAX_FOOTER):
        raise pa.ArrowInvalid(f"its footer should have {length:,} bytes of the file's {size:,}")
    if length > len(tail) - _ENDING:
        tail = content.read_at(length + _ENDING, size - length - _ENDING)
    return bytes(tail[-_ENDING - length : -_ENDING])


def _check_note(note: bytes, name: str) -> None:
    """Refuse extension types that ``ARROW:schema`` names, without instantiating any."""
    key = secrets.token_hex(len(_EXTENSION) // 2).encode()
    try:
        content = base64.b64decode(note, validate=True).replace(_EXTENSION, key)
        schema = pa.ipc.read_schema(pa.py_buffer(content))
    except (pa.ArrowException, OSError, ValueError) as error:
        raise InputError(
            f"{name}: its note of Arrow's types (ARROW:schema) is unreadable: {error}"
        ) from error
    check_types(schema, name, key)
    # Arrow drops the metadata of run-end encoded values.
    if content.count(key) > len(list(_extensions(schema, "", key))):
        raise InputError(
            f"{name}: a run-end encoded column is of an extension type, which may hold code that "
            "runs when it is read; write the file with plain types"
        )


def _check_paths(file: pq.ParquetFile, name: str) -> None:
    """Columns are selected by dotted path, and names may contain dots."""
    schema = file.metadata.schema
    paths = Counter(schema.column(index).path for index in range(len(schema)))
    path, count = max(paths.items(), key=lambda item: item[1], default=("", 0))
    if count > 1:
        raise InputError(f"{name}: there are two columns '{path}'; keep one, or rename one")


def _extensions(fields: Iterable[pa.Field], above: str, key: bytes) -> Iterator[tuple[str, str]]:
    """Path and name of every extension type, nested ones included."""
    for field in fields:
        path = _path(above, field)
        extension = (field.metadata or {}).get(key)
        if extension is not None:
            yield path, extension.decode(errors="replace")
        yield from _extensions_of(field.type, path, key)


def _extensions_of(kind: pa.DataType, path: str, key: bytes) -> Iterator[tuple[str, str]]:
    if isinstance(kind, pa.BaseExtensionType):
        yield path, kind.extension_name
        yield from _extensions_of(kind.storage_type, path, key)
    elif pa.types.is_dictionary(kind):
        yield from _extensions_of(kind.value_type, path, key)
    else:
        above = path if pa.types.is_struct(kind) else f"{path}[]"
        yield from _extensions(_children(kind), above, key)


def _doubled(fields: Iterable[pa.Field], above: str) -> Iterator[str]:
    """Paths that more than one column has."""
    given = list(fields)
    counts = Counter(field.name for field in given)
    yield from (_path(above, field) for field in given if counts[field.name] > 1)
    for field in given:
        path = _path(above, field)
        path = path if pa.types.is_struct(field.type) else f"{path}[]"
        yield from _doubled(_children(field.type), path)


def _path(above: str, field: pa.Field) -> str:
    """A path for messages; list items have no name of their own."""
    if above.endswith("[]"):
        return above.removesuffix("[]")
    return f"{above}.{field.name}" if above else field.name


def _children(kind: pa.DataType) -> list[pa.Field]:
    return [kind.field(index) for index in range(kind.num_fields)]


def _num_leaves(kind: pa.DataType) -> int:
    return sum(_num_leaves(child.type) for child in _children(kind)) or 1
