"""A base model in an object store: copied once to each machine, and known by its bytes.

The trust is that of a local checkpoint: safetensors and the files beside them alone are copied,
never a pickle or code.
"""

import functools
import hashlib
import logging
import re
from dataclasses import dataclass
from pathlib import Path

from pyarrow import fs as pafs

from raypipe import storage
from raypipe.errors import ConfigError, StorageError

GIB = 1 << 30
MAX_FILES = 1000
_WEIGHTS = ".safetensors"
_TAKEN = (_WEIGHTS, ".json", ".txt", ".model", ".jinja", ".tiktoken", ".md")
_NAME = re.compile(r"[A-Za-z0-9_][\w.-]*")
_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*://")
_CHUNK = 16 << 20
logger = logging.getLogger("raypipe.runtime.progress")


@dataclass(frozen=True)
class StoredModel:
    """A model's files in an object store, as they are listed now."""

    address: str
    filesystem: pafs.FileSystem
    files: tuple[pafs.FileInfo, ...]

    @property
    def size(self) -> int:
        return sum(int(file.size) for file in self.files)

    @property
    def directory(self) -> Path:
        """Where this machine keeps a copy of it, whether it is there or not. Files that are
        written anew, under whatever name, get another one."""
        digest = hashlib.sha256(self.address.encode())
        for file in self.files:
            digest.update(f"\0{file.base_name}\0{file.size}\0{file.mtime_ns}".encode())
        return Path.home() / ".cache" / "raypipe" / "models" / digest.hexdigest()[:32]


def is_in_store(path: str) -> bool:
    """Whether ``model.path`` is an address, such as s3://bucket/models/mine."""
    return _SCHEME.match(path) is not None


def list_model(address: str) -> StoredModel:
    """Look for a model in an object store; nothing is copied.

    Raises:
        ConfigError: the address is none, holds credentials, or there is no model in safetensors.
        StorageError: the store is out of reach or denies access.
    """
    storage.refuse_credentials(address)
    what = f"model.path={address}"
    try:
        with storage.storage_errors(f"cannot look into {address}"):
            filesystem, root = pafs.FileSystem.from_uri(address)
            selector = pafs.FileSelector(root, allow_not_found=True)
            listed = sorted(filesystem.get_file_info(selector), key=lambda file: file.path)
    except ValueError as error:
        raise ConfigError(f"{what} is no address of an object store: {error}") from error
    files = [file for file in listed if file.type == pafs.FileType.File]
    taken = tuple(file for file in files if _is_taken(file.base_name))
    names = {file.base_name for file in taken}
    if "config.json" not in names:
        raise ConfigError(f"{what} is no model: there is no config.json in it")
    if not any(name.endswith(_WEIGHTS) for name in names):
        raise ConfigError(
            f"{what} holds no *.safetensors; a pickle is never loaded: save the weights as "
            "safetensors"
        )
    if len(taken) > MAX_FILES:
        raise ConfigError(f"{what} has more than {MAX_FILES:,} files: name the model's own folder")
    return StoredModel(address, filesystem, taken)


@functools.cache
def fetched(address: str) -> Path:
    """This machine's copy of a model, made where it is not there yet; asked for once a process.

    It appears whole or not at all, also when several processes ask for it at once: one copies, the
    others wait, and a lock ends with its process.

    Raises:
        ConfigError: as :func:`list_model`.
        StorageError: the store is out of reach, or the disk is full.
    """
    model = list_model(address)
    target = model.directory
    with storage.one_at_a_time(target):
        if not target.is_dir():
            logger.info(f"copying {address} to this machine, {model.size / GIB:.1f} GiB")
            with storage.whole(target, replace=False) as partial:
                partial.mkdir()
                for file in model.files:
                    _copy(model, file, partial / file.base_name)
    return target


def _is_taken(name: str) -> bool:
    return name.endswith(_TAKEN) and _NAME.fullmatch(name) is not None


def _copy(model: StoredModel, file: pafs.FileInfo, target: Path) -> None:
    try:
        with (
            model.filesystem.open_input_stream(file.path, compression=None) as source,
            target.open("wb") as sink,
        ):
            while chunk := source.read(_CHUNK):
                sink.write(chunk)
    except OSError as error:
        raise storage.failed(f"cannot copy {model.address}/{file.base_name}", error) from error
    if target.stat().st_size != file.size:
        raise StorageError(
            f"{model.address}/{file.base_name} changed while it was copied: the same command tries "
            "again"
        )
