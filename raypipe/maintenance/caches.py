"""What a run has left in this machine's cache; all of it is made again where it is needed.

The cache is shared by all runs of this machine: other runs may have the same policies, so that what
counts is when a folder was last used.
"""

import contextlib
import os
import re
import shutil
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from raypipe.errors import StorageError
from raypipe.maintenance.inventory import Inventory

# Manifests name folders to delete: a name of another form might lead out of the cache.
_POLICY = re.compile(r"[0-9a-f]{16}")
_ATTEMPT = re.compile(r"[0-9a-f]{12}-[0-9a-f]{8}")
# What a folder is called while it is deleted.
_ASIDE = ".gc-"


@dataclass(frozen=True)
class Cache:
    """A folder of merged weights, or of an adapter on its way to an object store.

    ``touched`` is when a file in it was last written or read (seconds of the epoch); disks note
    readings by the day at least.
    """

    path: Path
    files: int
    size: int
    touched: float


def find_caches(inventory: Inventory, *, before: float, home: Path) -> list[Cache]:
    """Merged weights of the run's policies, local copies of what is committed since, and what a
    kill left of deleting such a folder.

    Args:
        before: nothing that was read or written since then (seconds of the epoch) is told.
        home: raypipe's folder on this machine, ``~/.cache/raypipe``.
    """
    found = (_measured(folder) for folder in _folders(inventory, home))
    return [cache for cache in found if cache is not None and cache.touched <= before]


def delete_caches(caches: Sequence[Cache], *, before: float) -> list[Cache]:
    """Delete them; returns what is gone. What was used since ``before`` stays.

    A folder loses its name before its first file: whoever asks for it finds it whole or not at all.
    Raises StorageError when one cannot be deleted; those before it are gone.
    """
    gone: list[Cache] = []
    for cache in caches:
        now = _measured(cache.path)
        if now is None or now.touched > before:
            continue
        aside = cache.path.with_name(f"{_ASIDE}{uuid.uuid4().hex}")
        try:
            cache.path.rename(aside)
            shutil.rmtree(aside)
        except FileNotFoundError:  # somebody else was first
            continue
        except OSError as error:
            raise StorageError(f"cannot delete {cache.path}: {error}") from error
        gone.append(cache)
    return gone


def _folders(inventory: Inventory, home: Path) -> Iterator[Path]:
    commits = [holding.commit for holding in inventory.holdings.values() if holding.commit]
    for attempt in _named(_ATTEMPT, (commit.attempt for commit in commits)):
        yield home / "attempts" / attempt
    merged = home / "merged"
    for policy in _named(_POLICY, (commit.fingerprint.get("policy_id") for commit in commits)):
        yield merged / policy
        # Beside the whole one lies what a kill left of others.
        yield from sorted(merged.glob(f"{policy}.*"))
    for place in (home / "attempts", merged):
        yield from sorted(place.glob(f"{_ASIDE}*"))


def _named(form: re.Pattern[str], names: Iterator[object]) -> list[str]:
    """The names of this form, each once."""
    return sorted({name for name in names if isinstance(name, str) and form.fullmatch(name)})


def _measured(folder: Path) -> Cache | None:
    """A folder as it is now; None where there is none."""
    if folder.is_symlink():
        return None
    stats: list[os.stat_result] = []
    for place, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(FileNotFoundError):  # deleted since the folder was listed
                stats.append(os.lstat(os.path.join(place, name)))
    try:
        # Somebody may have just made it, to write into it.
        touched = folder.stat().st_mtime
    except FileNotFoundError:
        return None
    if stats:
        touched = max(max(stat.st_mtime, stat.st_atime) for stat in stats)
    return Cache(folder, len(stats), sum(stat.st_size for stat in stats), touched)
