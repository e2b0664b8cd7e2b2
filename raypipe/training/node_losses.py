"""Which failures of a training count: a machine that was taken away is none.

Ray tells a worker's death on a node that it was asked to drain from others. A node that goes
without that (a spot machine whose notice nobody passed on, an evicted pod) looks to Ray Train like
any fault of the training.
"""

import logging
import time
from typing import Any

import ray
from ray.exceptions import RayError
from ray.train import FailureConfig
from ray.train.v2._internal.execution.failure_handling import DefaultFailurePolicy, FailureDecision
from ray.train.v2.api.exceptions import TrainingFailedError, WorkerGroupError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from raypipe.errors import RaypipeError

# Ray takes a silent node for dead after five health checks, three seconds apart.
_VERDICT_S = 45.0
_ANSWER_S = 5.0
# Nodes that go one after the other before a single step was taken: the training may be why.
_IDLE_LOSSES = 10
logger = logging.getLogger("ray.train")


class NodeLossPolicy(DefaultFailurePolicy):  # type: ignore[misc]
    """Ray Train's own policy, but for a worker whose node died: that costs no try."""

    def __init__(self, failures: FailureConfig, progress: Any) -> None:
        super().__init__(failures)
        self._progress = progress
        self._steps = 0
        self._idle_losses = 0

    def make_decision(self, training_failed_error: TrainingFailedError) -> FailureDecision:
        if self._is_node_loss(training_failed_error) and self._was_of_use():
            ray.get(self._progress.note.remote("a node was lost; it went on from its checkpoint"))
            logger.info("a node was lost, which is no failure: %s", training_failed_error)
            return FailureDecision.RETRY
        return super().make_decision(training_failed_error)

    def _is_node_loss(self, error: TrainingFailedError) -> bool:
        if not isinstance(error, WorkerGroupError):
            return False
        if any(isinstance(cause, RaypipeError) for cause in error.worker_failures.values()):
            return False
        here = ray.get_runtime_context().get_node_id()
        nodes = ray.get(self._progress.nodes.remote()) - {here}
        return bool(nodes) and lost(nodes)

    def _was_of_use(self) -> bool:
        """Whether steps were taken since the last loss, or there were few such losses."""
        steps = ray.get(self._progress.steps.remote())
        self._idle_losses = 0 if steps > self._steps else self._idle_losses + 1
        self._steps = steps
        return self._idle_losses <= _IDLE_LOSSES


def lost(nodes: set[str], verdict_s: float = _VERDICT_S) -> bool:
    """Whether one of the nodes is dead. A worker's death is seen before that of its node, so those
    that do not answer are waited for until Ray has its verdict."""
    deadline = time.monotonic() + verdict_s
    while nodes <= _alive():
        if _all_answer(nodes) or time.monotonic() > deadline:
            return not nodes <= _alive()
    return True


def _alive() -> set[str]:
    return {node["NodeID"] for node in ray.nodes() if node["Alive"]}


def _answer() -> None:
    """Runs on a node that lives."""


def _all_answer(nodes: set[str]) -> bool:
    """Whether each node runs a task within a few seconds."""
    ask = ray.remote(num_cpus=0, max_retries=0)(_answer)
    asked = [
        ask.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False)).remote()
        for node in sorted(nodes)
    ]
    try:
        ray.get(asked, timeout=_ANSWER_S)
    except RayError:  # among them the timeout
        return False
    return True
