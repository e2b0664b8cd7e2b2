"""Written data files and their metadata, from which the driver commits them without reading them.

A file is written on the node that makes its rows; only its metadata, a few hundred bytes and the
ids, goes to the driver.
"""

import hashlib
import posixpath
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Literal

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from raypipe import storage
from raypipe.errors import ArtifactError, InputError
from raypipe.schemas import Table
from raypipe.store import parquet
from raypipe.store.digest import digest_rows
from raypipe.store.manifest import File, FileKind
from raypipe.store.run_directory import RunDirectory

DATA_FILES = pa.schema(
    [
        ("path", pa.string()),
        ("kind", pa.string()),
        ("size", pa.int64()),
        ("sha256", pa.string()),
        ("rows", pa.int64()),
        ("digest", pa.string()),
        ("ids", pa.list_(pa.string())),
    ]
)


RowKind = Literal["data", "quarantine"]
_NAMED = 16  # hex digits of its sha256 in a file's name
_ROW_GROUP_BYTES = 2 << 20  # in memory; a row is read with its row group


@dataclass(frozen=True)
class DataFile:
    """One written file: its manifest entry, the digest of its rows, and their unique ids (values
    of the table's first key column), which are left out where a task has checked them."""

    entry: File
    digest: int
    ids: pa.Array = field(default_factory=partial(pa.array, (), pa.string()))

    def to_row(self) -> dict[str, object]:
        """As a row of ``DATA_FILES``."""
        file = self.entry
        return {
            "path": file.path,
            "kind": file.kind,
            "size": file.size,
            "sha256": file.sha256,
            "rows": file.rows,
            "digest": f"{self.digest:032x}",
            "ids": self.ids,
        }


def from_table(table: pa.Table) -> list[DataFile]:
    """The files in a table of ``DATA_FILES``; the ids stay in Arrow."""
    ids = [chunk[i].values for chunk in table.column("ids").chunks for i in range(len(chunk))]
    rows = table.drop_columns(["ids"]).to_pylist()
    return [
        DataFile(
            File(row["path"], row["kind"], row["size"], row["sha256"], row["rows"]),
            int(row["digest"], 16),
            row_ids,
        )
        for row, row_ids in zip(rows, ids, strict=True)
    ]


def to_table(written: Sequence[DataFile]) -> pa.Table:
    return pa.Table.from_pylist([file.to_row() for file in written], schema=DATA_FILES)


def write_rows(
    table: pa.Table,
    contract: Table,
    kind: FileKind,
    filesystem: pafs.FileSystem,
    root: str,
    directory: str,
) -> DataFile:
    """Write rows as one Parquet file with page checksums.

    Its name holds the time, so that files sort in order of writing, and the sha256 that
    :func:`inspect` checks.

    Args:
        table: the rows; all rows of an id are in this one file.
        contract: the schema they must conform to.
        root: directory of the artifact.
        directory: of the new file, below ``root``.

    Raises:
        ArtifactError: the rows break the contract, or a key is duplicated.
        StorageError: the file cannot be written, for instance because the disk is full.
    """
    rows = contract.conform(table)
    path, content, sha256 = write_piece(rows, filesystem, directory)
    return _describe(rows, contract, content, sha256, kind, root, path)


def write_piece(
    rows: pa.Table, filesystem: pafs.FileSystem, directory: str
) -> tuple[str, pa.Buffer, str]:
    """Write rows that conform to their contract as :func:`write_rows` does; returns the path, the
    content and its sha256."""
    sink = pa.BufferOutputStream()
    pq.write_table(
        rows,
        sink,
        row_group_size=max(1, len(rows) * _ROW_GROUP_BYTES // max(rows.nbytes, 1)),
        write_page_checksum=True,
        compression="zstd",
    )
    content = sink.getvalue()
    sha256 = hashlib.sha256(content).hexdigest()
    path = f"{directory}/{time.time_ns()}-{sha256[:_NAMED]}.parquet"
    make_directory(filesystem, directory)
    with (
        storage.storage_errors(f"cannot write {path} ({content.size:,} bytes)"),
        filesystem.open_output_stream(path) as stream,
    ):
        stream.write(content)
    _make_durable(filesystem, path)
    return path, content, sha256


def make_directory(filesystem: pafs.FileSystem, path: str) -> None:
    """Create a local directory; object stores have none, and the call would cost requests."""
    if isinstance(filesystem, pafs.LocalFileSystem):
        with storage.storage_errors(f"cannot write {path}"):
            filesystem.create_dir(path, recursive=True)


def _make_durable(filesystem: pafs.FileSystem, path: str) -> None:
    if isinstance(filesystem, pafs.LocalFileSystem):
        storage.make_durable(path)


def inspect(
    contract: Table, kind: FileKind, filesystem: pafs.FileSystem, root: str, path: str
) -> DataFile | None:
    """Read a file of another process; None if it is truncated, changed or of another table.
    Raises StorageError when the storage cannot be reached."""
    try:
        storage.refuse_irregular(filesystem, path)
        with filesystem.open_input_stream(path) as stream:
            content = pa.py_buffer(stream.read())
        table = _parsed(contract, content, path)
        if table is None:
            return None
        sha256 = hashlib.sha256(content).hexdigest()
        file = _describe(table, contract, content, sha256, kind, root, path)
        _make_durable(filesystem, path)  # its writer may have been killed before that
        return file
    except (ArtifactError, OSError) as error:
        if storage.is_at_fault(error):
            raise storage.failed(f"cannot read {path}", error) from error
        return None


def read_written(run: RunDirectory, contract: Table, path: str) -> pa.Table | None:
    """The rows of a file of another process; None if it is truncated, changed or of another table.
    Raises StorageError when the storage cannot be reached."""
    content = run.read(path.removeprefix(f"{run.root}/"))
    return None if content is None else _parsed(contract, pa.py_buffer(content), path)


def _parsed(contract: Table, content: pa.Buffer, path: str) -> pa.Table | None:
    if not path.endswith(f"-{hashlib.sha256(content).hexdigest()[:_NAMED]}.parquet"):
        return None
    try:
        return contract.conform(parquet.read(content))
    except (ArtifactError, InputError, pa.ArrowException):
        return None


def _describe(
    rows: pa.Table,
    contract: Table,
    content: pa.Buffer,
    sha256: str,
    kind: FileKind,
    root: str,
    path: str,
) -> DataFile:
    key = list(contract.key)
    doubled = len(rows) - rows.select(key).group_by(key).aggregate([]).num_rows
    if doubled:
        raise ArtifactError(f"{path}: {doubled} rows came out twice")
    ids = pc.unique(rows.column(key[0]))
    file = File(
        path=posixpath.relpath(path, root),
        kind=kind,
        size=content.size,
        sha256=sha256,
        rows=len(rows),
    )
    return DataFile(file, digest_rows(rows), ids)


def each_id_once(written: Sequence[DataFile]) -> list[DataFile]:
    """The files, in order of paths, that share no id with an earlier one."""
    doubled = set(_doubled([file.ids for file in written]).to_pylist())
    kept: list[DataFile] = []
    seen: set[str] = set()
    for file in sorted(written, key=lambda file: (file.entry.kind, file.entry.path)):
        shared = doubled.intersection(file.ids.to_pylist()) if doubled else set()
        if seen.isdisjoint(shared):
            kept.append(file)
            seen |= shared
    return kept


def leftover_files(
    run: RunDirectory, place: str, family: str, own: str
) -> list[tuple[str, RowKind]]:
    """Row files below the directory of an artifact that attempts of a family have written, but for
    the attempt ``own``."""
    found: list[tuple[str, RowKind]] = []
    kinds: tuple[RowKind, ...] = ("data", "quarantine")
    for kind in kinds:
        selector = pafs.FileSelector(f"{place}/{kind}", recursive=True, allow_not_found=True)
        for info in run.look(selector):
            attempt = info.path.split("/")[-2]
            if not info.is_file or attempt == own:
                continue
            if attempt.startswith(family) and info.path.endswith(".parquet"):
                found.append((info.path, kind))
    return sorted(found)


def check_written(run: RunDirectory, place: str, written: Sequence[DataFile]) -> None:
    """Check that every file is still there with the size that it was written with; directories are
    listed, which takes one request for a thousand files. Raises ArtifactError."""
    wanted = {f"{place}/{file.entry.path}": file.entry.size for file in written}
    for directory in sorted({posixpath.dirname(path) for path in wanted}):
        found = run.look(pafs.FileSelector(directory, allow_not_found=True))
        sizes = {info.path: info.size for info in found if info.is_file}
        for path, size in wanted.items():
            if posixpath.dirname(path) == directory and sizes.get(path) != size:
                raise ArtifactError(f"{path} is missing or corrupt")


def check_ids(
    name: str,
    data: Sequence[DataFile],
    refused: Sequence[DataFile],
    expected: Iterable[str] | pa.Array | None,
) -> None:
    """Check that every input id comes out once, as a row or refused.

    Args:
        name: of the artifact.
        expected: input ids; None if unknown.

    Raises:
        ArtifactError: ids are lost, duplicated or unknown.
    """
    written, dropped = _all_ids(data), _all_ids(refused)
    doubled = _doubled([file.ids for file in data])
    if len(doubled):
        raise ArtifactError(
            f"{name}: {len(doubled)} rows came out twice (first: {pc.min(doubled)})"
        )
    if expected is None:
        return
    wanted = expected
    if not isinstance(wanted, pa.Array):
        wanted = pa.array(list(wanted), pa.string())
    seen = pa.concat_arrays([written, dropped])
    lost = wanted.filter(pc.invert(pc.is_in(wanted, seen)))
    strangers = seen.filter(pc.invert(pc.is_in(seen, wanted)))
    both = dropped.filter(pc.is_in(dropped, written))
    if len(lost) or len(strangers) or len(both):
        first = pc.min(pa.concat_arrays([lost, strangers, both]))
        raise ArtifactError(
            f"{name}: {len(lost)} rows lost, {len(strangers)} unknown, {len(both)} "
            f"both written and refused (first: {first})"
        )


def _all_ids(written: Sequence[DataFile]) -> pa.Array:
    return pa.concat_arrays([pa.array([], pa.string()), *(file.ids for file in written)])


def _doubled(ids: Sequence[pa.Array]) -> pa.Array:
    """The ids in more than one of the arrays."""
    counted = pc.value_counts(pa.concat_arrays([pa.array([], pa.string()), *ids]))
    return counted.field("values").filter(pc.greater(counted.field("counts"), 1))
