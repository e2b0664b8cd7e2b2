"""Tell Ray that AWS is about to take this machine back: Ray does not ask.

    python -m raypipe.runtime.spot        on every spot node, beside Ray (cluster.yaml starts it)

AWS gives two minutes. A drained node gets no new work, its trainings save a checkpoint at once
(raypipe.training.checkpoints), and their restart elsewhere is no failure.
"""

import datetime as dt
import http.client
import json
import logging
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable

METADATA = "http://169.254.169.254"
NOTICE_S = 120
INTERVAL_S = 5.0
_LONGEST_ANSWER = 4096
logger = logging.getLogger("raypipe.runtime.spot")
Drain = Callable[[int], bool]


def seconds_left(metadata: str, now: dt.datetime) -> int | None:
    """Seconds until the instance goes, by version 2 of the metadata service; None while it stays.

    A notice whose time cannot be read counts as a new one.

    Raises:
        OSError: the service does not answer.
    """
    token = _ask(
        f"{metadata}/latest/api/token", "PUT", {"X-aws-ec2-metadata-token-ttl-seconds": "60"}
    )
    try:
        notice = _ask(
            f"{metadata}/latest/meta-data/spot/instance-action",
            "GET",
            {"X-aws-ec2-metadata-token": token},
        )
    except urllib.error.HTTPError as error:
        if error.code == 404:
            return None
        raise
    try:
        gone = dt.datetime.fromisoformat(json.loads(notice)["time"])
        return min(max(int((gone - now).total_seconds()), 0), NOTICE_S)
    except (ValueError, KeyError, TypeError, RecursionError):
        return NOTICE_S


def watch(metadata: str, drain: Drain, *, interval_s: float = INTERVAL_S) -> None:
    """Ask every few seconds, and end once the node is drained."""
    while True:
        try:
            left = seconds_left(metadata, dt.datetime.now(dt.UTC))
        except OSError as error:
            logger.warning("the metadata service does not answer: %s", error)
            left = None
        if left is not None:
            logger.warning("this machine goes in %d s", left)
            if drain(left):
                return
        time.sleep(interval_s)


def drain_node(left: int) -> bool:
    """Ask Ray to drain the node that this process runs on; False when it did not."""
    command = [sys.executable, "-m", "ray.scripts.scripts", "drain-node"]
    command += ["--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "spot"]
    command += ["--deadline-remaining-seconds", str(left)]
    try:
        return subprocess.run(command, check=False, timeout=NOTICE_S).returncode == 0
    except (OSError, subprocess.SubprocessError) as error:  # asked again
        logger.warning("Ray is not told: %s", error)
        return False


def _ask(url: str, method: str, headers: dict[str, str]) -> str:
    request = urllib.request.Request(url, method=method, headers=headers)
    # No proxy of the environment's stands between a machine and its own metadata.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=5) as answer:
            return str(answer.read(_LONGEST_ANSWER).decode("utf-8", "replace"))
    except (http.client.HTTPException, ValueError) as error:  # no HTTP, or a token that is none
        raise OSError(f"{type(error).__name__}: {error}") from error


if __name__ == "__main__":
    watch(METADATA, drain_node)
