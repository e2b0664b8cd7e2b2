"""What a run has left in this machine's cache; all of it is made again where it is needed."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from raypipe.errors import StorageError
from raypipe.upkeep.inventory import Inventory


@dataclass(frozen=True)
class Cache:
    """A folder of merged weights, or of an adapter on its way to an object store."""

    path: Path
    files: int
    size: int


def find_caches(inventory: Inventory, *, before: float, home: Path) -> list[Cache]:
    """Merged weights of the run's policies, and local copies of what is committed since.

    Args:
        before: nothing that was read or written since then (seconds of the epoch) is told.
        home: raypipe's folder on this machine, ``~/.cache/raypipe``.
    """
    commits = [holding.commit for holding in inventory.holdings.values() if holding.commit]
    folders = [home / "attempts" / commit.attempt for commit in commits]
    policies = {commit.fingerprint.get("policy_id") for commit in commits} - {None}
    for policy in sorted(map(str, policies)):
        # Beside the whole one lies what a kill left of others.
        folders += [home / "merged" / policy, *sorted((home / "merged").glob(f"{policy}.*"))]
    return [
        Cache(folder, len(_files(folder)), sum(path.stat().st_size for path in _files(folder)))
        for folder in folders
        if folder.is_dir() and _last_touched(folder) < before
    ]


def _files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def _last_touched(folder: Path) -> float:
    """When a file in it was last written or read; disks note readings by the day at least."""
    stats = [path.stat() for path in _files(folder)]
    return max((max(stat.st_mtime, stat.st_atime) for stat in stats), default=0.0)


def delete_caches(caches: Sequence[Cache]) -> None:
    """Raises StorageError when a folder cannot be deleted."""
    for cache in caches:
        try:
            shutil.rmtree(cache.path)
        except FileNotFoundError:
            continue
        except OSError as error:
            raise StorageError(f"cannot delete {cache.path}: {error}") from error
