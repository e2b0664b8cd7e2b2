"""One process at a time makes an artifact; another one waits until it is made, or takes over.

In a local run a lease is a lock, which the system releases with its process. In an object store it
is a numbered object that its holder writes again every few seconds. Whoever has seen the newest one
unchanged for ``EXPIRY_S``, by a clock of its own, creates the next number: of two that try one
wins. Giving it back leaves the number. A holder on the same machine whose process has ended is not
waited for. A holder that finds a higher number stops.
"""

import contextlib
import fcntl
import json
import logging
import os
import signal
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.fs as pafs

from raypipe import storage
from raypipe.errors import RaypipeError
from raypipe.store.run_directory import RunDirectory

LEASES = ".leases"
HEARTBEAT_S = 10.0
EXPIRY_S = 60.0
_LOOK_S = 0.5
_LOOK_AWAY_S = 5.0
_START_TICKS = 19  # of the fields of /proc/<pid>/stat after the name
_RELEASED = b'{"released": true}'
_TOLD_EVERY_S = 15.0
logger = logging.getLogger("raypipe.runtime.progress")


@contextlib.contextmanager
def lease(run: RunDirectory, name: str) -> Iterator[bool]:
    """Hold the lease of ``name`` while the body runs; yields whether another process had it.

    Waits for that process without a limit, and says so. A file system without locks has no leases.

    Raises:
        StorageError: the storage cannot be reached.
    """
    place = f"{LEASES}/{name.replace('/', '.')}"
    with _local(run, place, name) if run.is_local else _remote(run, place, name) as waited:
        yield waited


@contextlib.contextmanager
def _local(run: RunDirectory, place: str, name: str) -> Iterator[bool]:
    path = Path(run.path(place))
    with storage.storage_errors(f"cannot write {path}"):
        path.parent.mkdir(parents=True, exist_ok=True)
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
    try:
        waiting = _Waiting(name)
        while not _locked(file):
            waiting.tell(_told(os.pread(file, 1024, 0)))
            time.sleep(_LOOK_S)
        with contextlib.suppress(OSError):  # a full disk: others wait for a process without a name
            os.ftruncate(file, 0)
            os.pwrite(file, _content(0), 0)
        yield waiting.has_waited
    finally:
        os.close(file)


def _locked(file: int) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks
        return True
    return True


@contextlib.contextmanager
def _remote(run: RunDirectory, place: str, name: str) -> Iterator[bool]:
    waiting = _Waiting(name)
    number = _acquired(run, place, waiting)
    beating = _Heartbeat(run, place, number, name)
    try:
        yield waiting.has_waited
    finally:
        beating.end()


def _acquired(run: RunDirectory, place: str, waiting: "_Waiting") -> int:
    """The number under which this process holds the lease."""
    seen: tuple[int, bytes | None] = (0, None)
    since = time.monotonic()
    while True:
        newest = _newest(run, place)
        found = (newest, run.read(f"{place}/{newest:06d}.json") if newest else None)
        if found != seen:
            seen, since = found, time.monotonic()
        is_free = time.monotonic() - since > EXPIRY_S or _is_gone(found[1])
        if is_free and run.create(f"{place}/{newest + 1:06d}.json", _content(0)):
            _forget(run, place, newest)
            return newest + 1
        waiting.tell(_told(found[1]))
        time.sleep(_LOOK_AWAY_S)


def _newest(run: RunDirectory, place: str) -> int:
    """The highest number there is; 0 for none."""
    selector = pafs.FileSelector(run.path(place), allow_not_found=True)
    names = (info.base_name.removesuffix(".json") for info in run.look(selector))
    return max((int(name) for name in names if name.isdecimal()), default=0)


def _forget(run: RunDirectory, place: str, newest: int) -> None:
    """Delete what held the lease before. The newest number always stays, so none comes twice."""
    with contextlib.suppress(RaypipeError, OSError, ValueError):
        for info in run.look(pafs.FileSelector(run.path(place))):
            if int(info.base_name.removesuffix(".json")) <= newest:
                run.filesystem.delete_file(info.path)


class _Heartbeat:
    """Writes a held lease again and again, from a thread."""

    def __init__(self, run: RunDirectory, place: str, number: int, name: str) -> None:
        self._run, self._place, self._number, self._name = run, place, number, name
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="lease", daemon=True)
        self._thread.start()

    def end(self) -> None:
        """Give the lease back."""
        self._ended.set()
        self._thread.join()
        with contextlib.suppress(RaypipeError):  # then it expires
            if _newest(self._run, self._place) == self._number:
                self._run.replace(self._path(self._number), _RELEASED)

    def _path(self, number: int) -> str:
        return f"{self._place}/{number:06d}.json"

    def _beat(self) -> None:
        last, count = time.monotonic(), 0
        while not self._ended.wait(HEARTBEAT_S):
            count += 1
            try:
                if not self._renewed(count, time.monotonic() - last):
                    break
                last = time.monotonic()
            except RaypipeError as error:  # the storage may be back later
                logger.warning("cannot renew the lease of %s: %s", self._name, error)
        else:
            return
        logger.error("another process has taken over the lease of %s: stopping", self._name)
        os.kill(os.getpid(), signal.SIGTERM)

    def _renewed(self, count: int, late_s: float) -> bool:
        """Write it again; one that may have expired is taken anew, unless somebody else has it."""
        if _newest(self._run, self._place) > self._number:
            return False
        if late_s >= EXPIRY_S:
            if not self._run.create(self._path(self._number + 1), _content(count)):
                return False
            self._number += 1
        self._run.replace(self._path(self._number), _content(count))
        return True


@dataclass
class _Waiting:
    """Says now and then whom it waits for."""

    name: str
    has_waited: bool = False
    _told: float = -_TOLD_EVERY_S

    def tell(self, holder: str) -> None:
        self.has_waited = True
        if time.monotonic() - self._told >= _TOLD_EVERY_S:
            self._told = time.monotonic()
            logger.info("waiting for %s, which makes %s", holder or "another process", self.name)


def _content(count: int) -> bytes:
    """Never the same twice."""
    own = {"host": socket.gethostname(), "pid": os.getpid(), "process": _identity(os.getpid())}
    return json.dumps(own | {"beat": count, "mark": uuid.uuid4().hex}).encode()


def _parsed(content: bytes | None) -> dict[str, Any]:
    try:
        values = json.loads(content or b"{}")
    except ValueError:
        return {}
    return values if isinstance(values, dict) else {}


def _told(content: bytes | None) -> str:
    holder = _parsed(content)
    known = holder.get("pid") is not None
    return f"process {holder['pid']} on {holder.get('host')}" if known else ""


def _is_gone(content: bytes | None) -> bool:
    """Whether nobody holds a lease of this content, as far as this machine can tell at once."""
    if content is None:
        return True
    holder = _parsed(content)
    if holder.get("released"):
        return True
    told, pid = holder.get("process"), holder.get("pid")
    if not isinstance(told, list) or told[:2] != _machine() or not isinstance(pid, int):
        return False
    return _identity(pid) != told


def _machine() -> list[str] | None:
    """The boot of a machine and the space of process ids in which this process lives; None where
    the system does not tell."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return [boot, os.readlink("/proc/self/ns/pid")]
    except OSError:
        return None


def _identity(pid: int) -> list[str] | None:
    """What tells a process from every other one there ever was: its machine, and by the system's
    ticks when it began. None when there is none."""
    machine = _machine()
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if machine is None else [*machine, state[_START_TICKS]]
