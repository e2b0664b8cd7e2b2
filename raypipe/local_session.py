"""What a Ray session of this machine alone is given: a private directory, no open port, an end.

Ray, vLLM and torch listen on every interface by default, since most of their sessions are clusters,
and Ray keeps a session's sockets and files in a directory that every user of the machine may write.
"""

import contextlib
import fcntl
import os
import secrets
import shutil
import socket
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from raypipe.interruption import ended_by
from raypipe.processes import end_marked

LOOPBACK = "127.0.0.1"
# In the environment of every process of a session, also of one whose parent is gone.
_MARK = "RAYPIPE_SESSION"
# Ray's own switch for machines whose firewall asks about every open port; all it does is to take
# the loopback address for the node's, and with it everything listens there.
_CLUSTER_SWITCH = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
# A socket's path may have 107 bytes; Ray's names below its directory take some 70 of them.
_LONGEST_DIRECTORY = 36
_PREFIX = "raypipe-"
_LOCK = "lock"


def joins_cluster() -> bool:
    """Whether a session would join the cluster that RAY_ADDRESS names."""
    return os.environ.get("RAY_ADDRESS", "").strip() not in ("", "local")


@contextlib.contextmanager
def local_session() -> Iterator[dict[str, Any]]:
    """The environment of a local session; gives the arguments that ``ray.init`` needs for it.

    Once the body has ended, or a signal ends the process, none of the session's processes runs any
    more, and its directory is gone; one that RAY_TMPDIR names is the user's and stays.
    """
    mark = secrets.token_hex(16)
    own = None if os.environ.get("RAY_TMPDIR") else _private_directory()

    def end() -> None:
        end_marked(_MARK, mark)
        if own is not None:
            shutil.rmtree(own, ignore_errors=True)

    _keep_token()
    # Below the private one: Ray opens its own directory to everybody.
    where = {} if own is None else {"_temp_dir": f"{own}/ray"}
    with contextlib.ExitStack() as stack:
        stack.enter_context(ended_by(end))
        if own is not None:
            stack.enter_context(_held(own))
            _sweep(Path(own).parent)
        stack.enter_context(_environment({**_loopback(), _MARK: mark}))
        stack.enter_context(_node_on_loopback())
        try:
            yield where
        finally:
            end()


def _private_directory() -> str:
    """A new directory that no other user may look into."""
    given = tempfile.mkdtemp(prefix=_PREFIX)
    if len(os.fsencode(given)) <= _LONGEST_DIRECTORY:
        return given
    Path(given).rmdir()
    return tempfile.mkdtemp(prefix=_PREFIX, dir="/tmp")


@contextlib.contextmanager
def _held(directory: str) -> Iterator[None]:
    """The lock of a private directory, which the system lets go when this process is gone."""
    lock = os.open(f"{directory}/{_LOCK}", os.O_CREAT | os.O_RDWR, 0o600)
    fcntl.flock(lock, fcntl.LOCK_EX)
    try:
        yield
    finally:
        os.close(lock)


def _sweep(directory: Path) -> None:
    """Delete the private directories of this user's sessions that a SIGKILL has ended."""
    for left in directory.glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError):  # gone meanwhile, or its session is still there
            if left.is_symlink() or left.stat().st_uid != os.getuid():
                continue
            lock = os.open(left / _LOCK, os.O_RDWR | os.O_NOFOLLOW)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(left, ignore_errors=True)
            finally:
                os.close(lock)


def _loopback() -> dict[str, str]:
    """What keeps the session's libraries on the loopback interface, unless the user says where."""
    names = [name for _, name in socket.if_nameindex() if name.startswith("lo")]
    interface = {"GLOO_SOCKET_IFNAME": names[0], "NCCL_SOCKET_IFNAME": names[0]} if names else {}
    wanted = {_CLUSTER_SWITCH: "0", "VLLM_HOST_IP": LOOPBACK, **interface}
    return {name: value for name, value in wanted.items() if not os.environ.get(name)}


def _keep_token() -> None:
    """See that nobody else can read the token that Ray asks of whoever connects; Ray would make one
    that all users of the machine may read."""
    given = os.environ.get("RAY_AUTH_TOKEN_PATH")
    path = Path(given) if given else Path.home() / ".ray" / "auth_token"
    with contextlib.suppress(OSError):  # then Ray says what it needs
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
def _node_on_loopback() -> Iterator[None]:
    """The switch in this process too, where Ray was imported before it was set."""
    from ray._private import ray_constants

    former = ray_constants.ENABLE_RAY_CLUSTER
    ray_constants.ENABLE_RAY_CLUSTER = former and os.environ[_CLUSTER_SWITCH] != "0"
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = former
