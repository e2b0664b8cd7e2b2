"""The artifacts of a run, and how a stage commits one.

A run is one directory, local or in an object store. An artifact is a directory in it:

    <run>/<scope>/<name>/data/<attempt>/*.parquet         rows of the artifact's table
    <run>/<scope>/<name>/quarantine/<attempt>/*.parquet   rows refused, with a reason
    <run>/<scope>/<name>/files/<attempt>/*                other files: metrics, an adapter
    <run>/<scope>/<name>/_COMMIT.json                     the manifest, created last

Files are immutable and belong to one attempt. The artifact exists once its manifest does. The
manifest is created, never replaced, so of two writers one wins; readers use its list of files and
never list a directory. Its digest does not depend on the order of rows, the number of files or the
number of attempts.
"""

import hashlib
import json
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.fs as pafs

from raypipe import storage
from raypipe.errors import ArtifactError, ConfigDriftError, InputError
from raypipe.schemas import QUARANTINE, Table
from raypipe.store import parquet
from raypipe.store.checksums import check_directory, difference, download, measure_file, plain_name
from raypipe.store.data_files import (
    DataFile,
    RowKind,
    check_ids,
    check_written,
    each_id_once,
    inspect,
    leftover_files,
    make_directory,
    write_piece,
    write_rows,
)
from raypipe.store.digest import MODULUS
from raypipe.store.documents import parse_document
from raypipe.store.lease import lease
from raypipe.store.manifest import (
    COMMIT,
    RESTORE,
    Commit,
    CommittedPart,
    File,
    FileKind,
    Fingerprint,
    but_versions,
    decode,
    differing_keys,
    encode,
    plain_fingerprint,
)
from raypipe.store.read_ahead import read_ahead
from raypipe.store.run_directory import RunDirectory

_ONE_REQUEST = 1 << 20  # bytes; reading a file of this size whole is as fast as footer and column


class Run(RunDirectory):
    """The directory of one experiment, and the artifacts in it."""

    def artifact(self, name: str, table: Table | None = None) -> "Artifact":
        """The artifact ``name`` ("<scope>/<name>"), committed or not."""
        return Artifact(self, name, table)


class Artifact:
    """A named part of a run: read through its manifest, written through an attempt."""

    def __init__(self, run: Run, name: str, table: Table | None) -> None:
        self.run = run
        self.name = name
        self.table = table

    def commit(self) -> Commit | None:
        """The manifest, or None when the artifact is not committed."""
        path = f"{self.name}/{COMMIT}"
        content = self.run.read(path)
        return None if content is None else decode(content, path)

    def require_commit(self) -> Commit:
        """The manifest. Raises ArtifactError when the artifact is not committed."""
        commit = self.commit()
        if commit is None:
            raise ArtifactError(f"{self.name} is not committed in {self.run.location}")
        return commit

    def find_commit(self, fingerprint: Fingerprint, *, any_versions: bool = False) -> Commit | None:
        """The manifest if the artifact is committed with this fingerprint, None if not committed.

        Args:
            any_versions: whether other package versions are accepted.

        Raises:
            ConfigDriftError: it was committed with another fingerprint; names the keys.
        """
        commit = self.commit()
        if commit is None:
            return None
        before, now = commit.fingerprint, plain_fingerprint(fingerprint)
        if any_versions:
            before, now = but_versions(before), but_versions(now)
        differing = "\n  ".join(differing_keys(before, now))
        if differing:
            raise ConfigDriftError(
                f"{self.name} was made with other settings:\n  {differing}\nGive the run another "
                f"name (run.name=…), or delete {self.run.location} to start over."
            )
        return commit

    def files(self, kind: FileKind = "data") -> list[File]:
        """The committed files of one kind; of an artifact in parts, see :meth:`placed_files`."""
        commit = self.require_commit()
        if commit.parts:
            raise ArtifactError(f"{self.name} consists of {len(commit.parts):,} parts")
        return [file for file in commit.files if file.kind == kind]

    def placed_files(self, kind: FileKind = "data") -> "list[tuple[Artifact, File]]":
        """The committed files of one kind, and the artifact that each lies in: this one, or one of
        its parts."""
        commit = self.require_commit()
        held = [(self, file) for file in commit.files]
        for part in commit.parts:
            artifact = Artifact(self.run, part.name, self.table)
            held += [(artifact, file) for file in part.files]
        return [(artifact, file) for artifact, file in held if file.kind == kind]

    def paths(self, kind: FileKind = "data") -> list[str]:
        """Full paths of the committed files of one kind."""
        return [artifact._path(file.path) for artifact, file in self.placed_files(kind)]

    def read(self, columns: Sequence[str] | None = None, kind: FileKind = "data") -> pa.Table:
        """All rows of the committed artifact. Raises ArtifactError on a corrupt file, StorageError
        if the storage cannot be reached."""
        names = list(columns) if columns is not None else None
        tables = list(self.read_files(names, kind))
        if tables:
            return pa.concat_tables(tables)
        empty = (QUARANTINE.schema if kind == "quarantine" else self._schema()).empty_table()
        return empty.select(names) if names is not None else empty

    def read_files(
        self, columns: Sequence[str] | None = None, kind: FileKind = "data"
    ) -> Iterator[pa.Table]:
        """The committed rows, file by file; from an object store a few are read ahead."""
        files = self.placed_files(kind)
        reads = [(file.size, partial(artifact.rows_of, file, columns)) for artifact, file in files]
        return (read() for _, read in reads) if self.run.is_local else read_ahead(reads)

    def rows_of(self, file: File, columns: Sequence[str] | None = None) -> pa.Table:
        """The rows of one of :meth:`files`.

        A file read whole is checked against its sha256. For some columns of a large file, only
        their pages are read, and checked against their page checksums.

        Raises:
            ArtifactError: the file is missing or not what was committed.
            StorageError: the storage cannot be reached.
        """
        contract = QUARANTINE if file.kind == "quarantine" else self.table
        names = list(columns) if columns is not None else None
        whole = names is None or file.size <= _ONE_REQUEST
        source = pa.py_buffer(self._content(file)) if whole else self._path(file.path)
        table = self._read_parquet(source, self._path(file.path), names)
        if len(table) != file.rows:
            raise self._corrupt(file, f"{len(table):,} rows instead of {file.rows or 0:,}")
        if contract is not None:
            contract.check_columns(table, names)
        return table

    def read_json(self, name: str) -> Any:
        """A committed JSON file. Raises ArtifactError when the manifest does not list it."""
        return parse_document(self.read_file(name), f"{self.name}/{name}")

    def read_file(self, name: str) -> bytes:
        """A committed plain file. Raises ArtifactError when it is missing or corrupt."""
        for file in self.files("files"):
            if plain_name(file) == name:
                return self._content(file)
        raise ArtifactError(f"{self.name} holds no file '{name}'")

    def local_directory(self) -> Path:
        """A local directory that holds the committed plain files, such as a PEFT adapter.

        Every process checks them against the manifest before first use. From an object store they
        are downloaded once per machine, into a directory named by digest.

        Raises:
            ArtifactError: a file is missing or not what was committed.
        """
        commit = self.require_commit()
        files = tuple(file for file in commit.files if file.kind == "files")
        if self.run.is_local:
            directory = Path(self._path("files", commit.attempt))
            check_directory(directory, files)
            return directory
        target = Path.home() / ".cache" / "raypipe" / commit.digest
        return download(target, files, self._content)

    def attempt(self, fingerprint: Fingerprint) -> "Attempt":
        """Begin to write the artifact. The fingerprint holds everything that changes its rows."""
        return Attempt(self, plain_fingerprint(fingerprint))

    def _path(self, *parts: str) -> str:
        return self.run.path(self.name, *parts)

    def _content(self, file: File) -> bytes:
        """The bytes of a committed file. Raises ArtifactError unless they are those committed."""
        content = self.run.read(f"{self.name}/{file.path}")
        if content is None:
            raise self._corrupt(file, "there is none")
        if fault := difference(file, len(content), hashlib.sha256(content).hexdigest()):
            raise self._corrupt(file, fault)
        return content

    def _corrupt(self, file: File, fault: str) -> ArtifactError:
        return ArtifactError(f"{self._path(file.path)} is missing or corrupt: {fault}; {RESTORE}")

    def _schema(self) -> pa.Schema:
        if self.table is None:
            raise ArtifactError(f"{self.name} has no table")
        return self.table.schema

    def _read_parquet(
        self, source: pa.Buffer | str, path: str, columns: list[str] | None
    ) -> pa.Table:
        """Rows of a file, given as bytes or path. Errors name ``path``."""
        try:
            filesystem = self.run.filesystem if isinstance(source, str) else None
            return parquet.read(source, filesystem, columns)
        except InputError as error:
            raise ArtifactError(f"{error}; the run did not write this file") from error
        except (pa.ArrowException, OSError) as error:
            corrupt = ArtifactError(f"{path} is missing or corrupt: {error}; {RESTORE}")
            raise storage.unreadable(path, error, corrupt) from error


class Attempt:
    """One attempt to write an artifact. Readers see nothing of it before :meth:`commit`."""

    def __init__(self, artifact: Artifact, fingerprint: dict[str, Any]) -> None:
        self.artifact = artifact
        self.fingerprint = fingerprint
        self.started = time.time()
        # Only an attempt that would make the same rows may reuse those of an interrupted one.
        canonical = json.dumps(fingerprint, sort_keys=True).encode()
        self.family = hashlib.sha256(canonical).hexdigest()[:12]
        """The same for every attempt with this fingerprint."""
        self.name = f"{self.family}-{uuid.uuid4().hex[:8]}"
        self._written: list[DataFile] = []

    def progress(self, name: str = "") -> str:
        """Path in the run of a file in which attempts with this fingerprint note how far they are;
        without a name, of its directory. No commit takes it up."""
        return "/".join(filter(None, (self.artifact.name, "files", f"{self.family}-{0:08x}", name)))

    def directory(self, kind: FileKind = "data") -> str:
        """Full path of this attempt's directory for files of one kind; created if needed."""
        path = self.artifact._path(kind, self.name)
        make_directory(self.artifact.run.filesystem, path)
        return path

    def local_files(self) -> Path:
        """A local directory whose files become part of the artifact at commit."""
        if self.artifact.run.is_local:
            return Path(self.directory("files"))
        target = Path.home() / ".cache" / "raypipe" / "attempts" / self.name
        target.mkdir(parents=True, exist_ok=True)
        return target

    def store(self, table: pa.Table, kind: RowKind = "data") -> DataFile:
        """Write rows as one Parquet file, on any node; pass the result to :meth:`commit`.

        All rows of an id (the first key column) go into one file.

        Raises:
            ArtifactError: the rows break the table's contract.
            StorageError: the file cannot be written.
        """
        run, root = self.artifact.run, self.artifact._path()
        directory = self.artifact._path(kind, self.name)
        return write_rows(table, self._contract(kind), kind, run.filesystem, root, directory)

    def store_piece(self, table: pa.Table, kind: RowKind = "data") -> None:
        """:meth:`store` rows that are merged with others before they are committed."""
        rows = self._contract(kind).conform(table)
        write_piece(rows, self.artifact.run.filesystem, self.artifact._path(kind, self.name))

    def write(self, table: pa.Table, kind: RowKind = "data") -> None:
        """:meth:`store`, and remember the file for :meth:`commit`."""
        self._written.append(self.store(table, kind))

    def write_file(self, name: str, content: bytes) -> None:
        path = f"{self.directory('files')}/{name}"
        with (
            storage.storage_errors(f"cannot write {path} ({len(content):,} bytes)"),
            self.artifact.run.filesystem.open_output_stream(path) as stream,
        ):
            stream.write(content)

    def write_json(self, name: str, values: object) -> None:
        self.write_file(name, json.dumps(values, indent=1, sort_keys=True).encode())

    def leftovers(self) -> list[tuple[str, RowKind]]:
        """Row files of interrupted attempts with the same fingerprint."""
        return leftover_files(self.artifact.run, self.artifact._path(), self.family, self.name)

    def inspect(self, path: str, kind: RowKind) -> DataFile | None:
        """Read a leftover file whole; None if it is truncated or not of this table."""
        filesystem, place = self.artifact.run.filesystem, self.artifact._path()
        return inspect(self._contract(kind), kind, filesystem, place, path)

    def salvage(self, written: Iterable[DataFile | None] | None = None) -> list[DataFile]:
        """The leftover files that may be committed: whole, with no id in two of them.

        Two attempts may have made the same rows, or one may have refused what the other made.

        Args:
            written: the inspected leftovers, if inspected on other nodes.
        """
        if written is None:
            written = (self.inspect(path, kind) for path, kind in self.leftovers())
        return each_id_once([file for file in written if file is not None])

    def commit(
        self,
        *,
        expected: Iterable[str] | pa.Array | None = None,
        written: Sequence[DataFile] = (),
        counts: Mapping[str, Any] | None = None,
    ) -> Commit:
        """Check completeness and create the manifest.

        Args:
            expected: input ids. Each must come out once, as a row or in quarantine.
            written: files written on other nodes, or salvaged; without ids, if they were checked
                there.
            counts: figures to store in the manifest.

        Raises:
            ArtifactError: a row is lost, duplicated or corrupt, or another writer committed
                something else first.
        """
        rows = [*self._written, *written]
        check_written(self.artifact.run, self.artifact._path(), rows)
        data = [file for file in rows if file.entry.kind == "data"]
        refused = [file for file in rows if file.entry.kind == "quarantine"]
        check_ids(self.artifact.name, data, refused, expected)
        files = [file.entry for file in rows] + self._plain_files()
        files.sort(key=lambda file: (file.kind, file.path))
        named = sorted((Path(f.path).name, f.sha256) for f in files if f.kind == "files")
        total = sum(file.digest for file in data) % MODULUS
        content = {"rows": f"{total:032x}", "files": named}
        commit = Commit(
            artifact=self.artifact.name,
            digest=hashlib.sha256(json.dumps(content).encode()).hexdigest()[:32],
            files=tuple(files),
            rows=sum(file.entry.rows or 0 for file in data),
            quarantined=sum(len(file.ids) or file.entry.rows or 0 for file in refused),
            fingerprint=self.fingerprint,
            counts=dict(counts or {}),
            seconds=round(time.time() - self.started, 3),
            attempt=self.name,
        )
        run, name = self.artifact.run, self.artifact.name
        if run.is_local:
            storage.make_folders_durable(run.root, [f"{name}/{file.path}" for file in files])
        return self._create(commit)

    def commit_parts(
        self, parts: Sequence[CommittedPart], counts: Mapping[str, Any] | None = None
    ) -> Commit:
        """Create the manifest of an artifact that consists of other committed ones, whose rows
        were checked when they were committed.

        Raises:
            ArtifactError: another writer committed something else first.
        """
        ordered = sorted(parts, key=lambda part: part.name)
        named = "".join(f"{part.name} {part.digest}\n" for part in ordered)
        commit = Commit(
            artifact=self.artifact.name,
            digest=hashlib.sha256(named.encode()).hexdigest()[:32],
            files=(),
            rows=sum(part.rows for part in ordered),
            quarantined=sum(part.quarantined for part in ordered),
            fingerprint=self.fingerprint,
            counts=dict(counts or {}),
            seconds=round(time.time() - self.started, 3),
            attempt=self.name,
            parts=tuple(ordered),
        )
        return self._create(commit)

    def _create(self, commit: Commit) -> Commit:
        run, name = self.artifact.run, self.artifact.name
        if run.create(f"{name}/{COMMIT}", encode(commit)):
            return commit
        other = self.artifact.require_commit()
        if other.digest != commit.digest:
            raise ArtifactError(f"{name} was committed meanwhile by another process")
        return other

    def _contract(self, kind: RowKind) -> Table:
        contract = QUARANTINE if kind == "quarantine" else self.artifact.table
        if contract is None:
            raise ArtifactError(f"{self.artifact.name} has no table")
        return contract

    def _plain_files(self) -> list[File]:
        run, local = self.artifact.run, self.local_files()
        if not run.is_local:
            for path in sorted(path for path in local.rglob("*") if path.is_file()):
                self.write_file(str(path.relative_to(local)), path.read_bytes())
        selector = pafs.FileSelector(
            self.artifact._path("files", self.name), recursive=True, allow_not_found=True
        )
        found = sorted(info.path for info in run.look(selector) if info.is_file)
        if run.is_local:
            storage.make_durable(*found)
        return [self._file(path, "files") for path in found]

    def _file(self, path: str, kind: FileKind, rows: int | None = None) -> File:
        relative = path.removeprefix(self.artifact._path() + "/")
        found = measure_file(self.artifact.run.filesystem, path)
        if found is None:
            raise ArtifactError(f"{path} is missing")
        return File(relative, kind, *found, rows)


def get_or_commit(
    artifact: Artifact, fingerprint: Fingerprint, make: Callable[[Attempt], Commit]
) -> Commit:
    """The artifact's commit: the existing one, or the one that ``make`` creates, in one process at
    a time."""
    found = artifact.find_commit(fingerprint)
    if found is not None:
        return found
    with lease(artifact.run, artifact.name):
        # Whoever had the lease may have made it.
        return artifact.find_commit(fingerprint) or make(artifact.attempt(fingerprint))
