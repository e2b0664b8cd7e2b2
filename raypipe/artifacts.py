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
import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import obstore
import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq
from obstore.exceptions import AlreadyExistsError
from obstore.store import LocalStore, ObjectStore, from_url

from raypipe.errors import ArtifactError, ConfigDriftError
from raypipe.manifest import (
    COMMIT,
    Commit,
    File,
    Fingerprint,
    Kind,
    differing_keys,
    digest_rows,
    plain,
)
from raypipe.schemas import QUARANTINE, Table


class Run:
    """The directory of one experiment.

    Args:
        location: local path or object-store URI.
    """

    def __init__(self, location: str) -> None:
        self.location = location if "://" in location else str(Path(location).resolve())
        self.filesystem, self.root = pafs.FileSystem.from_uri(self.location)
        self.is_local = isinstance(self.filesystem, pafs.LocalFileSystem)
        if self.is_local:
            os.makedirs(self.root, exist_ok=True)

    @cached_property
    def _store(self) -> ObjectStore:
        return LocalStore(self.root) if self.is_local else from_url(self.location)

    def __reduce__(self) -> tuple[type["Run"], tuple[str]]:
        return (Run, (self.location,))

    def artifact(self, name: str, table: Table | None = None) -> "Artifact":
        """The artifact ``name`` ("<scope>/<name>"), committed or not."""
        return Artifact(self, name, table)

    def path(self, *parts: str) -> str:
        return "/".join((self.root, *parts))

    def create(self, path: str, content: bytes) -> bool:
        """Write a new file whole; False, and nothing changed, when it already exists."""
        try:
            obstore.put(self._store, path, content, mode="create")
        except AlreadyExistsError:
            return False
        return True

    def replace(self, path: str, content: bytes) -> None:
        """Write a file whole, for what is derived and may be made again (summary, report)."""
        obstore.put(self._store, path, content)

    def read(self, path: str) -> bytes | None:
        """The bytes of a file, or None when there is none."""
        try:
            with self.filesystem.open_input_stream(self.path(path)) as stream:
                return bytes(stream.read())
        except FileNotFoundError:
            return None


class Artifact:
    """A named part of a run: read through its manifest, written through an attempt."""

    def __init__(self, run: Run, name: str, table: Table | None) -> None:
        self.run = run
        self.name = name
        self.table = table

    def commit(self) -> Commit | None:
        """The manifest, or None when the artifact is not committed."""
        content = self.run.read(f"{self.name}/{COMMIT}")
        if content is None:
            return None
        try:
            values = json.loads(content)
            values["files"] = tuple(File(**file) for file in values["files"])
            return Commit(**values, reused=True)
        except (ValueError, TypeError, KeyError) as error:
            raise ArtifactError(f"{self.name}: unreadable manifest: {error}") from error

    def required(self) -> Commit:
        """The manifest. Raises ArtifactError when the artifact is not committed."""
        commit = self.commit()
        if commit is None:
            raise ArtifactError(f"{self.name} is not committed in {self.run.location}")
        return commit

    def matching(self, fingerprint: Fingerprint) -> Commit | None:
        """The manifest if the artifact is committed with this fingerprint, None if not committed.

        Raises:
            ConfigDriftError: it was committed with another fingerprint; names the keys.
        """
        commit = self.commit()
        if commit is None:
            return None
        lines = differing_keys(commit.fingerprint, plain(fingerprint))
        if lines:
            raise ConfigDriftError(
                f"{self.name} was made with other settings:\n  "
                + "\n  ".join(lines)
                + f"\nGive the run another name (run.name=…), or delete {self.run.location} to "
                "start over."
            )
        return commit

    def paths(self, kind: Kind = "data") -> list[str]:
        """Full paths of the committed files of one kind."""
        commit = self.required()
        return [self._path(file.path) for file in commit.files if file.kind == kind]

    def read(self, columns: Sequence[str] | None = None, kind: Kind = "data") -> pa.Table:
        """All rows of the committed artifact. Raises ArtifactError on a corrupt file."""
        names = list(columns) if columns is not None else None
        tables = list(self.read_files(names, kind))
        if tables:
            return pa.concat_tables(tables)
        schema = QUARANTINE.schema if kind == "quarantine" else self._schema()
        empty = schema.empty_table()
        return empty.select(names) if names is not None else empty

    def read_files(
        self, columns: Sequence[str] | None = None, kind: Kind = "data"
    ) -> Iterator[pa.Table]:
        """The committed rows, one file at a time, so that memory does not grow with them."""
        contract = QUARANTINE if kind == "quarantine" else self.table
        for path in self.paths(kind):
            table = self._read_parquet(path, list(columns) if columns is not None else None)
            if contract is not None:
                contract.check_columns(table)
            yield table

    def read_json(self, name: str) -> Any:
        """A committed JSON file. Raises ArtifactError when the manifest does not list it."""
        return json.loads(self.read_file(name))

    def read_file(self, name: str) -> bytes:
        commit = self.required()
        for file in commit.files:
            if file.kind == "files" and file.path.split("/", 2)[2] == name:
                content = self.run.read(f"{self.name}/{file.path}")
                if content is None or hashlib.sha256(content).hexdigest() != file.sha256:
                    raise ArtifactError(f"{self.name}/{file.path} is missing or corrupt")
                return content
        raise ArtifactError(f"{self.name} holds no file '{name}'")

    def local_directory(self) -> Path:
        """A local directory that holds the committed plain files, such as a PEFT adapter.

        On an object store they are copied once per machine, into a directory named by digest.
        """
        commit = self.required()
        if self.run.is_local:
            return Path(self._path("files", commit.attempt))
        target = Path.home() / ".cache" / "raypipe" / commit.digest
        if not target.exists():
            partial = target.with_name(f"{target.name}.{uuid.uuid4().hex[:8]}")
            for file in commit.files:
                if file.kind != "files":
                    continue
                name = file.path.split("/", 2)[2]
                (partial / name).parent.mkdir(parents=True, exist_ok=True)
                (partial / name).write_bytes(self.read_file(name))
            try:
                partial.rename(target)
            except OSError:  # another process was first; both hold the same bytes
                shutil.rmtree(partial)
        return target

    def attempt(self, fingerprint: Fingerprint) -> "Attempt":
        """Begin to write the artifact. The fingerprint is everything that changes the outcome."""
        return Attempt(self, plain(fingerprint))

    def _path(self, *parts: str) -> str:
        return self.run.path(self.name, *parts)

    def _schema(self) -> pa.Schema:
        if self.table is None:
            raise ArtifactError(f"{self.name} has no table")
        return self.table.schema

    def _read_parquet(self, path: str, columns: list[str] | None = None) -> pa.Table:
        try:
            return pq.read_table(
                path,
                columns=columns,
                filesystem=self.run.filesystem,
                page_checksum_verification=True,
                partitioning=None,
            )
        except (pa.ArrowInvalid, OSError) as error:
            raise ArtifactError(f"{path} is missing or corrupt: {error}") from error


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
        self._counter = 0

    def directory(self, kind: Kind = "data") -> str:
        """Full path of this attempt's own directory for files of one kind; created here."""
        path = self.artifact._path(kind, self.name)
        self.artifact.run.filesystem.create_dir(path, recursive=True)
        return path

    def local_files(self) -> Path:
        """A local directory whose files become part of the artifact at commit."""
        if self.artifact.run.is_local:
            return Path(self.directory("files"))
        target = Path.home() / ".cache" / "raypipe" / "attempts" / self.name
        target.mkdir(parents=True, exist_ok=True)
        return target

    def write(self, table: pa.Table, kind: Literal["data", "quarantine"] = "data") -> None:
        """Write rows as one Parquet file with page checksums."""
        contract = QUARANTINE if kind == "quarantine" else self.artifact.table
        if contract is None:
            raise ArtifactError(f"{self.artifact.name} has no table")
        path = f"{self.directory(kind)}/{self._counter:06d}.parquet"
        self._counter += 1
        pq.write_table(
            contract.conform(table),
            path,
            filesystem=self.artifact.run.filesystem,
            write_page_checksum=True,
            compression="zstd",
        )

    def write_file(self, name: str, content: bytes) -> None:
        path = f"{self.directory('files')}/{name}"
        with self.artifact.run.filesystem.open_output_stream(path) as stream:
            stream.write(content)

    def write_json(self, name: str, values: object) -> None:
        self.write_file(name, json.dumps(values, indent=1, sort_keys=True).encode())

    def salvage(self, kind: Literal["data", "quarantine"] = "data") -> list[str]:
        """Whole files that interrupted attempts with the same fingerprint left behind.

        Pass them to :meth:`commit`. A file cut short by a kill does not open and is left out, and
        so is one with a row that another kept file holds: two attempts may have made the same rows.
        """
        run = self.artifact.run
        contract = QUARANTINE if kind == "quarantine" else self.artifact.table
        if contract is None:
            raise ArtifactError(f"{self.artifact.name} has no table")
        selector = pafs.FileSelector(
            self.artifact._path(kind), recursive=True, allow_not_found=True
        )
        kept: list[str] = []
        seen: set[tuple[str, ...]] = set()
        for info in sorted(run.filesystem.get_file_info(selector), key=lambda info: info.path):
            attempt = info.path.split("/")[-2]
            if not info.is_file or attempt == self.name:
                continue
            if not attempt.startswith(self.family) or not info.path.endswith(".parquet"):
                continue
            try:
                table = contract.conform(self.artifact._read_parquet(info.path))
            except ArtifactError:
                continue
            rows = set(zip(*(table.column(name).to_pylist() for name in contract.key), strict=True))
            if seen.isdisjoint(rows):
                kept.append(info.path)
                seen |= rows
        return kept

    def salvaged_ids(self, paths: Sequence[str]) -> set[str]:
        """The ids (first key column) in files that :meth:`salvage` gave."""
        ids: set[str] = set()
        for path in paths:
            quarantined = path.split("/")[-3] == "quarantine"
            table = QUARANTINE if quarantined else self.artifact.table
            if table is not None:
                column = table.key[0]
                ids.update(self.artifact._read_parquet(path, [column])[column].to_pylist())
        return ids

    def commit(
        self,
        *,
        expected: Iterable[str] | None = None,
        salvaged: Sequence[str] = (),
        counts: Mapping[str, Any] | None = None,
    ) -> Commit:
        """Check every file and create the manifest.

        Args:
            expected: ids that went in. Each must come out once, as a row or in quarantine.
            salvaged: files of interrupted attempts that count as this attempt's.
            counts: figures to keep with the manifest.

        Raises:
            ArtifactError: a row is lost, doubled or corrupt, or another writer committed
                something else first.
        """
        data, rows, total, ids = self._inspect(salvaged, "data")
        refused, _, _, refused_ids = self._inspect(salvaged, "quarantine")
        files = [*data, *refused, *self._plain_files()]
        self._check_ids(ids, refused_ids, expected)
        named = sorted((Path(f.path).name, f.sha256) for f in files if f.kind == "files")
        content = {"rows": f"{total:032x}", "files": named}
        commit = Commit(
            artifact=self.artifact.name,
            digest=hashlib.sha256(json.dumps(content).encode()).hexdigest()[:32],
            files=tuple(files),
            rows=rows,
            quarantined=len(set(refused_ids)),
            fingerprint=self.fingerprint,
            counts=dict(counts or {}),
            seconds=round(time.time() - self.started, 3),
            attempt=self.name,
        )
        values = asdict(commit)
        del values["reused"]
        manifest = json.dumps(values, indent=1, sort_keys=True).encode()
        if not self.artifact.run.create(f"{self.artifact.name}/{COMMIT}", manifest):
            other = self.artifact.required()
            if other.digest != commit.digest:
                raise ArtifactError(
                    f"{self.artifact.name} was committed meanwhile by another process"
                )
            return other
        return commit

    def _inspect(
        self, salvaged: Sequence[str], kind: Literal["data", "quarantine"]
    ) -> tuple[list[File], int, int, list[tuple[str, ...]]]:
        run = self.artifact.run
        own = pafs.FileSelector(
            self.artifact._path(kind, self.name), recursive=True, allow_not_found=True
        )
        paths = [info.path for info in run.filesystem.get_file_info(own) if info.is_file]
        paths += [path for path in salvaged if path.split("/")[-3] == kind]
        contract = QUARANTINE if kind == "quarantine" else self.artifact.table
        files: list[File] = []
        rows, total = 0, 0
        ids: list[tuple[str, ...]] = []
        for path in sorted(paths):
            if contract is None:
                raise ArtifactError(f"{self.artifact.name} has no table")
            table = contract.conform(self.artifact._read_parquet(path))
            rows += len(table)
            total += digest_rows(table)
            key = ("id",) if kind == "quarantine" else contract.key
            ids += zip(*(table.column(name).to_pylist() for name in key), strict=True)
            files.append(self._file(path, kind, len(table)))
        return files, rows, total % (1 << 128), ids

    def _plain_files(self) -> list[File]:
        local = self.local_files()
        paths = sorted(path for path in local.rglob("*") if path.is_file())
        if not self.artifact.run.is_local:
            for path in paths:
                self.write_file(str(path.relative_to(local)), path.read_bytes())
        target = self.artifact._path("files", self.name)
        return [self._file(f"{target}/{path.relative_to(local)}", "files") for path in paths]

    def _file(self, path: str, kind: Kind, rows: int | None = None) -> File:
        relative = path.removeprefix(self.artifact._path() + "/")
        digest, size = hashlib.sha256(), 0
        with self.artifact.run.filesystem.open_input_stream(path) as stream:
            while chunk := stream.read(1 << 20):
                digest.update(chunk)
                size += len(chunk)
        return File(relative, kind, size, digest.hexdigest(), rows)

    def _check_ids(
        self,
        written: list[tuple[str, ...]],
        refused: list[tuple[str, ...]],
        expected: Iterable[str] | None,
    ) -> None:
        name = self.artifact.name
        if len(set(written)) != len(written):
            raise ArtifactError(f"{name}: {len(written) - len(set(written))} rows came out twice")
        if expected is None:
            return
        wanted = set(expected)
        seen = {key[0] for key in written}
        dropped = {key[0] for key in refused}
        lost, strangers = wanted - seen - dropped, (seen | dropped) - wanted
        if lost or strangers or seen & dropped:
            raise ArtifactError(
                f"{name}: {len(lost)} rows lost, {len(strangers)} unknown, {len(seen & dropped)} "
                f"both written and refused (first: {sorted(lost | strangers | seen & dropped)[0]})"
            )


def committed(
    artifact: Artifact, fingerprint: Fingerprint, make: Callable[[Attempt], Commit]
) -> Commit:
    """The artifact's commit: the one that is there, or the one that ``make`` creates now."""
    return artifact.matching(fingerprint) or make(artifact.attempt(fingerprint))
