"""The processes of a job that was started with a mark in its environment."""

from collections.abc import Iterator

import psutil

MARK = "RAYPIPE_TEST"
LOOPBACK = ("127.", "::1", "::ffff:127.")


def marked(value: object) -> Iterator[psutil.Process]:
    """Processes that were started with this value of ``MARK``, and still run."""
    for process in psutil.process_iter():
        try:
            running = process.status() != psutil.STATUS_ZOMBIE
            if running and process.environ().get(MARK) == str(value):
                yield process
        except (psutil.Error, OSError):
            continue


def listening(value: object) -> set[tuple[str, str]]:
    """Name and address of every socket on which one of them takes connections."""
    found = set()
    for process in marked(value):
        try:
            sockets = process.net_connections("inet")
            name = process.name()
        except psutil.Error:
            continue
        found |= {(name, one.laddr.ip) for one in sockets if one.status == psutil.CONN_LISTEN}
    return found


def assert_on_loopback(sockets: set[tuple[str, str]]) -> None:
    """Ray's own servers were seen, and nothing took connections from outside."""
    assert {name for name, _ in sockets} >= {"gcs_server", "raylet"}
    assert {one for one in sockets if not one[1].startswith(LOOPBACK)} == set()
