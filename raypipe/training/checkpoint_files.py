"""The files of a checkpoint: what each worker wrote, with digests, and whether all of it is there.

A checkpoint is whole when every worker's list is there and every listed file has its size and
digest. Whoever may write into a run may rewrite a list too: digests find damage, not intent. What
is loaded from a checkpoint is safe by how it is loaded (:func:`load_tensors_only`).
"""

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

from pyarrow import fs as pafs
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from raypipe import storage

_PREFIX = "checkpoint_"
_CHUNK = 1 << 20
_LONGEST_LIST = 1 << 20
FileName = Annotated[
    str, StringConstraints(pattern=r"^[A-Za-z0-9_][\w.-]*(/[A-Za-z0-9_][\w.-]*)*$", max_length=200)
]


class DamagedCheckpointError(Exception):
    """A checkpoint that nothing can be loaded from; the message says which file and why."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class ListedFile(_Strict):
    size: int = Field(ge=0)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")


class WorkerFiles(_Strict):
    """What one worker wrote of a checkpoint; lies beside it as ``files-<rank>.json``."""

    rank: int = Field(ge=0)
    workers: int = Field(ge=1, le=100_000)
    """How many such lists the checkpoint has."""
    zero_stage: int = Field(ge=0, le=3)
    files: dict[FileName, ListedFile]


def load_tensors_only() -> None:
    """Let no file run code in this process, whatever it is loaded by.

    DeepSpeed calls ``torch.load(weights_only=False)``; torch's environment variable overrules it.
    Besides tensors and plain values its states hold three classes that do nothing.
    """
    os.environ.pop("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", None)
    os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"] = "1"
    import torch
    from deepspeed.runtime.fp16.loss_scaler import LossScaler
    from deepspeed.runtime.zero.config import ZeroStageEnum
    from deepspeed.utils.tensor_fragment import fragment_address

    torch.serialization.add_safe_globals([LossScaler, ZeroStageEnum, fragment_address])


def list_files(directory: Path, *, rank: int, workers: int, zero_stage: int) -> None:
    """Write the list of a worker's files, last of all."""
    files = {
        path.relative_to(directory).as_posix(): ListedFile(
            size=path.stat().st_size, sha256=_sha256(path)
        )
        for path in sorted(directory.rglob("*"))
        if path.is_file()
    }
    made = WorkerFiles(rank=rank, workers=workers, zero_stage=zero_stage, files=files)
    (directory / _list_name(rank)).write_text(made.model_dump_json())


def checkpoints(filesystem: pafs.FileSystem, directory: str) -> list[str]:
    """Names of what may be checkpoints of a training, the newest first."""
    selector = pafs.FileSelector(directory, allow_not_found=True)
    with storage.storage_errors(f"cannot look into {directory}"):
        found = filesystem.get_file_info(selector)
    names = [info.base_name for info in found if info.type == pafs.FileType.Directory]
    return sorted((name for name in names if name.startswith(_PREFIX)), reverse=True)


def copy_whole(filesystem: pafs.FileSystem, source: str, target: Path) -> WorkerFiles:
    """Copy the listed files of a checkpoint, and no others, into a local directory.

    Returns:
        The first worker's list.

    Raises:
        DamagedCheckpointError: a list or a file is missing or is not what was written.
        StorageError: the storage is out of reach, or the disk is full.
    """
    first = _read_list(filesystem, source, 0)
    lists = [first, *(_read_list(filesystem, source, rank) for rank in range(1, first.workers))]
    for listed in lists:
        if (listed.workers, listed.zero_stage) != (first.workers, first.zero_stage):
            raise DamagedCheckpointError("its lists of files are of different trainings")
        for name, file in listed.files.items():
            _copy(filesystem, f"{source}/{name}", target / name, file)
    return first


def _list_name(rank: int) -> str:
    return f"files-{rank}.json"


def _read_list(filesystem: pafs.FileSystem, source: str, rank: int) -> WorkerFiles:
    name = _list_name(rank)
    content = b"".join(_chunks(filesystem, f"{source}/{name}", _LONGEST_LIST))
    try:
        found = WorkerFiles.model_validate_json(content)
    except ValidationError as error:
        raise DamagedCheckpointError(f"{name} is damaged") from error
    if found.rank != rank:
        raise DamagedCheckpointError(f"{name} is another worker's")
    return found


def _copy(filesystem: pafs.FileSystem, source: str, target: Path, file: ListedFile) -> None:
    digest = hashlib.sha256()
    with storage.storage_errors(f"cannot write {target} ({file.size:,} bytes)"):
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("wb") as stream:
            for chunk in _chunks(filesystem, source, file.size):
                digest.update(chunk)
                stream.write(chunk)
    if digest.hexdigest() != file.sha256:
        raise DamagedCheckpointError(f"{_base(source)} is not what was written")


def _chunks(filesystem: pafs.FileSystem, path: str, most: int) -> Iterator[Any]:
    """The bytes of a regular file of at most this many."""
    with storage.storage_errors(f"cannot read {path}"):
        [info] = filesystem.get_file_info([path])
        if not info.is_file:
            raise DamagedCheckpointError(f"{_base(path)} is missing")
        if info.size > most:
            raise DamagedCheckpointError(f"{_base(path)} is not what was written")
        with filesystem.open_input_stream(path) as stream:
            while chunk := stream.read(_CHUNK):
                yield chunk


def _base(path: str) -> str:
    return path.rpartition("/")[2]


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
