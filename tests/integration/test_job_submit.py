"""The jobs as Ray jobs, the way a cluster runs them."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from raypipe.schemas import LABELS
from tests.fakes.small_run import ROOT, SMALL, FinishedRun

pytestmark = pytest.mark.engine
RAY = str(Path(sys.executable).with_name("ray"))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Ray head in a process group of its own; yields the address of its job server."""
    environment = {**os.environ, "RAY_AUTH_MODE": "disabled"}
    environment.pop("RAY_ADDRESS", None)
    port, dashboard, agent = free_port(), free_port(), free_port()
    session = tmp_path_factory.mktemp("r")
    process = subprocess.Popen(
        [
            RAY,
            "start",
            "--head",
            "--block",
            "--num-cpus=4",
            f"--port={port}",
            "--dashboard-host=127.0.0.1",
            f"--dashboard-port={dashboard}",
            f"--dashboard-agent-listen-port={agent}",  # the default is of one session alone
            f"--temp-dir={session}",
            "--disable-usage-stats",
        ],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    address = f"http://127.0.0.1:{dashboard}"
    try:
        wait_for_jobs_api(address)
        yield address
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def wait_for_jobs_api(address: str) -> None:
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline:
        try:
            urllib.request.urlopen(f"{address}/api/version", timeout=2)
            return
        except (urllib.error.URLError, OSError):
            time.sleep(0.5)
    raise AssertionError("the Ray head did not start its job server")


def submit(head: str, *command: str) -> None:
    """Submit a job as the README does, and wait for it to succeed."""
    deadline = time.monotonic() + 120
    while True:
        submitted = subprocess.run(
            [RAY, "job", "submit", f"--address={head}", "--working-dir=.", "--", *command],
            cwd=ROOT,
            env={**os.environ, "RAY_AUTH_MODE": "disabled"},
            capture_output=True,
            text=True,
            check=False,
            timeout=840,
        )
        # The job server answers before the node's agent, which starts jobs, is there.
        if "No available agent" not in submitted.stderr or time.monotonic() > deadline:
            break
        time.sleep(1)
    assert submitted.returncode == 0, submitted.stdout + submitted.stderr
    assert "succeeded" in submitted.stdout


def test_submitted_jobs_make_a_run_and_label_its_listings(
    head: str, finished_run: FinishedRun, tmp_path: Path
) -> None:
    run = finished_run.copy(tmp_path, "pretrained")
    common = ("--config", "jobs/configs/local.yaml", *SMALL, f"run.directory={tmp_path}")
    submit(head, sys.executable, "jobs/round.py", *common, "rounds.num_rounds=0")
    assert run.artifact("sft/evaluation").require_commit().rows > 0
    assert run.read("report/index.html") is not None

    submit(head, sys.executable, "jobs/label.py", *common, "labeling.mode=greedy")
    labels = run.artifact("labels/000001/labels", LABELS).require_commit()
    listings = run.artifact("catalog/listings").require_commit()
    assert labels.counts["listings"] == listings.rows
    assert run.read("labels/000001/report/index.html") is not None
