"""How a job would meet Ray: the cluster it joins, who else may, and where the dashboard listens."""

import contextlib
import re
import socket
import stat
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from urllib.parse import urlsplit

from raypipe.doctor.finding import Finding, fail, ok, warn
from raypipe.errors import EXIT_RETRY

DASHBOARD_PORT = 8265
_GCS_PORT = 6379
_CLIENT_PORT = 10001
_GENERATE = "ray get-auth-token --generate > /dev/null && chmod 600 ~/.ray/auth_token"
_LISTENS = "0A"  # the state of a socket in /proc/net/tcp
_EVERYWHERE = {"0" * 8, "0" * 32}
Connect = Callable[[str, int], bool]


def connects(host: str, port: int) -> bool:
    """Whether somebody answers there within three seconds."""
    with contextlib.suppress(OSError), socket.create_connection((host, port), timeout=3):
        return True
    return False


def check_address(
    environment: Mapping[str, str], connect: Connect, current: Path = Path("/tmp/ray")
) -> Finding:
    """Whether the cluster that RAY_ADDRESS names answers.

    Args:
        connect: tries a host and a port.
        current: where a Ray of this machine notes its address, for RAY_ADDRESS=auto.
    """
    address = environment.get("RAY_ADDRESS", "").strip()
    if not address:
        return ok("RAY_ADDRESS", "not set: a job starts a Ray of its own on this machine")
    if address == "auto":
        noted = current / "ray_current_cluster"
        if not noted.is_file():
            return _silent("auto, but no Ray was started on this machine")
        address = noted.read_text().strip()
    elif address in ("local", "local_mode"):
        return ok("RAY_ADDRESS", f"{address}: a job starts a Ray of its own on this machine")
    parts = urlsplit(address if "://" in address else f"gcs://{address}")
    if not parts.hostname:
        return fail("RAY_ADDRESS", f"'{address}' names no host", "RAY_ADDRESS=host:6379, or unset")
    port = {"ray": _CLIENT_PORT, "http": DASHBOARD_PORT}.get(parts.scheme, _GCS_PORT)
    with contextlib.suppress(ValueError):
        port = parts.port or port
    if connect(parts.hostname, port):
        return ok("RAY_ADDRESS", f"{parts.hostname}:{port} answers")
    return _silent(f"{parts.hostname}:{port} does not answer")


def _silent(detail: str) -> Finding:
    return fail("RAY_ADDRESS", detail, "start the cluster, or unset RAY_ADDRESS", EXIT_RETRY)


def check_authentication(environment: Mapping[str, str], home: Path) -> Iterator[Finding]:
    """Who may run code on the Ray that a job joins or starts.

    Ray takes the token from RAY_AUTH_TOKEN, the file in RAY_AUTH_TOKEN_PATH or ~/.ray/auth_token. A
    Ray that a job starts asks for one by default; a cluster does only where it is told to, or where
    a token lay when it was started.
    """
    what, mode = "RAY_AUTH_MODE", environment.get("RAY_AUTH_MODE", "").strip().lower()
    joins = bool(environment.get("RAY_ADDRESS", "").strip())
    file = Path(environment.get("RAY_AUTH_TOKEN_PATH") or home / ".ray" / "auth_token")
    has_file = file.is_file()
    has_token = bool(environment.get("RAY_AUTH_TOKEN")) or has_file
    if mode == "disabled":
        yield warn(
            what,
            "disabled: whoever reaches Ray's ports runs code as you",
            "export RAY_AUTH_MODE=token, for the cluster and for the job",
        )
    elif mode not in ("", "token"):
        yield fail(what, f"'{mode}' is no mode of Ray's", "export RAY_AUTH_MODE=token")
    elif joins and mode == "token" and not has_token:
        yield fail(what, "token, but there is none here", "copy the cluster's to ~/.ray/auth_token")
    elif joins and not mode:
        known = "a token is here" if has_token else "no token is here"
        yield warn(
            what,
            f"not set, {known}: cluster and job may disagree, or anybody may run code there",
            f"{'' if has_token else f'{_GENERATE}, and '}RAY_AUTH_MODE=token for both",
        )
    else:
        start = "" if joins else "; a Ray started here makes one where there is none"
        yield ok(what, f"{mode or 'not set'}: Ray asks for a token{start}")
    if has_file and stat.S_IMODE(file.stat().st_mode) & 0o077:
        yield warn("Ray's token", f"others may read {file}", f"chmod 600 {file}")


def check_dashboard(listening: str) -> Finding:
    """Whether a dashboard on this machine takes jobs from the whole network.

    Args:
        listening: what /proc/net/tcp and tcp6 say; empty where there is no such file.
    """
    what = "Ray dashboard"
    hosts = set()
    for line in listening.splitlines():
        found = re.match(r"\s*\d+: ([0-9A-F]+):([0-9A-F]{4}) \S+ ([0-9A-F]{2}) ", line)
        if found and int(found[2], 16) == DASHBOARD_PORT and found[3] == _LISTENS:
            hosts.add(found[1])
    if hosts & _EVERYWHERE:
        return warn(
            what,
            f"listens on every address (port {DASHBOARD_PORT}): who reaches it submits jobs",
            "ray start --dashboard-host=127.0.0.1",
        )
    if hosts:
        return ok(what, "listens on this machine alone")
    return ok(what, "none runs here")
