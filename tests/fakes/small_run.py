"""One small real run of the main job, made once and read by many tests."""

import functools
import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from raypipe.store.artifacts import Run
from tests.fakes.job_processes import MARK, listening

ROOT = Path(__file__).resolve().parents[2]
SMALL = (
    "catalog.embedded.num_pool=24",
    "catalog.embedded.num_eval=12",
    "catalog.embedded.num_anchor=12",
    "catalog.embedded.seed_per_vertical=1",
    "sampling.listings_per_call=8",
    'sampling.environment.OMP_NUM_THREADS="1"',
    "sft.epochs=2",
    "training.batch_size=16",
    "rounds.num_rounds=1",
    "rounds.max_anchor_drop=1.0",
)


def job_command(directory: Path, *overrides: str) -> list[str]:
    """The main job on the embedded default with small sizes, in a run directory of its own."""
    return [sys.executable, "jobs/round.py", *SMALL, f"run.directory={directory}", *overrides]


def job_environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}


def run_job(directory: Path, *overrides: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        job_command(directory, *overrides),
        cwd=ROOT,
        env=job_environment(),
        capture_output=True,
        text=True,
        check=False,
        timeout=840,
    )


@dataclass(frozen=True)
class FinishedRun:
    """What an uninterrupted run printed and left; ``sockets`` are those it listened on."""

    directory: Path
    output: str
    sockets: set[tuple[str, str]]
    run: Run

    def copy(self, directory: Path, *names: str) -> Run:
        """A run that has come as far as these artifacts, or folders of them, beside the catalog."""
        run = Run(str(directory / "local"))
        for name in ("catalog", *names):
            shutil.copytree(self.run.path(name), run.path(name))
        return run


@functools.cache
def finished(base: Path) -> FinishedRun:
    """The small run, made by the first test that asks for it."""
    directory, log = base / "runs", base / "job.log"
    sockets: set[tuple[str, str]] = set()
    with log.open("w") as output:
        job = subprocess.Popen(
            job_command(directory),
            cwd=ROOT,
            env=job_environment() | {MARK: str(directory)},
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        while job.poll() is None:
            sockets |= listening(directory)
            time.sleep(0.3)
    finally:
        job.kill()
    assert job.returncode == 0, log.read_text()
    return FinishedRun(directory, log.read_text(), sockets, Run(str(directory / "local")))
