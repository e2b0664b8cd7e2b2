"""Ctrl-C and SIGTERM while a job's engines and trainers work: an end at once, and nothing left."""

import os
import signal
import stat
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from raypipe.runtime.interruption import KEPT
from raypipe.store.artifacts import Run
from tests.fakes.job_processes import MARK, assert_on_loopback, listening, marked
from tests.fakes.scripted_engine import Driver, assert_exact, make_catalog, new_script, sample
from tests.fakes.small_run import ROOT, FinishedRun, job_command, job_environment

pytestmark = pytest.mark.engine


@pytest.mark.usefixtures("local_ray")
@pytest.mark.parametrize(
    ("number", "group"),
    [
        (signal.SIGINT, True),
        (signal.SIGINT, False),
        (signal.SIGTERM, True),
        (signal.SIGTERM, False),
    ],
)
def test_a_sampling_that_is_stopped_leaves_nothing_behind_and_goes_on(
    tmp_path: Path, temporary: Path, number: signal.Signals, group: bool
) -> None:
    run = Run(str(tmp_path / "run"))
    ids = make_catalog(run, 64)
    script = new_script(tmp_path, seconds=0.5)
    environment = {MARK: str(tmp_path), "TMPDIR": str(temporary)}
    driver = Driver(run, script, environment=environment)
    beside: set[str] = set()

    def works() -> bool:
        if script.answered:
            beside.update(driver.in_its_group())
        return bool(script.answered)

    assert driver.stop_when(works, number, group=group) == 128 + number, driver.output
    # Ray ends a driver whose raylet was signalled too with exit code 1.
    assert beside.isdisjoint({"raylet", "gcs_server"})
    assert driver.output.endswith(f"{KEPT}\n")
    assert "Traceback" not in driver.output
    assert "***" not in driver.output  # how Ray begins a stack of its own
    assert list(marked(tmp_path)) == []
    assert sessions(temporary) == []

    sample(run, script)
    assert_exact(run, ids)
    assert script.redone() < len(ids)


@pytest.fixture
def temporary() -> Iterator[Path]:
    """A directory for temporary ones, with a name that leaves room for those of sockets."""
    with tempfile.TemporaryDirectory(prefix="s-", dir="/tmp") as directory:
        yield Path(directory)


def sessions(temporary: Path) -> list[Path]:
    return list(temporary.glob("raypipe-????????"))


def test_a_whole_job_listens_on_this_machine_alone(finished_run: FinishedRun) -> None:
    assert_on_loopback(finished_run.sockets)


@pytest.mark.timeout(1200)
def test_a_job_keeps_to_this_machine_and_to_its_user_and_stops_while_it_trains(
    finished_run: FinishedRun, tmp_path: Path, temporary: Path
) -> None:
    run = finished_run.copy(tmp_path, "pretrained")
    home = tmp_path / "home"
    home.mkdir()
    job = subprocess.Popen(
        job_command(tmp_path),
        cwd=ROOT,
        env=job_environment() | {MARK: str(tmp_path), "HOME": str(home), "TMPDIR": str(temporary)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    sockets: set[tuple[str, str]] = set()

    def training() -> bool:
        sockets.update(listening(tmp_path))
        return any(Path(run.path("tensorboard", "sft")).rglob("*tfevents*"))

    try:
        wait_until(training, job)
        (private,) = sessions(temporary)
        assert stat.S_IMODE(private.stat().st_mode) == 0o700
        assert stat.S_IMODE((home / ".ray/auth_token").stat().st_mode) == 0o600
        assert stat.S_IMODE((home / ".ray").stat().st_mode) == 0o700
        os.killpg(job.pid, signal.SIGINT)
        shown, complaint = job.communicate(timeout=60)
    finally:
        for process in marked(tmp_path):
            process.kill()
        job.wait()
    assert job.returncode == 130
    assert complaint.endswith(f"{KEPT}\n")
    assert "Traceback" not in shown + complaint
    assert "***" not in complaint
    assert sessions(temporary) == []
    assert_on_loopback(sockets)


def wait_until(reached: Callable[[], bool], job: "subprocess.Popen[str]") -> None:
    deadline = time.monotonic() + 900
    while not reached():
        assert job.poll() is None, job.communicate()
        assert time.monotonic() < deadline, "never reached"
        time.sleep(0.2)
