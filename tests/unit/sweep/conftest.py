"""The fixtures of the sweep's tests."""

import contextlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from raypipe.config import resolve
from raypipe.results import Results
from raypipe.sweep import driver
from raypipe.sweep.console import SweepConsole
from tests.unit.sweep.scripted_stages import EVAL_LISTINGS, RunSweep, ScriptedStages


@pytest.fixture
def stages(monkeypatch: pytest.MonkeyPatch) -> ScriptedStages:
    scripted = ScriptedStages()
    modules = {
        "catalog": SimpleNamespace(run=scripted.prepare),
        "sampling": SimpleNamespace(run=scripted.sample),
        "consensus": SimpleNamespace(run=scripted.vote),
        "select": scripted.select,
        "evaluation": SimpleNamespace(run=scripted.evaluate),
        "training": SimpleNamespace(
            run_sft=scripted.run_sft, run_round=scripted.run_round, check=lambda config: None
        ),
        "report": SimpleNamespace(run_sweep=lambda run, results: "page"),
        "ray_session": lambda cluster: contextlib.nullcontext(),
    }
    for name, module in modules.items():
        monkeypatch.setattr(driver, name, module)
    monkeypatch.setattr("raypipe.sweep.outcome.Figures.listings", {"eval": EVAL_LISTINGS})
    return scripted


@pytest.fixture
def sweep(tmp_path: Path, stages: ScriptedStages) -> RunSweep:
    """Run the sweep to its end with these keys of its section."""

    def go(**keys: Any) -> Results:
        config = resolve(
            {
                "run": {"directory": str(tmp_path)},
                "sweep": keys,
                "evaluation": {"num_resamples": 200},
            }
        )
        return driver.run_sweep(config, SweepConsole(), command="python jobs/sweep.py")

    return go
