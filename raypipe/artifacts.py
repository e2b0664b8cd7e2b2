"""Where a run keeps what it made, and how a stage says that it is done.

A run is one directory, local or in an object store. An artifact is a directory in it:

    <run>/<scope>/<name>/data/<attempt>/*.parquet         rows of the artifact's table
    <run>/<scope>/<name>/quarantine/<attempt>/*.parquet   rows refused, with a reason
    <run>/<scope>/<name>/files/<attempt>/*                anything else: metrics, an adapter
    <run>/<scope>/<name>/_COMMIT.json                     the manifest, created last

Files are immutable and belong to one attempt. The artifact exists when its manifest does; the
manifest is created, never replaced, so that of two writers one wins; readers take their files from
it and never list a directory. Its digest does not depend on the order of rows, the number of files
or the number of attempts.
"""

import hashlib
import json
import shutil
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import obstore
import pyarrow as pa
import pyarrow.fs as pafs
from obstore.exceptions import AlreadyExistsError, BaseError
from obstore.store import ObjectStore, from_url

from raypipe import parquet, storage
from raypipe.checksums import check_directory, difference, measure, plain_name
from raypipe.digest import MODULUS
from raypipe.documents import parse, parse_object
from raypipe.errors import ArtifactError, ConfigDriftError, ConfigError, InputError
from raypipe.manifest import (
    COMMIT,
    RESTORE,
    Commit,
    File,
    Fingerprint,
    Kind,
    but_versions,
    decode,
    differing_keys,
    encode,
    plain,
)
from raypipe.receipts import (
    Receipt,
    check_ids,
    each_id_once,
    inspect,
    make_directory,
    write_rows,
)
from raypipe.schemas import QUARANTINE, Table

RowKind = Literal["data", "quarantine"]
_ONE_REQUEST = 1 << 20  # bytes; a store gives so much about as fast as a file's end and a column


class Run:
    """The directory of one experiment.

    An object store is found through the environment, which every node needs: credentials and region
    (``AWS_ACCESS_KEY_ID``, ``AWS_REGION`` …) or the machine's own role, and for an S3-compatible
    server ``AWS_ENDPOINT_URL``, with ``AWS_ALLOW_HTTP=true`` when that is http. Arrow and obstore
    read the same variables.

    Nothing is made before something is written.

    Args:
        location: local path or object-store URI.

    Raises:
        ConfigError: a location of no kind that is known.
        StorageError: the storage cannot be reached.
    """

    def __init__(self, location: str) -> None:
        storage.refuse_credentials(location)
        self.location = location if "://" in location else str(Path(location).resolve())
        try:
            with storage.asked(f"cannot open {location}"):
                self.filesystem, self.root = pafs.FileSystem.from_uri(self.location)
        except ValueError as error:
            raise ConfigError(f"{location} is no place of a run: {error}") from error
        self.is_local = isinstance(self.filesystem, pafs.LocalFileSystem)

    @cached_property
    def _store(self) -> ObjectStore:
        return from_url(self.location)

    def __reduce__(self) -> tuple[type["Run"], tuple[str]]:
        return (Run, (self.location,))

    def artifact(self, name: str, table: Table | None = None) -> "Artifact":
        """The artifact ``name`` ("<scope>/<name>"), committed or not."""
        return Artifact(self, name, table)

    def path(self, *parts: str) -> str:
        return "/".join((self.root, *parts))

    def create(self, path: str, content: bytes) -> bool:
        """Write a new file whole; False, and nothing changed, when it already exists.

        Raises:
            StorageError: the file cannot be written.
        """
        if self.is_local:
            return storage.put(Path(self.path(path)), content, create=True)
        try:
            obstore.put(self._store, path, content, mode="create")
        except AlreadyExistsError:
            return False
        except (BaseError, OSError) as error:
            raise storage.failed(f"cannot write {self.path(path)}", error) from error
        return True

    def replace(self, path: str, content: bytes) -> None:
        """Write a file whole, for what is derived and may be made again (summary, report).

        Raises:
            StorageError: the file cannot be written.
        """
        if self.is_local:
            storage.put(Path(self.path(path)), content)
            return
        try:
            obstore.put(self._store, path, content)
        except (BaseError, OSError) as error:
            raise storage.failed(f"cannot write {self.path(path)}", error) from error

    def read_json(self, path: str, remedy: str = "") -> dict[str, Any] | None:
        """A JSON object that is no part of an artifact, or None when there is none. Raises
        ArtifactError, with a remedy as the end of its sentence, when it is broken."""
        content = self.read(path)
        return None if content is None else parse_object(content, self.path(path), remedy)

    def read(self, path: str) -> bytes | None:
        """The bytes of a file, or None when there is none.

        Raises:
            ArtifactError: there is something else in its place.
            StorageError: the storage is out of reach, or forbids it.
        """
        storage.refuse_irregular(self.filesystem, self.path(path))
        try:
            with self.filesystem.open_input_stream(self.path(path)) as stream:
                return bytes(stream.read())
        except FileNotFoundError:
            return None
        except OSError as error:
            raise storage.failed(f"cannot read {self.path(path)}", error) from error

    def look(self, what: pafs.FileSelector | list[str]) -> list[pafs.FileInfo]:
        """What the storage knows of files. Raises StorageError when it is out of reach."""
        with storage.asked(f"cannot look into {self.location}"):
            return list(self.filesystem.get_file_info(what))


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

    def required(self) -> Commit:
        """The manifest. Raises ArtifactError when the artifact is not committed."""
        commit = self.commit()
        if commit is None:
            raise ArtifactError(f"{self.name} is not committed in {self.run.location}")
        return commit

    def matching(self, fingerprint: Fingerprint, *, any_versions: bool = False) -> Commit | None:
        """The manifest if the artifact is committed with this fingerprint, None if not committed.

        Args:
            any_versions: whether it may have been made with other versions of packages.

        Raises:
            ConfigDriftError: it was committed with another fingerprint; names the keys.
        """
        commit = self.commit()
        if commit is None:
            return None
        before, now = commit.fingerprint, plain(fingerprint)
        if any_versions:
            before, now = but_versions(before), but_versions(now)
        lines = differing_keys(before, now)
        if lines:
            raise ConfigDriftError(
                f"{self.name} was made with other settings:\n  "
                + "\n  ".join(lines)
                + f"\nGive the run another name (run.name=…), or delete {self.run.location} to "
                "start over."
            )
        return commit

    def files(self, kind: Kind = "data") -> list[File]:
        """The committed files of one kind."""
        return [file for file in self.required().files if file.kind == kind]

    def paths(self, kind: Kind = "data") -> list[str]:
        """Full paths of the committed files of one kind."""
        return [self._path(file.path) for file in self.files(kind)]

    def read(self, columns: Sequence[str] | None = None, kind: Kind = "data") -> pa.Table:
        """All rows of the committed artifact. Raises ArtifactError on a corrupt file, StorageError
        on one that is out of reach."""
        names = list(columns) if columns is not None else None
        tables = list(self.read_files(names, kind))
        if tables:
            return pa.concat_tables(tables)
        empty = (QUARANTINE.schema if kind == "quarantine" else self._schema()).empty_table()
        return empty.select(names) if names is not None else empty

    def read_files(
        self, columns: Sequence[str] | None = None, kind: Kind = "data"
    ) -> Iterator[pa.Table]:
        """The committed rows, one file at a time, so that memory does not grow with them."""
        for file in self.files(kind):
            yield self.rows_of(file, columns)

    def rows_of(self, file: File, columns: Sequence[str] | None = None) -> pa.Table:
        """The rows of one of :meth:`files`.

        A file that is read whole is compared with its sha256. Of a large one of which some columns
        are asked, only their pages are read, and compared with their checksums.

        Raises:
            ArtifactError: the file is missing or not what was committed.
            StorageError: it is out of reach.
        """
        contract = QUARANTINE if file.kind == "quarantine" else self.table
        names = list(columns) if columns is not None else None
        whole = names is None or file.size <= _ONE_REQUEST
        source = pa.py_buffer(self._content(file)) if whole else self._path(file.path)
        table = self._read_parquet(source, self._path(file.path), names)
        if len(table) != file.rows:
            raise self._corrupt(file, f"{len(table):,} rows instead of {file.rows or 0:,}")
        if contract is not None:
            contract.check_columns(table)
        return table

    def read_json(self, name: str) -> Any:
        """A committed JSON file. Raises ArtifactError when the manifest does not list it."""
        return parse(self.read_file(name), f"{self.name}/{name}")

    def read_file(self, name: str) -> bytes:
        """A committed plain file. Raises ArtifactError when it is missing or corrupt."""
        for file in self.files("files"):
            if plain_name(file) == name:
                return self._content(file)
        raise ArtifactError(f"{self.name} holds no file '{name}'")

    def local_directory(self) -> Path:
        """A local directory that holds the committed plain files, such as a PEFT adapter.

        Every process compares them with the manifest before it first uses them. On an object store
        they are copied once per machine, into a directory named by digest.

        Raises:
            ArtifactError: a file is missing or not what was committed.
        """
        commit = self.required()
        files = tuple(file for file in commit.files if file.kind == "files")
        if self.run.is_local:
            directory = Path(self._path("files", commit.attempt))
            check_directory(directory, files)
            return directory
        target = Path.home() / ".cache" / "raypipe" / commit.digest
        try:
            check_directory(target, files)
        except ArtifactError:  # not there yet, or no longer what was copied
            shutil.rmtree(target, ignore_errors=True)
            with storage.whole(target, replace=False) as partial:
                for file in files:
                    place = partial / plain_name(file)
                    place.parent.mkdir(parents=True, exist_ok=True)
                    place.write_bytes(self._content(file))
        return target

    def attempt(self, fingerprint: Fingerprint) -> "Attempt":
        """Begin to write the artifact. The fingerprint is everything that changes the outcome."""
        return Attempt(self, plain(fingerprint))

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
        """Rows of a file's bytes, or of the file that is opened here. Errors name ``path``."""
        try:
            filesystem = self.run.filesystem if isinstance(source, str) else None
            return parquet.read(source, filesystem, columns)
        except InputError as error:
            raise ArtifactError(f"{error}; the run did not write this file") from error
        except (pa.ArrowException, OSError) as error:
            corrupt = ArtifactError(f"{path} is missing or corrupt: {error}; {RESTORE}")
            raise storage.unreadable(path, error, corrupt) from error


class Attempt:
    """One try at writing an artifact. Nothing it writes is seen until :meth:`commit`."""

    def __init__(self, artifact: Artifact, fingerprint: dict[str, Any]) -> None:
        self.artifact = artifact
        self.fingerprint = fingerprint
        self.started = time.time()
        # Rows of an interrupted attempt may be kept only by one that would make the same rows.
        canonical = json.dumps(fingerprint, sort_keys=True).encode()
        self.family = hashlib.sha256(canonical).hexdigest()[:12]
        """The same for every attempt with this fingerprint."""
        self.name = f"{self.family}-{uuid.uuid4().hex[:8]}"
        self._receipts: list[Receipt] = []

    def directory(self, kind: Kind = "data") -> str:
        """Full path of this attempt's own directory for files of one kind; created here."""
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

    def store(self, table: pa.Table, kind: RowKind = "data") -> Receipt:
        """Write rows as one Parquet file, anywhere; the receipt must be brought to :meth:`commit`.

        All rows of an id (the first key column) go into one file.

        Raises:
            ArtifactError: the rows break the table's contract.
            StorageError: the file cannot be written.
        """
        run, root = self.artifact.run, self.artifact._path()
        directory = self.artifact._path(kind, self.name)
        return write_rows(table, self._contract(kind), kind, run.filesystem, root, directory)

    def write(self, table: pa.Table, kind: RowKind = "data") -> None:
        """:meth:`store`, and keep the receipt for :meth:`commit`."""
        self._receipts.append(self.store(table, kind))

    def write_file(self, name: str, content: bytes) -> None:
        path = f"{self.directory('files')}/{name}"
        with (
            storage.asked(f"cannot write {path} ({len(content):,} bytes)"),
            self.artifact.run.filesystem.open_output_stream(path) as stream,
        ):
            stream.write(content)

    def write_json(self, name: str, values: object) -> None:
        self.write_file(name, json.dumps(values, indent=1, sort_keys=True).encode())

    def leftovers(self) -> list[tuple[str, RowKind]]:
        """Row files that interrupted attempts with the same fingerprint left behind."""
        run = self.artifact.run
        found: list[tuple[str, RowKind]] = []
        kinds: tuple[RowKind, ...] = ("data", "quarantine")
        for kind in kinds:
            selector = pafs.FileSelector(
                self.artifact._path(kind), recursive=True, allow_not_found=True
            )
            for info in run.look(selector):
                attempt = info.path.split("/")[-2]
                if not info.is_file or attempt == self.name:
                    continue
                if attempt.startswith(self.family) and info.path.endswith(".parquet"):
                    found.append((info.path, kind))
        return sorted(found)

    def inspect(self, path: str, kind: RowKind) -> Receipt | None:
        """Read a leftover whole; None when a kill cut it short or it is not of this table."""
        run = self.artifact.run
        return inspect(self._contract(kind), kind, run.filesystem, self.artifact._path(), path)

    def salvage(self, receipts: Iterable[Receipt | None] | None = None) -> list[Receipt]:
        """The leftovers that may be committed: whole, and no id in two of them.

        Two attempts may have made the same rows, and one may have refused what the other made.

        Args:
            receipts: of the leftovers, when they were inspected elsewhere.
        """
        if receipts is None:
            receipts = (self.inspect(path, kind) for path, kind in self.leftovers())
        return each_id_once([receipt for receipt in receipts if receipt is not None])

    def commit(
        self,
        *,
        expected: Iterable[str] | pa.Array | None = None,
        receipts: Sequence[Receipt] = (),
        counts: Mapping[str, Any] | None = None,
    ) -> Commit:
        """Check that everything is there and create the manifest.

        Args:
            expected: ids that went in. Each must come out once, as a row or in quarantine.
            receipts: of files that were written elsewhere or salvaged.
            counts: figures to keep with the manifest.

        Raises:
            ArtifactError: a row is lost, doubled or corrupt, or another writer committed
                something else first.
        """
        rows = [*self._receipts, *receipts]
        self._check_files(rows)
        data = [receipt for receipt in rows if receipt.file.kind == "data"]
        refused = [receipt for receipt in rows if receipt.file.kind == "quarantine"]
        check_ids(self.artifact.name, data, refused, expected)
        files = [receipt.file for receipt in rows] + self._plain_files()
        files.sort(key=lambda file: (file.kind, file.path))
        named = sorted((Path(f.path).name, f.sha256) for f in files if f.kind == "files")
        total = sum(receipt.digest for receipt in data) % MODULUS
        content = {"rows": f"{total:032x}", "files": named}
        commit = Commit(
            artifact=self.artifact.name,
            digest=hashlib.sha256(json.dumps(content).encode()).hexdigest()[:32],
            files=tuple(files),
            rows=sum(receipt.file.rows or 0 for receipt in data),
            quarantined=sum(len(receipt.ids) for receipt in refused),
            fingerprint=self.fingerprint,
            counts=dict(counts or {}),
            seconds=round(time.time() - self.started, 3),
            attempt=self.name,
        )
        run, name = self.artifact.run, self.artifact.name
        if run.is_local:
            storage.make_folders_durable(run.root, [f"{name}/{file.path}" for file in files])
        if not run.create(f"{name}/{COMMIT}", encode(commit)):
            other = self.artifact.required()
            if other.digest != commit.digest:
                raise ArtifactError(
                    f"{self.artifact.name} was committed meanwhile by another process"
                )
            return other
        return commit

    def _contract(self, kind: RowKind) -> Table:
        contract = QUARANTINE if kind == "quarantine" else self.artifact.table
        if contract is None:
            raise ArtifactError(f"{self.artifact.name} has no table")
        return contract

    def _check_files(self, receipts: Sequence[Receipt]) -> None:
        """Every file is still there with the size that it was written with."""
        run = self.artifact.run
        paths = [self.artifact._path(receipt.file.path) for receipt in receipts]
        for receipt, info in zip(receipts, run.look(paths), strict=True):
            if not info.is_file or info.size != receipt.file.size:
                raise ArtifactError(f"{info.path} is missing or corrupt")

    def _plain_files(self) -> list[File]:
        run, local = self.artifact.run, self.local_files()
        if not run.is_local:
            for path in sorted(path for path in local.rglob("*") if path.is_file()):
                self.write_file(str(path.relative_to(local)), path.read_bytes())
        # Beside them lies what write_file put there at once; the directory is this attempt's alone.
        selector = pafs.FileSelector(
            self.artifact._path("files", self.name), recursive=True, allow_not_found=True
        )
        found = sorted(info.path for info in run.look(selector) if info.is_file)
        if run.is_local:
            storage.make_durable(*found)
        return [self._file(path, "files") for path in found]

    def _file(self, path: str, kind: Kind, rows: int | None = None) -> File:
        relative = path.removeprefix(self.artifact._path() + "/")
        found = measure(self.artifact.run.filesystem, path)
        if found is None:
            raise ArtifactError(f"{path} is missing")
        return File(relative, kind, *found, rows)


def committed(
    artifact: Artifact, fingerprint: Fingerprint, make: Callable[[Attempt], Commit]
) -> Commit:
    """The artifact's commit: the one that is there, or the one that ``make`` creates now."""
    return artifact.matching(fingerprint) or make(artifact.attempt(fingerprint))
