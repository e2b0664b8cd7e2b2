"""Ends child processes, by their ids."""

import contextlib
import os
from collections.abc import Callable, Iterable

import psutil

_TRIES = 20


def end_descendants() -> None:
    """Send SIGKILL to all descendants of this process."""
    _end(lambda: psutil.Process().children(recursive=True))


def end_marked(name: str, value: str) -> None:
    """Send SIGKILL to every process with this environment variable, including orphans."""
    _end(lambda: [one for one in psutil.process_iter() if _has(one, name, value)])


def _end(find: Callable[[], Iterable[psutil.Process]]) -> None:
    """Repeat until none is left: a killed process may just have started another."""
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
