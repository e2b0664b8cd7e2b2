"""DeepSpeed's one C++ extension, built so that a kill in the middle of it harms nobody."""

import fcntl
import hashlib
import os
import shutil
import sys
from pathlib import Path


def load_extension() -> None:
    """Build and load what DeepSpeed reduces gradients on CPUs with; once per process.

    PyTorch guards such a build with a lock file: a process killed within leaves the file behind,
    and all who come later wait for it without end; it also loads whatever half a library it
    finds. Here the guard is an ``flock``, which dies with its holder, on a folder that only this
    environment's processes build in, and what no finished load vouches for is built again. On a
    GPU DeepSpeed builds nothing, and neither does this.
    """
    folder = _folder()
    folder.mkdir(parents=True, exist_ok=True)
    os.environ["TORCH_EXTENSIONS_DIR"] = str(folder)
    whole = folder / "whole"
    with (folder / "guard").open("w") as guard:
        fcntl.flock(guard, fcntl.LOCK_EX)
        if not whole.exists():
            for unfinished in folder.glob("*/"):
                shutil.rmtree(unfinished)
        whole.unlink(missing_ok=True)
        _load()
        whole.touch()


def _load() -> None:
    from deepspeed.comm.torch import build_shm_op

    build_shm_op()  # DeepSpeed keeps what it loaded: its own call finds it


def _folder() -> Path:
    """A folder for this environment: another's compiler flags would have it built anew."""
    import torch
    from torch.utils.cpp_extension import get_default_build_root

    chosen = os.environ.get("TORCH_EXTENSIONS_DIR")
    root = Path(chosen or get_default_build_root())
    environment = f"{sys.prefix} {sys.version} {torch.__version__}"
    name = f"raypipe-{hashlib.sha256(environment.encode()).hexdigest()[:16]}"
    return root if root.name == name else root / name
