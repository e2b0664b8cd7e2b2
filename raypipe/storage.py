"""What it means when a storage fails: worth another try, refused for good, or no fault of its own.

Arrow, obstore and the readers of tables raise the same few classes for a bucket out of reach, a
right that is missing and a file that is corrupt, and tell them apart in words alone.
"""

import errno
import fcntl
import os
import re
import shutil
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from raypipe.errors import (
    ArtifactError,
    ConfigError,
    RaypipeError,
    StorageDeniedError,
    StorageError,
)
from raypipe.security.secrets import secret_in

if TYPE_CHECKING:
    import pyarrow.fs as pafs

_STORES = re.compile(
    r"AWS Error|google::cloud::Status|Azure Error|Generic (?!LocalFileSystem)\w+ error"
    r"|lacked the necessary privileges|lacked valid authentication"
)
_REFUSED = re.compile(
    r"AWS Error (ACCESS_DENIED|INVALID_ACCESS_KEY_ID|INVALID_CLIENT_TOKEN_ID|INVALID_SIGNATURE"
    r"|SIGNATURE_DOES_NOT_MATCH|UNRECOGNIZED_CLIENT|MISSING_AUTHENTICATION_TOKEN|REQUEST_EXPIRED"
    r"|NO_SUCH_BUCKET)|HTTP status (301|400|401|403)"
    r"|Status\((PERMISSION_DENIED|UNAUTHENTICATED)|Azure Error: \[Auth"
    r"|lacked the necessary privileges|lacked valid authentication"
    r"|(400 Bad Request|401 Unauthorized|403 Forbidden)|AccessDenied|ExpiredToken"
    r"|Permission denied|Read-only file system"
)
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_FAILING = {errno.EIO, errno.ESTALE, errno.ETIMEDOUT} | _FULL
# In the words of libraries that lose the number on the way (safetensors, shutil, Ray).
_NO_ROOM = re.compile(
    "|".join([*map(os.strerror, sorted(_FULL)), *(rf"os error {code}\b" for code in sorted(_FULL))])
)
_FORBIDDING = {errno.EACCES, errno.EPERM, errno.EROFS}
# By name, since most runs have neither package.
_CLIENTS = {
    "requests.ConnectionError",
    "requests.Timeout",
    "pyiceberg.ServerError",
    "pyiceberg.ServiceUnavailableError",
    "pyiceberg.TooManyRequestsError",
}
_REFUSALS = {
    "obstore.PermissionDeniedError",
    "obstore.UnauthenticatedError",
    "pyiceberg.AuthorizationExpiredError",
    "pyiceberg.ForbiddenError",
    "pyiceberg.OAuthError",
    "pyiceberg.UnauthorizedError",
}
_LONGEST = 300


def refuse_credentials(address: str) -> None:
    """Raises ConfigError, which does not repeat them, when an address holds credentials."""
    found = secret_in(address) if "://" in address else None
    if found is not None:
        raise ConfigError(
            f"an address holds {found}, and would be written down: credentials belong in "
            "environment variables (AWS_SECRET_ACCESS_KEY …) or in the role of the machine"
        )


def is_at_fault(error: BaseException) -> bool:
    """Whether a storage is at fault, be it away or forbidding, and not what was read from it."""
    return (
        names_a_store(str(error))
        or getattr(error, "errno", None) in _FAILING | _FORBIDDING
        or (isinstance(error, OSError) and is_full(str(error)))
        or not _CLIENTS.union(_REFUSALS).isdisjoint(_kinds(error))
    )


def names_a_store(text: str) -> bool:
    """Whether a message is of an object store, as Arrow and obstore write them."""
    return _STORES.search(text) is not None


def is_full(text: str) -> bool:
    """Whether a message is of a disk, a quota or a limit that leaves no room to write."""
    return _NO_ROOM.search(text) is not None


def failed(doing: str, error: BaseException) -> StorageError:
    """The error of ours for one of a storage's.

    Args:
        doing: what could not be done, such as "cannot read s3://…".

    Returns:
        StorageDeniedError when another try would be refused too: rights, credentials, or a place
        that is not there.
    """
    # A file may be missing; where one is made, it is its bucket.
    misplaced = isinstance(error, FileNotFoundError | NotADirectoryError | FileExistsError)
    refused = getattr(error, "errno", None) in _FORBIDDING or _REFUSED.search(str(error))
    if misplaced or refused or not _REFUSALS.isdisjoint(_kinds(error)):
        return StorageDeniedError(
            f"{doing}: {_said(error)}; look at the place itself, its rights and the credentials"
        )
    return StorageError(f"{doing}: {_said(error)}")


def unreadable(place: str, error: BaseException, corrupt: RaypipeError) -> RaypipeError:
    """What to raise of a file that cannot be read: ``corrupt``, unless its storage is at fault."""
    return failed(f"cannot read {place}", error) if is_at_fault(error) else corrupt


@contextmanager
def storage_errors(doing: str) -> Iterator[None]:
    """Asks a file system in the body: its OSError becomes one of ours (see :func:`failed`)."""
    try:
        yield
    except OSError as error:
        raise failed(doing, error) from error


def refuse_irregular(filesystem: "pafs.FileSystem", path: str) -> None:
    """Refuse a local pipe, device or directory in the place of a file: it would be waited for, or
    read, without end.

    Raises:
        ArtifactError: names it.
    """
    if filesystem.type_name == "local":
        place = Path(path)
        if place.exists() and not place.is_file():
            raise ArtifactError(f"{path} is no regular file; see what put it there, and delete it")


@contextmanager
def one_at_a_time(target: Path) -> Iterator[None]:
    """While the body makes ``target``, other processes of this machine wait here."""
    path = target.parent / f".{target.name}.lock"
    with storage_errors(f"cannot write {target.parent}"):
        target.parent.mkdir(parents=True, exist_ok=True)
        lock = path.open("w")
    with lock:
        with suppress(OSError):  # a file system without locks
            fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            yield
        finally:
            path.unlink(missing_ok=True)  # those who wait hold the same file


@contextmanager
def whole(target: Path, *, replace: bool = True) -> Iterator[Path]:
    """Where the body writes a file or a directory that appears at ``target`` whole or not at all.

    Args:
        replace: whether a directory that is there by then is replaced, or stays as it is.

    Raises:
        StorageError: it cannot be written, for instance because the disk is full. What was there
            before is still there, and nothing else.
    """
    partial = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}")
    try:
        with storage_errors(f"cannot write {target.parent}"):
            target.parent.mkdir(parents=True, exist_ok=True)
        yield partial
        if replace and target.is_dir():
            shutil.rmtree(target)
        if replace or not target.is_dir():
            partial.rename(target)
    except Exception as error:
        # Of safetensors and tokenizers a full disk is no OSError.
        if not isinstance(error, RaypipeError) and (is_at_fault(error) or is_full(str(error))):
            raise failed(
                f"cannot write {target} ({_size(partial):,} bytes so far)", error
            ) from error
        raise
    finally:
        if partial.is_dir():
            shutil.rmtree(partial, ignore_errors=True)
        else:
            partial.unlink(missing_ok=True)


def put(target: Path, content: bytes, *, create: bool = False) -> bool:
    """Write a local file beside its place, have it on the disk, and then give it its name.

    Args:
        create: never in place of another file.

    Returns:
        Whether it was written: False where there is one that may not be replaced.

    Raises:
        StorageError: the file cannot be written.
    """
    if create and target.exists():
        return False
    partial = f"{target}#{uuid.uuid4().int >> 64}"
    folder = target.parent
    new = [parent for parent in (folder, *folder.parents) if not parent.exists()]
    try:
        with storage_errors(f"cannot write {target} ({len(content):,} bytes)"):
            folder.mkdir(parents=True, exist_ok=True)
            with open(partial, "xb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            try:
                (os.link if create else os.replace)(partial, target)
            except FileExistsError:
                return False
    finally:
        with suppress(OSError):
            os.unlink(partial)
    make_durable(str(folder), *(str(parent.parent) for parent in new))
    return True


def make_durable(*paths: str) -> None:
    """Have local files or directories written to the disk, so that they outlive a power cut.

    Raises:
        StorageError: the disk failed, and what was written may not be there.
    """
    for path in paths:
        with storage_errors(f"cannot write {path}"):
            descriptor = os.open(path, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)


def make_folders_durable(root: str, paths: Iterable[str]) -> None:
    """Have the names of local files on the disk, and of all folders from theirs up to ``root``.

    Args:
        paths: of the files, below ``root``.
    """
    folders = {parent for path in paths for parent in Path(path).parents}
    make_durable(*sorted((str(Path(root, folder)) for folder in folders), reverse=True))


def _size(path: Path) -> int:
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file())


def _kinds(error: BaseException) -> set[str]:
    """Package and name of an error's classes."""
    return {f"{kind.__module__.split('.')[0]}.{kind.__name__}" for kind in type(error).__mro__}


def _said(error: BaseException) -> str:
    """The line in which a storage says what was wrong, without colours and pages of internals."""
    text = re.sub(r"\x1b\[\d*m|↳|, \S+\.rs:\d+.*", "", str(error).partition("\n\nDebug")[0])
    found = _STORES.search(text)
    if found is None and (room := _NO_ROOM.search(text)):
        line = next(line for line in text.splitlines() if room.group() in line).strip()
        return line if len(line) < _LONGEST else room.group()
    if found is None:
        return (text.strip().splitlines() or [type(error).__name__])[0][:_LONGEST]
    return " ".join(text[text.rfind("\n", 0, found.start()) + 1 :].split())[:_LONGEST]
