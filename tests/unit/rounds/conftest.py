"""The fixtures of these tests."""

from types import SimpleNamespace
from typing import Any

import pytest

from raypipe.config import ModelConfig, resolve
from raypipe.rounds import driver
from raypipe.rounds.driver import RoundsDriver
from raypipe.runtime import progress
from raypipe.runtime.console import Console
from raypipe.store.artifacts import Run
from tests.fakes.scripted_rounds import RunDriver, ScriptedRounds


@pytest.fixture
def stages(monkeypatch: pytest.MonkeyPatch) -> ScriptedRounds:
    scripted = ScriptedRounds()
    modules = {
        "catalog": SimpleNamespace(run=scripted.prepare),
        "sampling": SimpleNamespace(run=scripted.sample),
        "consensus": SimpleNamespace(run=scripted.vote),
        "evaluation": SimpleNamespace(run=scripted.evaluate, compare=scripted.compare),
        "training": SimpleNamespace(run_sft=scripted.run_sft, run_round=scripted.run_round),
    }
    for name, module in modules.items():
        monkeypatch.setattr(driver, name, module)
    monkeypatch.setattr(progress.logger, "handlers", [])
    monkeypatch.setattr(progress.logger, "propagate", True)
    return scripted


@pytest.fixture
def drive(run: Run, tiny_model: ModelConfig) -> RunDriver:
    """Drive the run to its end with these sections of the configuration."""

    def go(**sections: dict[str, Any]) -> dict[str, Any]:
        config = resolve({"model": tiny_model.model_dump(), **sections})
        return RoundsDriver(config, run, Console()).go()

    return go
