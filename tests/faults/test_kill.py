"""``kill -9`` of the main job at its worst moments; the same command finishes the work."""

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from raypipe import config as configuration
from raypipe.consensus import stage as consensus
from raypipe.store.artifacts import Run
from tests.fakes.small_run import (
    ROOT,
    SMALL,
    FinishedRun,
    job_command,
    job_environment,
    run_job,
)

pytestmark = pytest.mark.engine


def start(directory: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        job_command(directory),
        cwd=ROOT,
        env=job_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def kill_when(directory: Path, reached: Callable[[Run], bool]) -> None:
    """Run the job until a moment is reached, then SIGKILL the driver's process group."""
    job = start(directory)
    run = Run(str(directory / "local"))
    deadline = time.monotonic() + 400
    try:
        while not reached(run):
            assert job.poll() is None, job.stdout.read() if job.stdout else ""
            assert time.monotonic() < deadline, "the moment to kill was never reached"
            time.sleep(0.05)
    finally:
        os.killpg(job.pid, signal.SIGKILL)
        job.wait()
        if job.stdout:
            job.stdout.close()


def sampling_sft(run: Run) -> bool:
    """The first chains of the SFT policy are written, the stage is not committed."""
    return any(Path(run.path("sft/chains/data")).rglob("*.parquet"))


def training_round(run: Run) -> bool:
    """Ray Train has begun the round."""
    return any(Path(run.path(".training")).glob("*")) and committed(run, "sft/evaluation")


def between_stages(run: Run) -> bool:
    """The pairs are committed and nothing after them."""
    return committed(run, "sft/pairs")


def committed(run: Run, name: str) -> bool:
    return Path(run.path(name, "_COMMIT.json")).exists()


def commits(run: Run) -> dict[str, int]:
    """When each artifact was committed."""
    found = Path(run.root).rglob("_COMMIT.json")
    return {str(path.parent.relative_to(run.root)): path.stat().st_mtime_ns for path in found}


@pytest.mark.timeout(2400)
def test_killed_three_times_the_same_command_finishes(
    finished_run: FinishedRun, tmp_path: Path
) -> None:
    run = finished_run.copy(tmp_path, "pretrained", "sft/adapter")
    seen = commits(run)
    for moment in (sampling_sft, between_stages, training_round):
        kill_when(tmp_path, moment)
        now = commits(run)
        assert seen.items() <= now.items(), "a committed stage was written again"
        seen = now
    done = run_job(tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert seen.items() <= commits(run).items()

    assert_given_the_chains_the_rest_is_the_same(run, tmp_path / "again")
    salvaged = run.artifact("sft/chains").require_commit().counts["salvaged"]
    assert salvaged > 0, "the listings sampled before the kill were sampled again"


def assert_given_the_chains_the_rest_is_the_same(run: Run, elsewhere: Path) -> None:
    """Vote again on the killed run's chains, undisturbed: consensus and pairs are equal."""
    for name in ("catalog", "sft/chains"):
        shutil.copytree(run.path(name), elsewhere / name)
    config = configuration.load(None, SMALL)
    undisturbed = Run(str(elsewhere))
    consensus.run(config, undisturbed, scope="sft", round_index=1)
    for name in ("sft/consensus", "sft/pairs"):
        assert (
            undisturbed.artifact(name).require_commit().digest
            == run.artifact(name).require_commit().digest
        )
