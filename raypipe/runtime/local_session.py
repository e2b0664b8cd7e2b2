"""A local Ray session: a private directory, no open ports, no processes left behind.

Ray, vLLM and torch listen on all interfaces by default, as clusters need, and Ray keeps a session's
sockets and files in a world-writable directory.
"""

import contextlib
import fcntl
import os
import secrets
import shutil
import socket
import tempfile
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from raypipe.runtime.interruption import ended_by
from raypipe.runtime.processes import end_marked

LOOPBACK = "127.0.0.1"
# In the environment of every process of a session, including orphans.
_MARK = "RAYPIPE_SESSION"
# Ray's switch for machines whose firewall prompts for open ports: it makes loopback the node's
# address, so everything listens there.
_CLUSTER_SWITCH = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
# A socket path has at most 107 bytes; Ray's names below its directory take about 70 of them.
_LONGEST_DIRECTORY = 36
_PREFIX = "raypipe-"
_LOCK = "lock"


def joins_cluster() -> bool:
    """Whether a session would join the cluster that RAY_ADDRESS names."""
    return os.environ.get("RAY_ADDRESS", "").strip() not in ("", "local")


@contextlib.contextmanager
def local_session() -> Iterator[dict[str, Any]]:
    """Set the environment of a local session; yields arguments for ``ray.init``.

    When the body or the process ends, all processes of the session are ended and its directory is
    deleted, unless RAY_TMPDIR names it.
    """
    mark = secrets.token_hex(16)
    own = None if os.environ.get("RAY_TMPDIR") else _private_directory()

    def end() -> None:
        end_marked(_MARK, mark)
        if own is not None:
            shutil.rmtree(own, ignore_errors=True)

    _keep_token()
    # Below the private directory: Ray makes its own world-writable.
    where = {} if own is None else {"_temp_dir": f"{own}/ray"}
    with contextlib.ExitStack() as stack:
        stack.enter_context(ended_by(end))
        if own is not None:
            stack.enter_context(_held(own))
            _sweep(Path(own).parent)
        stack.enter_context(_environment({**_loopback(), _MARK: mark}))
        stack.enter_context(_node_on_loopback())
        stack.enter_context(_own_groups())
        try:
            yield where
        finally:
            end()


def _private_directory() -> str:
    """A new directory that no other user can read."""
    given = tempfile.mkdtemp(prefix=_PREFIX)
    if len(os.fsencode(given)) <= _LONGEST_DIRECTORY:
        return given
    Path(given).rmdir()
    return tempfile.mkdtemp(prefix=_PREFIX, dir="/tmp")


@contextlib.contextmanager
def _held(directory: str) -> Iterator[None]:
    """Lock a private directory; the system releases the lock when this process ends."""
    lock = os.open(f"{directory}/{_LOCK}", os.O_CREAT | os.O_RDWR, 0o600)
    fcntl.flock(lock, fcntl.LOCK_EX)
    try:
        yield
    finally:
        os.close(lock)


def _sweep(directory: Path) -> None:
    """Delete the private directories of this user's sessions that ended by SIGKILL."""
    for left in directory.glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError):  # already deleted, or its session still runs
            if left.is_symlink() or left.stat().st_uid != os.getuid():
                continue
            lock = os.open(left / _LOCK, os.O_RDWR | os.O_NOFOLLOW)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(left, ignore_errors=True)
            finally:
                os.close(lock)


def _loopback() -> dict[str, str]:
    """Variables that keep libraries on the loopback interface, unless the user sets them."""
    names = [name for _, name in socket.if_nameindex() if name.startswith("lo")]
    interface = {"GLOO_SOCKET_IFNAME": names[0], "NCCL_SOCKET_IFNAME": names[0]} if names else {}
    wanted = {_CLUSTER_SWITCH: "0", "VLLM_HOST_IP": LOOPBACK, **interface}
    return {name: value for name, value in wanted.items() if not os.environ.get(name)}


def _keep_token() -> None:
    """Make Ray's authentication token readable by this user only; Ray would make it
    world-readable."""
    given = os.environ.get("RAY_AUTH_TOKEN_PATH")
    path = Path(given) if given else Path.home() / ".ray" / "auth_token"
    with contextlib.suppress(OSError):  # then Ray reports it
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with contextlib.suppress(FileExistsError):
            file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(file, "w") as stream:
                stream.write(secrets.token_hex(32))
        if path.stat().st_mode & 0o077:
            path.chmod(0o600)


@contextlib.contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    former = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in former.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextlib.contextmanager
def _own_groups() -> Iterator[None]:
    """Start each of Ray's processes in a process group of its own.

    A SIGTERM to this process's group would end the raylet, and Ray ends a process that has lost its
    raylet with code 1, before it can clean up.
    """
    from ray._private import services

    former = services.ConsolePopen
    services.ConsolePopen = partial(former, process_group=0)
    try:
        yield
    finally:
        services.ConsolePopen = former


@contextlib.contextmanager
def _node_on_loopback() -> Iterator[None]:
    """Set the switch in this process too, since Ray may be imported already."""
    from ray._private import ray_constants

    former = ray_constants.ENABLE_RAY_CLUSTER
    ray_constants.ENABLE_RAY_CLUSTER = former and os.environ[_CLUSTER_SWITCH] != "0"
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = former
