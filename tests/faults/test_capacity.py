"""Training on a Ray with less than it asks for: it says so, waits its time and no longer."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from ray.cluster_utils import Cluster

from raypipe.runtime.interruption import KEPT
from raypipe.store.artifacts import Run
from raypipe.store.manifest import Commit
from tests.fakes.job_processes import MARK, marked
from tests.fakes.small_run import ROOT, job_environment

pytestmark = pytest.mark.engine
# Two logical CPUs, and four workers that take one each.
TOO_MANY = ("cluster.num_cpus=2", "cluster.num_train_workers=4")
SECONDS_OF_START = 300


class SftJob:
    """A running :mod:`tests.fakes.sft_job`, and what it has printed so far."""

    def __init__(self, directory: Path, *overrides: str, **environment: str) -> None:
        self.directory = directory
        self.lines: list[str] = []
        self.is_waiting = threading.Event()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.fakes.sft_job", str(directory), *overrides],
            cwd=ROOT,
            env=job_environment() | {MARK: str(directory), **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        for line in self._process.stdout or ():
            self.lines.append(line)
            if "waiting for capacity" in line:
                self.is_waiting.set()

    @property
    def output(self) -> str:
        return "".join(self.lines)

    def wait(self, seconds: float = SECONDS_OF_START) -> int:
        try:
            return self._process.wait(seconds)
        finally:
            self.end()

    def interrupt(self) -> None:
        os.kill(self._process.pid, signal.SIGINT)

    def end(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
        for process in marked(self.directory):
            process.kill()
        self._reader.join(10)

    def commit(self) -> Commit:
        return Run(str(self.directory / "local")).artifact("sft/adapter").require_commit()


def test_a_training_that_waits_says_what_for_and_ends_at_its_limit(tmp_path: Path) -> None:
    job = SftJob(tmp_path, *TOO_MANY, "cluster.capacity_wait_s=5")
    assert job.wait() == 4, job.output
    told = next(line for line in job.lines if "waiting for capacity" in line)
    assert "for at most 5 s (cluster.capacity_wait_s)" in told
    assert "4 training workers of 1 CPU each" in told
    assert "the cluster has 0 GPUs and 2 CPUs" in told
    error = job.output.splitlines()[-1]
    assert error.startswith("EngineStartError: no workers within cluster.capacity_wait_s=5:")
    assert "Traceback" not in job.output


@pytest.mark.parametrize(
    "fewer", [(), ("cluster.min_train_workers=3", "cluster.zero_stage=0")], ids=["all", "fewer"]
)
def test_a_training_that_waits_ends_at_ctrl_c(tmp_path: Path, fewer: tuple[str, ...]) -> None:
    job = SftJob(tmp_path, *TOO_MANY, *fewer)
    try:
        assert job.is_waiting.wait(SECONDS_OF_START), job.output
        threading.Event().wait(8)  # by now it waits inside Ray Train
        job.interrupt()
        assert job.wait(5) == 130
    finally:
        job.end()
    assert job.output.endswith(f"{KEPT}\n")
    assert list(marked(tmp_path)) == []


def test_with_fewer_workers_allowed_it_trains_with_what_there_is(tmp_path: Path) -> None:
    job = SftJob(tmp_path, *TOO_MANY, "cluster.min_train_workers=1", "cluster.zero_stage=0")
    assert job.wait() == 0, job.output
    assert "waiting for capacity" not in job.output
    assert job.commit().counts["num_workers"] == 2


def test_workers_that_follow_the_cpus_wait_for_nothing(tmp_path: Path) -> None:
    job = SftJob(tmp_path, "cluster.num_cpus=1", "cluster.num_train_workers=null")
    assert job.wait() == 0, job.output
    assert "waiting for capacity" not in job.output
    assert job.commit().counts["num_workers"] == 1


@pytest.fixture(scope="module")
def one_gpu() -> Iterator[dict[str, str]]:
    """A cluster with a GPU that is none; yields how it is joined."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_AUTH_MODE", "disabled")
        started = Cluster()
        try:
            started.add_node(num_cpus=4, num_gpus=1, include_dashboard=False)
            yield {"RAY_ADDRESS": started.address, "RAY_AUTH_MODE": "disabled"}
        finally:
            started.shutdown()


def test_a_training_for_more_gpus_than_there_are_ends_at_its_limit(
    tmp_path: Path, one_gpu: dict[str, str]
) -> None:
    asked = ("cluster.use_gpu=true", "cluster.num_train_workers=2", "cluster.capacity_wait_s=3")
    job = SftJob(tmp_path, *asked, **one_gpu)
    assert job.wait() == 4, job.output
    told = next(line for line in job.lines if "waiting for capacity" in line)
    assert "2 training workers of 1 GPU and 1 CPU each" in told
    assert "the cluster has 1 GPU and 4 CPUs" in told


def test_doctor_asks_the_cluster_what_it_has(one_gpu: dict[str, str]) -> None:
    asked = ("cluster.use_gpu=true", "cluster.num_train_workers=2")
    done = subprocess.run(
        [sys.executable, "-m", "raypipe.cli.main", "doctor", *asked],
        cwd=ROOT,
        env=job_environment() | one_gpu,
        capture_output=True,
        text=True,
        check=False,
    )
    line = "warn  cluster.num_train_workers  — 2 of 1 GPU and 1 CPU each; the cluster has 1 GPU"
    assert line in done.stdout
