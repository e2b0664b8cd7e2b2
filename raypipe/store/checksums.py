"""Whether a file is still the one that was committed: its size and its sha256."""

import hashlib
import shutil
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from pathlib import Path

import pyarrow.fs as pafs

from raypipe import storage
from raypipe.errors import ArtifactError
from raypipe.store.manifest import RESTORE, File

_LOCAL = pafs.LocalFileSystem()


def measure_file(filesystem: pafs.FileSystem, path: str) -> tuple[int, str] | None:
    """Bytes and sha256 of a file; None where there is none.

    Raises:
        ArtifactError: the path is not a regular file.
        StorageError: the storage cannot be reached.
    """
    storage.refuse_irregular(filesystem, path)
    digest, size = hashlib.sha256(), 0
    try:
        with filesystem.open_input_stream(path) as stream:
            while chunk := stream.read(1 << 20):
                digest.update(chunk)
                size += len(chunk)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise storage.failed(f"cannot read {path}", error) from error
    return size, digest.hexdigest()


def difference(file: File, size: int, sha256: str) -> str:
    """How a file differs from the committed one; empty if it does not."""
    if size != file.size:
        return f"has {size:,} bytes instead of {file.size:,}"
    return "" if sha256 == file.sha256 else "has another sha256 than was committed"


def faults(filesystem: pafs.FileSystem, artifact: str, files: Iterable[File]) -> Iterator[str]:
    """The fault of each damaged file, read whole and checked against its sha256.

    Args:
        artifact: full path of its directory.

    Raises:
        StorageError: the storage cannot be reached.
    """
    for file in files:
        try:
            found = measure_file(filesystem, f"{artifact}/{file.path}")
        except ArtifactError as error:
            yield str(error)
            continue
        if fault := "is missing" if found is None else difference(file, *found):
            yield f"{artifact}/{file.path} {fault}"


def plain_name(file: File) -> str:
    """The name under which a plain file was written."""
    return file.path.split("/", 2)[2]


def check_directory(directory: Path, files: tuple[File, ...]) -> None:
    """Check local files against the manifest: once per process, and again after one changes.

    Raises:
        ArtifactError: names the first file that is missing or not what was committed.
    """
    for file in files:
        path = directory / plain_name(file)
        storage.refuse_irregular(_LOCAL, str(path))
        try:
            known = path.stat()
            fault = _fault(path, file, known.st_mtime_ns, known.st_ino)
        except FileNotFoundError:
            fault = "there is none"
        if fault:
            raise ArtifactError(f"{path} is missing or corrupt: {fault}; {RESTORE}")


@cache
def _fault(path: Path, file: File, *_written: int) -> str:
    with path.open("rb") as content:
        digest = hashlib.file_digest(content, "sha256").hexdigest()
        return difference(file, content.tell(), digest)


def download(target: Path, files: Iterable[File], content: Callable[[File], bytes]) -> Path:
    """Write plain files to a local directory, unless they are there already; returns it."""
    held = tuple(files)
    try:
        check_directory(target, held)
    except ArtifactError:  # not downloaded yet, or the copy has changed
        shutil.rmtree(target, ignore_errors=True)
        with storage.whole(target, replace=False) as directory:
            for file in held:
                place = directory / plain_name(file)
                place.parent.mkdir(parents=True, exist_ok=True)
                place.write_bytes(content(file))
    return target
