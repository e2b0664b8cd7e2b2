"""Image files that listings name by path: which may be read, and how they are.

Names come from strangers. What is allowed lies below the directory of the catalog's Parquet file or
below ``catalog.image_roots``, with all symbolic links followed. On this machine a file is opened
folder by folder without following a link, so that what was allowed is what is read, whoever moves
links meanwhile; and never a pipe or a device.
"""

import os
import posixpath
import stat
from collections.abc import Iterable, Sequence
from functools import cache

import pyarrow as pa
import pyarrow.fs as pafs

from raypipe import storage
from raypipe.catalog.images import MAX_BYTES, Refusal
from raypipe.errors import StorageError
from raypipe.store.quarantine import BAD_PATH, OUTSIDE_ROOTS, UNREADABLE_FILE

MAX_PATH = 4095
MAX_PART = 255
MAX_KEY = 1024
_SHOWN = 200
_SCHEMES = {"s3": "s3", "gs": "gcs", "gcs": "gcs", "abfs": "abfs", "abfss": "abfs"}
_OPEN = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY
# To pass through a folder one need not be allowed to list it.
_PASS = getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW


def shown_path(name: str) -> str:
    """A name as it may be printed: short, on one line, and without what may be a signature."""
    plain = name[: 2 * _SHOWN].partition("?")[0]
    return "".join(letter if letter.isprintable() else "\ufffd" for letter in plain)[:_SHOWN]


def place_of(
    name: str, filesystem: pafs.FileSystem, directory: str, roots: Sequence[str] = ()
) -> str | Refusal:
    """Where a named file is, with links followed, or why it may not be read: ``bad_path``,
    ``outside_roots`` or ``unreadable_file``.

    Args:
        name: relative to ``directory``, or absolute on ``filesystem``.
        filesystem: where the catalog's Parquet file is.
        directory: the directory of the catalog's Parquet file.
        roots: other directories below which images may lie.
    """
    local = _is_local(filesystem)
    joined = posixpath.join(directory, name)
    fault = _fault(name, joined, local)
    if fault is not None:
        return Refusal(BAD_PATH, f"'{shown_path(name)}' {fault}")
    try:
        place = os.path.realpath(joined) if local else posixpath.normpath(joined)
    except OSError as error:  # a link that may not be read
        return Refusal(UNREADABLE_FILE, f"{shown_path(name)}: {type(error).__name__}")
    if any(_is_below(place, _real(root) if local else root) for root in (directory, *roots)):
        return place
    return Refusal(
        OUTSIDE_ROOTS,
        f"{shown_path(name)} is neither below the directory of the listings nor below "
        "catalog.image_roots",
    )


def read_file(filesystem: pafs.FileSystem, place: str) -> bytes | None:
    """The bytes of a file at a place that is allowed, at most one more than ``MAX_BYTES``; None of
    what is no regular file.

    Raises:
        OSError, ArrowException or ValueError: it is not there or cannot be read.
    """
    if not _is_local(filesystem):
        with filesystem.open_input_stream(place, compression=None) as stream:
            return bytes(stream.read(MAX_BYTES + 1))
    if not stat.S_ISREG(os.lstat(place).st_mode):  # opening a device may do something
        return None
    with open(_opened(place), "rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            return None
        return file.read(MAX_BYTES + 1)


def look_at(filesystem: pafs.FileSystem, places: Sequence[str]) -> list[pafs.FileInfo | None]:
    """Size and time of files; None of one that cannot be looked at.

    Raises:
        StorageError: the storage is out of reach.
    """
    try:
        return list(filesystem.get_file_info(list(places)))
    except (pa.ArrowException, OSError, ValueError):  # of one of them, which is not said
        return [_look(filesystem, place) for place in places]


def roots_on(filesystem: pafs.FileSystem, roots: Iterable[str]) -> tuple[str, ...]:
    """Directories as paths of a file system; those that are on another are left out."""
    found = []
    for root in roots:
        scheme, mark, path = root.partition("://")
        if not mark and _is_local(filesystem):
            found.append(os.path.abspath(root))
        elif mark and scheme == "file" and _is_local(filesystem):
            found.append(os.path.abspath(pafs.FileSystem.from_uri(root)[1]))
        elif mark and _SCHEMES.get(scheme) == filesystem.type_name:
            found.append(path.strip("/"))
    return tuple(found)


@cache
def _real(root: str) -> str:
    return os.path.realpath(root)


def _is_local(filesystem: pafs.FileSystem) -> bool:
    return bool(filesystem.type_name == "local")


def _fault(name: str, joined: str, local: bool) -> str | None:
    """Why no file can have this name."""
    if not name or "\0" in name:
        return "is empty or holds a null"
    try:
        encoded = joined.encode()
    except UnicodeEncodeError:
        return "is no text in UTF-8"
    longest = max(map(len, encoded.split(b"/"))) if local else 0
    if longest > MAX_PART or len(encoded) > (MAX_PATH if local else MAX_KEY):
        return "is longer than a file's name can be"
    return None


def _is_below(place: str, root: str) -> bool:
    return place.startswith(root.rstrip("/") + "/")


def _opened(place: str) -> int:
    """A descriptor of a file of this machine. ``place`` holds no link: one that is there by now is
    an OSError."""
    *folders, name = place.split("/")[1:]
    folder = os.open("/", _PASS)
    try:
        for part in folders:
            outer, folder = folder, os.open(part, _PASS, dir_fd=folder)
            os.close(outer)
        return os.open(name, _OPEN, dir_fd=folder)
    finally:
        os.close(folder)


def _look(filesystem: pafs.FileSystem, place: str) -> pafs.FileInfo | None:
    try:
        return filesystem.get_file_info(place)
    except (pa.ArrowException, ValueError, NotADirectoryError):
        return None
    except OSError as error:
        failure = storage.failed(f"cannot look at {shown_path(place)}", error)
        if type(failure) is StorageError and storage.is_at_fault(error):
            raise failure from error
        return None
