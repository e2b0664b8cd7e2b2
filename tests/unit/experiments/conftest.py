"""The fixtures of the sweep's tests."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from raypipe.config import resolve
from raypipe.experiments import driver
from raypipe.experiments.results import Results
from raypipe.runtime.console import Console
from tests.fakes.scripted_stages import EVAL_LISTINGS, RunSweep, ScriptedStages


@contextlib.contextmanager
def scripted_stages() -> Iterator[ScriptedStages]:
    """Put scripted stages in the place of the driver's; hundreds of commits wait for no disk."""
    scripted = ScriptedStages()
    modules = {
        "catalog": SimpleNamespace(run=scripted.prepare),
        "sampling": SimpleNamespace(run=scripted.sample),
        "consensus": SimpleNamespace(run=scripted.vote),
        "select": scripted.select,
        "evaluation": SimpleNamespace(run=scripted.evaluate),
        "training": SimpleNamespace(
            run_sft=scripted.run_sft,
            run_round=scripted.run_round,
            check_training=lambda config: None,
        ),
        "report": SimpleNamespace(write_sweep_report=lambda run, results: "page"),
        "ray_session": lambda cluster: contextlib.nullcontext(),
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, module in modules.items():
            patch.setattr(driver, name, module)
        patch.setattr("raypipe.experiments.aggregate.Figures.listings", {"eval": EVAL_LISTINGS})
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield scripted


def run_sweep(directory: Path, keys: dict[str, Any]) -> Results:
    """Run the sweep to its end with these keys of its section."""
    config = resolve(
        {"run": {"directory": str(directory)}, "sweep": keys, "evaluation": {"num_resamples": 200}}
    )
    return driver.run_sweep(config, Console(), command="python jobs/sweep.py")


@pytest.fixture
def stages() -> Iterator[ScriptedStages]:
    with scripted_stages() as stages:
        yield stages


@pytest.fixture
def sweep(tmp_path: Path, stages: ScriptedStages) -> RunSweep:
    """Run the sweep to its end with these keys of its section."""
    return lambda **keys: run_sweep(tmp_path, keys)


@pytest.fixture(scope="module")
def default_sweep(
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Results, ScriptedStages]:
    """A sweep of every group, and the stages as it called them; for reading alone."""
    with scripted_stages() as stages:
        return run_sweep(tmp_path_factory.mktemp("sweep"), {}), stages
