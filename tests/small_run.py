"""One small real run of the main job, made once and read by many tests."""

import functools
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from raypipe.artifacts import Run

ROOT = Path(__file__).resolve().parents[1]
SMALL = (
    "catalog.embedded.num_pool=24",
    "catalog.embedded.num_eval=12",
    "catalog.embedded.num_anchor=12",
    "catalog.embedded.seed_per_vertical=1",
    "sampling.listings_per_call=8",
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
    """What an uninterrupted run printed and left."""

    directory: Path
    output: str
    run: Run


@functools.cache
def finished(base: Path) -> FinishedRun:
    """The small run, made by the first test that asks for it."""
    directory = base / "runs"
    done = run_job(directory)
    assert done.returncode == 0, done.stdout + done.stderr
    return FinishedRun(directory, done.stdout, Run(str(directory / "local")))
