"""Room for the workers of a training: how many are asked for, what is told and how long it waits.

Ray Train waits for a placement group without end and without a word, and with fewer workers than
the least it asks again in a loop that never rests. The policies here, which its controller asks
whenever there are no workers, keep the time.
"""

import time
from dataclasses import dataclass
from typing import Any

import ray
from ray.train import ScalingConfig
from ray.train.v2._internal.execution.scaling_policy import (
    ElasticScalingPolicy,
    FixedScalingPolicy,
    NoopDecision,
    ScalingDecision,
    ScalingPolicy,
)

from raypipe.config import Config
from raypipe.errors import EngineStartError
from raypipe.runtime.capacity import Room, amounts, train_worker_needs, train_workers

_REST_S = 1.0


@dataclass(frozen=True)
class WorkerDemand:
    """The workers that a training asks for.

    Args:
        training: the name of the policy that it makes.
        least: workers with which it begins; fewer than ``most`` where the configuration allows it.
        need: what Ray reserves for each.
        wait_s: how long it may wait for them; -1 for ever.
    """

    training: str
    most: int
    least: int
    need: dict[str, float]
    wait_s: int

    @classmethod
    def of(cls, config: Config, training: str, room: Room) -> "WorkerDemand":
        """The demand of a training on the cluster as it is."""
        cluster, stock = config.cluster, config.training.step == "stock"
        sizes = (config.sft.batch_size, config.training.batch_size) if stock else ()
        most = train_workers(cluster, room, sizes)
        least = min(cluster.min_train_workers or most, most)
        need = train_worker_needs(cluster)
        return cls(training, most, least, need, cluster.capacity_wait_s)

    def scaling(self) -> ScalingConfig:
        """Ray Train's own words for it."""
        return ScalingConfig(
            num_workers=self.most if self.least == self.most else (self.least, self.most),
            use_gpu="GPU" in self.need,
            resources_per_worker=self.need,
        )

    def policy(self, progress: Any) -> ScalingPolicy:
        """Ray Train's policy for the number of workers, with an end to its patience."""
        scaling = self.scaling()
        policy = _PatientElastic if scaling.elasticity_enabled else _PatientFixed
        return policy(scaling, self, progress)

    def request(self) -> str:
        """What is asked for, in words."""
        least = f"{self.least} to " if self.least < self.most else ""
        workers = f"{least}{self.most} training worker{'' if self.most == 1 else 's'}"
        return f"{self.training} asks for {workers} of {amounts(self.need)} each"

    def waiting(self, room: Room) -> str:
        """What is told while it waits."""
        limit = "without a limit" if self.wait_s < 0 else f"for at most {self.wait_s:,} s"
        return (
            f"waiting for capacity, {limit} (cluster.capacity_wait_s): {self.request()}; "
            f"{room.text()}"
        )

    def lacking(self, room: Room) -> str | None:
        """The same where the cluster has no room for the fewest workers, used or not."""
        return self.waiting(room) if room.fits(self.need) < self.least else None

    def is_pending(self) -> bool:
        """Whether Ray has found no place yet for workers that were asked for: a group of theirs is
        pending, or none has a place."""
        states = {
            group["state"]
            for group in ray.util.placement_group_table().values()
            if all(bundle == self.need for bundle in group["bundles"].values())
        }
        return "PENDING" in states or "CREATED" not in states

    def refusal(self, room: Room) -> EngineStartError:
        """What a training ends with that has waited long enough."""
        return EngineStartError(
            f"no workers within cluster.capacity_wait_s={self.wait_s:,}: {self.request()}; "
            f"{room.text()}. cluster.num_train_workers=null takes what is there when the training "
            "begins, cluster.min_train_workers= begins with fewer; the same command goes on"
        )


class _Patient(ScalingPolicy):  # type: ignore[misc]
    """Counts how long there have been no workers, and says so to the progress."""

    def __init__(self, scaling: ScalingConfig, demand: WorkerDemand, progress: Any) -> None:
        super().__init__(scaling)
        self._demand = demand
        self._progress = progress
        self._since: float | None = None

    def make_decision_for_non_running_worker_group(self) -> ScalingDecision:
        if self._since is None:
            self._since = time.monotonic()
        elif 0 <= self._demand.wait_s <= time.monotonic() - self._since:
            raise self._demand.refusal(Room.of_cluster())
        decision = super().make_decision_for_non_running_worker_group()
        is_lacking = isinstance(decision, NoopDecision)
        ray.get(self._progress.turn.remote("lacking" if is_lacking else "asked"))
        if is_lacking:
            time.sleep(_REST_S)
        return decision

    def make_decision_for_running_worker_group(self, **state: Any) -> ScalingDecision:
        if self._since is not None:
            self._since = None
            ray.get(self._progress.turn.remote("there"))
        return super().make_decision_for_running_worker_group(**state)


class _PatientFixed(_Patient, FixedScalingPolicy):  # type: ignore[misc]
    """Waits for all workers."""


class _PatientElastic(_Patient, ElasticScalingPolicy):  # type: ignore[misc]
    """Begins with the fewest, and takes more as they come."""
