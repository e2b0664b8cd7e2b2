"""What committing a written file needs to know of it, so that nobody has to read it again.

A file is written where its rows were made, perhaps on another machine; what comes back to whoever
commits is a receipt of a few hundred bytes.
"""

import hashlib
import posixpath
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from raypipe import parquet, storage
from raypipe.digest import digest_rows
from raypipe.errors import ArtifactError, InputError
from raypipe.manifest import File, Kind
from raypipe.schemas import Table

RECEIPTS = pa.schema(
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


_NAMED = 16  # hex digits of its sha256 in a file's name


@dataclass(frozen=True)
class Receipt:
    """One written file: its entry in the manifest, the digest of its rows, and their ids, each
    once (the values of the table's first key column)."""

    file: File
    digest: int
    ids: pa.Array

    def to_row(self) -> dict[str, object]:
        """As a row of ``RECEIPTS``."""
        file = self.file
        return {
            "path": file.path,
            "kind": file.kind,
            "size": file.size,
            "sha256": file.sha256,
            "rows": file.rows,
            "digest": f"{self.digest:032x}",
            "ids": self.ids,
        }


def from_table(table: pa.Table) -> list[Receipt]:
    """The receipts in a table of ``RECEIPTS``; the ids stay in Arrow."""
    ids = [chunk[i].values for chunk in table.column("ids").chunks for i in range(len(chunk))]
    rows = table.drop_columns(["ids"]).to_pylist()
    return [
        Receipt(
            File(row["path"], row["kind"], row["size"], row["sha256"], row["rows"]),
            int(row["digest"], 16),
            row_ids,
        )
        for row, row_ids in zip(rows, ids, strict=True)
    ]


def to_table(receipts: Sequence[Receipt]) -> pa.Table:
    return pa.Table.from_pylist([receipt.to_row() for receipt in receipts], schema=RECEIPTS)


def write_rows(
    table: pa.Table,
    contract: Table,
    kind: Kind,
    filesystem: pafs.FileSystem,
    root: str,
    directory: str,
) -> Receipt:
    """Write rows as one Parquet file with page checksums.

    Its name holds the time, so that files sort as they were written, and its sha256, by which
    :func:`inspect` tells whether it is still the same.

    Args:
        table: the rows; all rows of an id are in this one file.
        contract: what they must conform to.
        root: directory of the artifact.
        directory: of the new file, below ``root``.

    Raises:
        ArtifactError: the rows break the contract, or a key is there twice.
        StorageError: the file cannot be written, for instance because the disk is full.
    """
    rows = contract.conform(table)
    sink = pa.BufferOutputStream()
    pq.write_table(rows, sink, write_page_checksum=True, compression="zstd")
    content = sink.getvalue()
    sha256 = hashlib.sha256(content).hexdigest()
    path = f"{directory}/{time.time_ns()}-{sha256[:_NAMED]}.parquet"
    make_directory(filesystem, directory)
    with (
        storage.asked(f"cannot write {path} ({content.size:,} bytes)"),
        filesystem.open_output_stream(path) as stream,
    ):
        stream.write(content)
    _make_durable(filesystem, path)
    return _receipt(rows, contract, content, sha256, kind, root, path)


def make_directory(filesystem: pafs.FileSystem, path: str) -> None:
    """Where there are directories: an object store has none, and asking costs many requests."""
    if isinstance(filesystem, pafs.LocalFileSystem):
        with storage.asked(f"cannot write {path}"):
            filesystem.create_dir(path, recursive=True)


def _make_durable(filesystem: pafs.FileSystem, path: str) -> None:
    if isinstance(filesystem, pafs.LocalFileSystem):
        storage.make_durable(path)


def inspect(
    contract: Table, kind: Kind, filesystem: pafs.FileSystem, root: str, path: str
) -> Receipt | None:
    """The receipt of a file that somebody else wrote; None for one that is cut, changed or foreign.

    Raises:
        StorageError: the storage is out of reach.
    """
    try:
        storage.refuse_irregular(filesystem, path)
        with filesystem.open_input_stream(path) as stream:
            content = pa.py_buffer(stream.read())
        sha256 = hashlib.sha256(content).hexdigest()
        if not path.endswith(f"-{sha256[:_NAMED]}.parquet"):
            return None
        table = contract.conform(parquet.read(content))
        receipt = _receipt(table, contract, content, sha256, kind, root, path)
        _make_durable(filesystem, path)  # whoever wrote it may have been killed before
        return receipt
    except (ArtifactError, InputError, pa.ArrowException, OSError) as error:
        if storage.is_at_fault(error):
            raise storage.failed(f"cannot read {path}", error) from error
        return None


def _receipt(
    rows: pa.Table,
    contract: Table,
    content: pa.Buffer,
    sha256: str,
    kind: Kind,
    root: str,
    path: str,
) -> Receipt:
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
    return Receipt(file, digest_rows(rows), ids)


def each_id_once(receipts: Sequence[Receipt]) -> list[Receipt]:
    """Those receipts, in the order of paths, that share no id with one before them."""
    doubled = set(_doubled([receipt.ids for receipt in receipts]).to_pylist())
    kept: list[Receipt] = []
    seen: set[str] = set()
    for receipt in sorted(receipts, key=lambda receipt: (receipt.file.kind, receipt.file.path)):
        shared = doubled.intersection(receipt.ids.to_pylist()) if doubled else set()
        if seen.isdisjoint(shared):
            kept.append(receipt)
            seen |= shared
    return kept


def check_ids(
    name: str,
    data: Sequence[Receipt],
    refused: Sequence[Receipt],
    expected: Iterable[str] | pa.Array | None,
) -> None:
    """Check that every id that went into an artifact has come out once, as a row or refused.

    Args:
        name: of the artifact.
        expected: what went in; None when nobody knows.

    Raises:
        ArtifactError: ids were lost, doubled, or are unknown.
    """
    written, dropped = _all_ids(data), _all_ids(refused)
    doubled = _doubled([receipt.ids for receipt in data])
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


def _all_ids(receipts: Sequence[Receipt]) -> pa.Array:
    return pa.concat_arrays([pa.array([], pa.string()), *(receipt.ids for receipt in receipts)])


def _doubled(ids: Sequence[pa.Array]) -> pa.Array:
    """The ids that more than one of the arrays holds."""
    counted = pc.value_counts(pa.concat_arrays([pa.array([], pa.string()), *ids]))
    return counted.field("values").filter(pc.greater(counted.field("counts"), 1))
