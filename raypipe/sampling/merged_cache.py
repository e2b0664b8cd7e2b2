"""How much merged weights a node keeps: the least recently used that no engine uses go first.

A sweep makes a checkpoint of the whole model for every policy. Who uses one holds a shared lock on
its folder, which ends with the process, however that ends.
"""

import contextlib
import fcntl
import os
import shutil
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

GIB = 1 << 30
# Of folders that were just made or found, and are not held yet.
_YOUNG_S = 600.0
# What a kill left of making or deleting a folder; both have hidden names.
_LEFTOVER_S = 86_400.0
# What a folder is called while it is deleted, here as in raypipe.maintenance.caches.
_ASIDE = ".gc-"
_held: dict[tuple[int, int], int] = {}


@dataclass(frozen=True)
class CachedCheckpoint:
    """A folder of merged weights; ``used`` is when it was last written, read or held (seconds of
    the epoch)."""

    path: Path
    size: int
    used: float


def merged_directory() -> Path:
    """Where this node keeps merged weights, a folder for each policy."""
    return Path.home() / ".cache" / "raypipe" / "merged"


def hold(checkpoint: Path) -> bool:
    """Keep a checkpoint from being deleted while this process lives.

    Returns:
        False when it is gone, or is being deleted: it must be made again. Also where the file
        system knows no locks; then its age alone protects it.
    """
    try:
        descriptor = os.open(checkpoint, os.O_RDONLY | os.O_DIRECTORY)
    except (FileNotFoundError, NotADirectoryError):
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        with contextlib.suppress(PermissionError):  # another user's
            os.utime(descriptor)
        opened, now = os.fstat(descriptor), checkpoint.stat()
    except OSError:
        os.close(descriptor)
        return False
    place = (opened.st_dev, opened.st_ino)
    if place != (now.st_dev, now.st_ino) or place in _held:
        os.close(descriptor)
        return place in _held
    _held[place] = descriptor
    return True


def release_all() -> None:
    """Let go of what this process holds."""
    while _held:
        os.close(_held.popitem()[1])


def make_room(directory: Path, max_bytes: int | None, *, young_s: float = _YOUNG_S) -> list[Path]:
    """Delete checkpoints until at most ``max_bytes`` are left, the least recently used first.

    One that a process holds, or that was used within ``young_s`` seconds, stays whatever its size.

    Args:
        directory: :func:`merged_directory`, or where a test keeps them.
        max_bytes: None deletes nothing but leftovers of killed processes.

    Returns:
        The folders that are gone.
    """
    if not directory.is_dir():
        return []
    now = time.time()
    gone = [left for left in _leftovers(directory, now - _LEFTOVER_S) if _delete(left)]
    if max_bytes is None:
        return gone
    kept = sorted(checkpoints(directory), key=lambda one: one.used)
    total = sum(one.size for one in kept)
    for one in kept:
        if total <= max_bytes or one.used > now - young_s:
            break
        if _delete(one.path):
            gone.append(one.path)
            total -= one.size
    return gone


def checkpoints(directory: Path) -> Iterator[CachedCheckpoint]:
    """The checkpoints of a cache, in no order."""
    for path in directory.iterdir():
        if not path.name.startswith(".") and path.is_dir() and not path.is_symlink():
            with contextlib.suppress(FileNotFoundError):  # deleted meanwhile
                yield _measured(path)


def _measured(path: Path) -> CachedCheckpoint:
    stats = [file.lstat() for file in path.rglob("*")]
    used = [path.stat().st_mtime, *(max(stat.st_mtime, stat.st_atime) for stat in stats)]
    return CachedCheckpoint(path, sum(stat.st_size for stat in stats), max(used))


def _leftovers(directory: Path, before: float) -> Iterator[Path]:
    for path in directory.glob(".*"):
        with contextlib.suppress(FileNotFoundError):
            if path.is_dir() and not path.is_symlink() and _measured(path).used < before:
                yield path


def _delete(path: Path) -> bool:
    """Delete a folder unless somebody holds it; it loses its name before its first file."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    except OSError:
        return False
    try:
        with contextlib.suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            aside = path.with_name(f"{_ASIDE}{uuid.uuid4().hex}")
            path.rename(aside)
            shutil.rmtree(aside, ignore_errors=True)
            return True
        return False
    finally:
        os.close(descriptor)
