"""How many workers a training asks for, what it says while it waits, and when it stops."""

from typing import Any

import pytest
from ray.train.v2._internal.execution.scaling_policy import NoopDecision, ResizeDecision

from raypipe.config import Config, resolve
from raypipe.errors import EngineStartError
from raypipe.runtime.capacity import Room
from raypipe.training import capacity
from raypipe.training.capacity import WorkerDemand
from raypipe.training.progress import TrainingProgress
from tests.unit.training.test_node_losses import Remote

NODE = {"CPU": 8.0, "GPU": 1.0}
ROOM = Room([NODE], NODE, {"CPU": 32.0, "GPU": 4.0})


def config(**cluster: Any) -> Config:
    return resolve({"cluster": {"use_gpu": True, **cluster}})


def demand(**cluster: Any) -> WorkerDemand:
    return WorkerDemand.of(config(**cluster), "sft", ROOM)


def test_a_demand_is_what_the_configuration_and_the_cluster_say() -> None:
    assert (demand().least, demand().most) == (1, 1)
    assert (demand(num_train_workers=4).least, demand(num_train_workers=4).most) == (4, 4)
    fewer = demand(num_train_workers=4, min_train_workers=2, zero_stage=0)
    assert (fewer.least, fewer.most) == (2, 4)
    assert fewer.scaling().num_workers == (2, 4)
    assert demand(num_train_workers=4).scaling().num_workers == 4


def test_what_it_waits_for_is_told() -> None:
    told = demand(num_train_workers=2, capacity_wait_s=7200).lacking(ROOM)
    assert told == (
        "waiting for capacity, for at most 7,200 s (cluster.capacity_wait_s): sft asks for 2 "
        "training workers of 1 GPU and 1 CPU each; the cluster has 1 GPU and 8 CPUs (1 GPU and 8 "
        "CPUs free), and its autoscaler may bring it to 4 GPUs and 32 CPUs"
    )
    assert "without a limit" in (
        demand(num_train_workers=2, capacity_wait_s=-1).lacking(ROOM) or ""
    )
    assert demand().lacking(ROOM) is None


@pytest.mark.parametrize(
    ("states", "pending"),
    [([], True), (["PENDING"], True), (["CREATED"], False), (["REMOVED", "RESCHEDULING"], True),
     (["CREATED", "PENDING"], True), (["CREATED", "REMOVED"], False)],
)  # fmt: skip
def test_workers_are_pending_until_ray_has_a_place_for_them(
    states: list[str], pending: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundles = {0: {"GPU": 1.0, "CPU": 1.0}}
    table = {str(number): {"state": state, "bundles": bundles}
             for number, state in enumerate(states)}  # fmt: skip
    table["another's"] = {"state": "CREATED", "bundles": {0: {"CPU": 4.0}}}
    monkeypatch.setattr(capacity.ray.util, "placement_group_table", lambda: table)
    assert demand().is_pending() is pending


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


class Coordinator:
    def maybe_send_resource_request(self, *_: object) -> None:
        """Nobody asks for nodes here."""


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(capacity, "time", made)
    monkeypatch.setattr(capacity.ray, "get", lambda value, **_: value)
    monkeypatch.setattr(Room, "of_cluster", classmethod(lambda _: ROOM))
    return made


def test_patience_ends_at_the_limit_and_begins_anew_with_workers(clock: Clock) -> None:
    progress = TrainingProgress()
    policy = demand(num_train_workers=2, capacity_wait_s=60).policy(Remote(progress))
    policy._coordinator_client = Coordinator()
    for now in (0.0, 59.0):
        clock.now = now
        decision = policy.make_decision_for_non_running_worker_group()
        assert isinstance(decision, ResizeDecision)
        assert progress.workers() == "asked"
    policy.make_decision_for_running_worker_group(worker_group_state=None, worker_group_status=None)
    assert progress.workers() == "there"
    clock.now = 100.0
    policy.make_decision_for_non_running_worker_group()
    clock.now = 160.0
    with pytest.raises(EngineStartError, match=r"within cluster\.capacity_wait_s=60"):
        policy.make_decision_for_non_running_worker_group()


def test_with_room_for_fewer_than_the_least_it_rests_between_two_looks(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    progress = TrainingProgress()
    fewer = demand(num_train_workers=4, min_train_workers=2, zero_stage=0, capacity_wait_s=3)
    policy = fewer.policy(Remote(progress))
    policy._coordinator_client = Coordinator()
    monkeypatch.setattr(policy, "_get_reserved_resources", lambda: {"node": NODE})
    for _ in range(3):
        decision = policy.make_decision_for_non_running_worker_group()
        assert isinstance(decision, NoopDecision)
        assert progress.workers() == "lacking"
    with pytest.raises(EngineStartError):
        policy.make_decision_for_non_running_worker_group()
