"""The GPU benchmark runs with a tiny model on a CPU, so that it survives a rename."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BENCHMARK = ROOT / "benchmarks" / "gpu.py"


def smoke(*phases: str) -> dict[str, dict[str, object]]:
    command = [sys.executable, str(BENCHMARK), "--smoke", *phases]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    ran = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    lines = [json.loads(line) for line in ran.stdout.splitlines()]
    return {line.pop("phase"): line for line in lines}


@pytest.mark.engine
def test_the_step_runs_and_agrees_with_trl() -> None:
    found = smoke("env", "step", "agree")
    assert [*found] == ["env", "step", "agree"]
    assert len(found["step"]["epochs"]) == 3  # type: ignore[arg-type]
    assert found["agree"]["largest_difference"] < 1e-3  # type: ignore[operator]


@pytest.mark.engine
def test_every_other_phase_runs() -> None:
    others = ["step-full", "vision", "kernels", "trl", "zero"]
    assert [*smoke(*others)] == others


def test_another_phase_is_refused() -> None:
    command = [sys.executable, str(BENCHMARK), "stop"]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (ran.returncode, "no phase stop" in ran.stderr) == (2, True)
