"""The sha256 of input files, kept in the run: a catalog of terabytes is hashed once, not by every
call."""

import json
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pyarrow.fs as pafs

from raypipe import storage
from raypipe.errors import StorageError
from raypipe.store.checksums import measure_file
from raypipe.store.paths import INPUT_HASHES
from raypipe.store.run_directory import RunDirectory

_FILES_AT_ONCE = 16
# A file that was written to less than this long ago may change once more within the same tick of
# its storage's clock, so its hash is not kept.
_SETTLED_S = 2.0


@dataclass(frozen=True)
class HashedFile:
    """Bytes and sha256 (hex) of a file."""

    size: int
    sha256: str


@dataclass
class HashedFiles:
    """Hashes files that are not known yet, several at once.

    Args:
        run: where hashes are kept between calls; None keeps them nowhere.
    """

    run: RunDirectory | None = None
    _known: dict[str, HashedFile] = field(default_factory=dict)
    _is_read: bool = False

    def of(self, filesystem: pafs.FileSystem, paths: Sequence[str]) -> list[HashedFile]:
        """What files hold, in their order. A file whose path, size and time are known is not read.

        Raises:
            StorageError: a file cannot be read.
            ArtifactError: the hashes in the run are corrupt.
        """
        self._read()
        with storage.storage_errors(f"cannot look at {paths[0] if paths else 'the files'}"):
            infos = filesystem.get_file_info(list(paths))
        keys = [f"{filesystem.type_name} {one.path} {one.size} {one.mtime_ns}" for one in infos]
        missing = {
            key: info for key, info in zip(keys, infos, strict=True) if key not in self._known
        }
        started = time.time()
        with ThreadPoolExecutor(_FILES_AT_ONCE, thread_name_prefix="hash") as threads:
            hashed = threads.map(partial(_hash, filesystem), (one.path for one in missing.values()))
            self._known |= dict(zip(missing, hashed, strict=True))
        settled = [
            key
            for key, info in missing.items()
            if info.mtime_ns is not None and info.mtime_ns / 1e9 < started - _SETTLED_S
        ]
        if settled:
            self._keep(settled)
        return [self._known[key] for key in keys]

    def _read(self) -> None:
        if self.run is not None and not self._is_read:
            held = self.run.read_json(INPUT_HASHES, "delete it; the files are then hashed again")
            self._known |= {key: HashedFile(*values) for key, values in (held or {}).items()}
            self._is_read = True

    def _keep(self, keys: Sequence[str]) -> None:
        if self.run is None:
            return
        held: dict[str, Any] = self.run.read_json(INPUT_HASHES) or {}
        held |= {key: [self._known[key].size, self._known[key].sha256] for key in keys}
        self.run.replace(INPUT_HASHES, json.dumps(held, sort_keys=True, indent=0).encode())


def _hash(filesystem: pafs.FileSystem, path: str) -> HashedFile:
    found = measure_file(filesystem, path)
    if found is None:
        raise StorageError(f"cannot read {path}: it is gone")
    return HashedFile(*found)
