"""Which failures of a training count."""

from typing import Any

import pytest
from ray.train import FailureConfig
from ray.train.v2._internal.execution.failure_handling import FailureDecision
from ray.train.v2.api.exceptions import ControllerError, WorkerGroupError

from raypipe.errors import NonFiniteLossError
from raypipe.training import node_losses
from raypipe.training.node_losses import NodeLossPolicy
from raypipe.training.progress import TrainingProgress

RETRY, RAISE = FailureDecision.RETRY, FailureDecision.RAISE


class Remote:
    """An object whose methods answer at once, as Ray's actors do later."""

    def __init__(self, held: Any) -> None:
        self._held = held

    def __getattr__(self, name: str) -> Any:
        class Method:
            remote = staticmethod(getattr(self._held, name))

        return Method


class Driver:
    def get_node_id(self) -> str:
        return "driver"


@pytest.fixture
def progress(monkeypatch: pytest.MonkeyPatch) -> TrainingProgress:
    """Workers on a node that is lost."""
    made = TrainingProgress()
    made.place("far")
    monkeypatch.setattr(node_losses.ray, "get", lambda value, **_: value)
    monkeypatch.setattr(node_losses.ray, "get_runtime_context", Driver)
    monkeypatch.setattr(node_losses, "lost", lambda nodes: "far" in nodes)
    return made


def policy(progress: TrainingProgress, max_failures: int = 0) -> NodeLossPolicy:
    return NodeLossPolicy(FailureConfig(max_failures=max_failures), Remote(progress))


def failure(cause: Exception | None = None) -> WorkerGroupError:
    return WorkerGroupError("a worker failed", {0: cause or RuntimeError("connection reset")})


def test_lost_nodes_cost_no_try(progress: TrainingProgress) -> None:
    judge = policy(progress)
    for step in range(30):
        progress.show(step, 100, 0.5)
        assert judge.make_decision(failure()) is RETRY
    assert progress.notes() == ["a node was lost; it went on from its checkpoint"]


def test_other_failures_do(progress: TrainingProgress) -> None:
    judge = policy(progress, max_failures=1)
    assert judge.make_decision(failure()) is RETRY
    progress.turn("asked")
    progress.place("near")
    assert judge.make_decision(failure()) is RETRY
    assert judge.make_decision(failure()) is RAISE


def test_a_driver_s_own_node_is_never_lost(progress: TrainingProgress) -> None:
    progress.turn("asked")
    progress.place("driver")
    assert policy(progress).make_decision(failure()) is RAISE


def test_what_a_worker_refuses_is_no_loss(progress: TrainingProgress) -> None:
    assert policy(progress).make_decision(failure(NonFiniteLossError("nan"))) is RAISE
    assert policy(progress).make_decision(ControllerError(ValueError("mine"))) is RAISE


def test_a_training_that_loses_nodes_without_a_step_is_ended(progress: TrainingProgress) -> None:
    judge = policy(progress)
    made = [judge.make_decision(failure()) for _ in range(11)]
    assert made == [RETRY] * 10 + [RAISE]
