"""An annotation that is stopped: requests in flight are awaited, but not for long."""

import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from raypipe.runtime.interruption import KEPT
from tests.fakes.catalog_files import CatalogFiles
from tests.fakes.chat_server import Asked, ChatServer, completion
from tests.fakes.small_run import ROOT


class SlowServer(ChatServer):
    """Tells when it is asked, and answers no sooner than it may."""

    def __init__(self) -> None:
        super().__init__(self._answer)
        self.heard, self.may_answer = threading.Event(), threading.Event()

    def _answer(self, asked: Asked) -> tuple[int, Any]:
        self.heard.set()
        self.may_answer.wait(120)
        return completion('{"reasoning": "It shows.", "answer": "Blue"}')


@pytest.fixture
def server() -> Iterator[SlowServer]:
    with SlowServer() as server:
        try:
            yield server
        finally:
            server.may_answer.set()


@pytest.fixture
def job(server: SlowServer, tmp_path: Path) -> Iterator["subprocess.Popen[str]"]:
    """An annotation whose first questions are with the server."""
    shop = CatalogFiles(tmp_path / "shop")
    for index in range(4):
        shop.add(f"s{index:02}", 20 * index)
    shop.write()
    values = shop.config(seed=str(tmp_path / "seed")).model_dump(mode="json")
    values["run"] |= {"directory": str(tmp_path / "runs"), "name": "a"}
    values["annotation"] |= {
        "endpoint": server.url,
        "endpoint_model": "m",
        "api_key_variable": None,
        "concurrency": 2,
        "listings_per_vertical": 4,
        "image_size": 28,
    }
    path = tmp_path / "annotate.yaml"
    path.write_text(yaml.safe_dump(values))
    job = subprocess.Popen(
        [sys.executable, "jobs/annotate.py", "--config", str(path)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    try:
        assert server.heard.wait(120), job.communicate(timeout=60)
        yield job
    finally:
        job.kill()
        job.communicate()


def kept(directory: Path) -> list[Path]:
    return [path for path in directory.glob("runs/a/annotation/replies/**/*") if path.is_file()]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_server_that_never_answers_holds_up_no_stop(
    job: "subprocess.Popen[str]", number: signal.Signals, tmp_path: Path
) -> None:
    job.send_signal(number)
    _, complaint = job.communicate(timeout=60)
    assert job.returncode == 128 + number
    assert complaint == f"{KEPT}\n"
    assert kept(tmp_path) == []


def test_replies_that_come_in_time_are_kept(
    job: "subprocess.Popen[str]", server: SlowServer, tmp_path: Path
) -> None:
    job.send_signal(signal.SIGINT)
    assert job.stdout is not None
    while "replies that are paid for" not in job.stdout.readline():
        assert job.poll() is None
    server.may_answer.set()
    _, complaint = job.communicate(timeout=60)
    assert (job.returncode, complaint) == (130, f"{KEPT}\n")
    assert 1 <= len(kept(tmp_path)) <= 2
