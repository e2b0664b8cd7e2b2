"""Ends processes that this one has started, by their ids."""

import contextlib
import os
from collections.abc import Callable, Iterable

import psutil

_TRIES = 20


def end_descendants() -> None:
    """SIGKILL to the children of this process, and theirs."""
    _end(lambda: psutil.Process().children(recursive=True))


def end_marked(name: str, value: str) -> None:
    """SIGKILL to every process that was started with this in its environment, also to one whose
    parent is gone."""
    _end(lambda: [one for one in psutil.process_iter() if _has(one, name, value)])


def _end(find: Callable[[], Iterable[psutil.Process]]) -> None:
    """Again until there is none left: one that is ended may just have started another."""
    for _ in range(_TRIES):
        found = [process for process in find() if _runs(process)]
        if not found:
            return
        for process in found:
            with contextlib.suppress(psutil.Error):
                process.kill()
        psutil.wait_procs(found, timeout=0.2)


def _runs(process: psutil.Process) -> bool:
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False


def _has(process: psutil.Process, name: str, value: str) -> bool:
    if process.pid == os.getpid():
        return False
    try:
        return bool(process.environ().get(name) == value)
    except (psutil.Error, OSError):
        return False  # another user's, or gone
