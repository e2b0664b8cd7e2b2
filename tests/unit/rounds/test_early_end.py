"""Rounds that end early: no pairs, no change, divergence, collapse."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest

from raypipe.config import Config, ModelConfig, resolve
from raypipe.errors import (
    CollapseError,
    NonFiniteLossError,
    RaypipeError,
)
from raypipe.rounds import driver
from raypipe.rounds.driver import RoundsDriver
from raypipe.runtime.console import Console
from raypipe.store.artifacts import Run
from raypipe.summaries import CollapseMetrics, OverpredictedValue, Summary
from tests.fakes.scripted_rounds import WELL, RunDriver, ScriptedRounds, names

WORSE = WELL.model_copy(update={"entropy": 0.83, "confidence": 0.64, "unanimity": 0.24})

COLLAPSED = CollapseMetrics(
    queries=400,
    entropy=0.7,
    entropy_error=0.02,
    overpredicted=(
        OverpredictedValue(
            attribute="toy/colour", value="[/b]", share=0.9, truth_share=0.1, queries=40
        ),
    ),
    confidence=0.8,
    unanimity=0.6,
)


@pytest.fixture
def run_all(
    run: Run, tiny_model: ModelConfig, monkeypatch: pytest.MonkeyPatch
) -> Callable[[], tuple[RaypipeError, list[bytes]]]:
    """``run_rounds`` to its error, which comes with the summaries that were reported before it."""

    @contextmanager
    def no_session(*_: Any) -> Iterator[None]:
        yield

    def go() -> tuple[RaypipeError, list[bytes]]:
        reported: list[bytes] = []

        def report(config: Config, run: Run) -> str:
            reported.append(run.read(Summary.FILE) or b"")
            return "page"

        monkeypatch.setattr(driver, "open_run", lambda config: run)
        monkeypatch.setattr(driver, "ray_session", no_session)
        monkeypatch.setattr(driver, "report", SimpleNamespace(run=report))
        monkeypatch.setattr(driver.training, "check_training", lambda config: None, raising=False)
        config = resolve({"model": tiny_model.model_dump(), "rounds": {"num_rounds": 3}})
        with pytest.raises(RaypipeError) as raised:
            driver.run_rounds(config, Console())
        return raised.value, reported

    return go


def test_a_round_without_pairs_ends_the_run_with_the_adapter_as_it_was(
    stages: ScriptedRounds, drive: RunDriver, run: Run
) -> None:
    stages.pairs = {"round-1": 0}
    written = drive(rounds={"num_rounds": 3})
    assert "round-2/adapter" not in stages.made
    assert names(written) == ["pretrained", "sft", "round-1"]
    assert [record.outcome for record in written.pairs] == ["trained", "no_pairs"]
    assert written.best == "round-1"
    before = run.read(Summary.FILE)
    drive(rounds={"num_rounds": 3})
    assert run.read(Summary.FILE) == before


def test_a_round_that_changed_nothing_is_neither_accepted_nor_best(
    stages: ScriptedRounds, drive: RunDriver, run: Run
) -> None:
    stages.unchanged = ("round-1",)
    written = drive(rounds={"num_rounds": 3})
    assert names(written) == ["pretrained", "sft"]
    assert [record.outcome for record in written.pairs] == ["unchanged"]
    assert (written.best, written.comparison) == ("sft", None)
    assert written.unchanged == ("round-1/adapter",)
    assert not {"round-1/chains", "round-2/adapter"} & set(stages.made)
    before = run.read(Summary.FILE)
    drive(rounds={"num_rounds": 3})
    assert run.read(Summary.FILE) == before


def test_an_sft_that_changed_nothing_is_told(stages: ScriptedRounds, drive: RunDriver) -> None:
    stages.unchanged = ("sft",)
    written = drive(rounds={"num_rounds": 1})
    assert written.unchanged == ("sft/adapter",)
    assert names(written) == ["pretrained", "sft", "round-1"]


def test_a_round_that_diverges_ends_the_run_with_the_adapter_before_it_and_says_why(
    stages: ScriptedRounds, drive: RunDriver
) -> None:
    stages.diverges = "round-2"
    written = drive(rounds={"num_rounds": 3})
    assert names(written) == ["pretrained", "sft", "round-1"]
    assert written.best == "round-1"
    assert [record.outcome for record in written.pairs] == ["trained", "diverged"]
    assert written.pairs[1].reason == "loss is nan at step 3, in p0/colour"


def test_a_round_that_collapses_ends_the_run_with_the_policy_before_it(
    stages: ScriptedRounds, drive: RunDriver
) -> None:
    stages.anchor = {"sft": 0.5, "round-1": 0.6, "round-2": 0.59}
    stages.collapse = {"round-2": COLLAPSED}
    written = drive(rounds={"num_rounds": 3})
    assert names(written) == ["pretrained", "sft", "round-1", "round-2"]
    assert [stage.decision for stage in written.stages] == [
        None,
        None,
        "accepted",
        "collapsed",
    ]
    assert written.best == written.comparison.to == "round-1"
    assert written.alarm.since == "round-1"
    assert "anchor accuracy 0.600 → 0.590" in written.alarm.reason


def test_a_collapse_that_creeps_is_told_from_the_policy_before_round_1(
    stages: ScriptedRounds, drive: RunDriver
) -> None:
    stages.collapse = {
        "round-1": WORSE,
        "round-2": COLLAPSED.model_copy(update={"entropy": 0.76, "confidence": 0.68}),
    }
    alarm = drive(rounds={"num_rounds": 3}).alarm
    assert alarm is not None
    assert (alarm.since, alarm.policy) == ("sft", "round-2")


def test_a_round_that_is_surer_and_better_goes_on(stages: ScriptedRounds, drive: RunDriver) -> None:
    stages.anchor = {"round-1": 0.55, "round-2": 0.6}
    stages.collapse = {"round-1": COLLAPSED, "round-2": COLLAPSED}
    written = drive(rounds={"num_rounds": 2})
    assert (written.best, written.alarm) == ("round-2", None)


def test_without_the_alarm_the_gate_alone_judges(stages: ScriptedRounds, drive: RunDriver) -> None:
    stages.collapse = {"round-1": COLLAPSED}
    assert "round-2/adapter" not in made_with(stages, drive, alarm=True)
    assert "round-2/adapter" in made_with(stages, drive, alarm=False)


def made_with(stages: ScriptedRounds, drive: RunDriver, *, alarm: bool) -> list[str]:
    drive(rounds={"num_rounds": 2, "alarm": alarm})
    return stages.made


def test_an_evaluation_without_metrics_of_collapse_raises_no_alarm(
    stages: ScriptedRounds, drive: RunDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    stages.collapse = {"round-1": COLLAPSED}
    metrics = RoundsDriver._metrics
    monkeypatch.setattr(
        RoundsDriver, "_metrics", lambda *of: metrics(*of).model_copy(update={"collapse": None})
    )
    assert drive(rounds={"num_rounds": 1}).alarm is None


@pytest.mark.parametrize("kind", [CollapseError, NonFiniteLossError])
def test_what_stopped_the_rounds_is_raised_after_the_report_and_again_by_the_same_command(
    stages: ScriptedRounds,
    run_all: Callable[[], tuple[RaypipeError, list[bytes]]],
    kind: type[RaypipeError],
) -> None:
    if kind is CollapseError:
        stages.collapse = {"round-1": COLLAPSED}
    else:
        stages.diverges = "round-1"
    first, reported = run_all()
    assert type(first) is kind
    assert first.exit_code == 3
    (written,) = (Summary.parse(content, "summary.json") for content in reported)
    assert written.best == "sft"
    if kind is CollapseError:
        assert str(first).startswith(written.alarm.reason)
        assert "with sft as the policy to use" in str(first)
    made = list(stages.made)
    second, again = run_all()
    assert stages.made == made
    assert (str(second), again) == (str(first), reported)
