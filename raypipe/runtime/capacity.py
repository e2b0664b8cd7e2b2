"""What a cluster has room for: its nodes as they are, and what its autoscaler may still add."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from raypipe.config import ClusterConfig, SamplingConfig
from raypipe.runtime.local_session import joins_cluster

_NAMES = ("GPU", "CPU")
_ROUNDING = 1e-6
Resources = Mapping[str, float]
"""Amounts by Ray's names, "CPU" and "GPU"."""


@dataclass(frozen=True)
class Room:
    """The resources of a cluster.

    Args:
        nodes: of each living node, used or not.
        free: of all nodes together, what nobody uses.
        most: of all nodes together, what the autoscaler may bring the cluster to; None where no
            autoscaler says so.
    """

    nodes: Sequence[Resources]
    free: Resources
    most: Resources | None = None

    @classmethod
    def of_cluster(cls) -> "Room":
        """The room of the Ray session that this process is in."""
        import ray
        from ray._private.state import state

        alive = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        return cls(alive, ray.available_resources(), state.get_max_resources_from_cluster_config())

    @property
    def total(self) -> Resources:
        return {name: sum(node.get(name, 0.0) for node in self.nodes) for name in _NAMES}

    def fits(self, need: Resources) -> int:
        """How many with this need the nodes have room for, each within one node."""
        wanted = {name: amount for name, amount in need.items() if amount > 0}
        if not wanted:
            return len(self.nodes)
        return sum(
            int(min(node.get(name, 0.0) / amount for name, amount in wanted.items()) + _ROUNDING)
            for node in self.nodes
        )

    def may_fit(self, need: Resources) -> int:
        """The same, with all that the autoscaler may add."""
        now = self.fits(need)
        return now if self.most is None else max(now, Room([self.most], {}).fits(need))

    def text(self) -> str:
        """What there is, in words."""
        free = {name: self.free.get(name, 0.0) for name in _NAMES}
        text = f"the cluster has {amounts(self.total)} ({amounts(free)} free)"
        if self.most is None:
            return f"{text}, and no autoscaler that says it will grow"
        return f"{text}, and its autoscaler may bring it to {amounts(self.most)}"


def amounts(resources: Resources) -> str:
    """ "2 GPUs and 8 CPUs": those that are named, "0 GPUs" too."""
    parts = [(resources[name], name) for name in _NAMES if name in resources]
    told = (f"{amount:g} {name}{'' if amount == 1 else 's'}" for amount, name in parts)
    return " and ".join(told) or "nothing"


def train_worker_needs(cluster: ClusterConfig) -> dict[str, float]:
    """What Ray reserves for a training worker."""
    return {"CPU": cluster.cpus_per_train_worker} | ({"GPU": 1.0} if cluster.use_gpu else {})


def engine_needs(sampling: SamplingConfig) -> dict[str, float]:
    """What Ray reserves for an engine's actor."""
    gpus = {"GPU": sampling.gpus_per_actor} if sampling.gpus_per_actor else {}
    return {"CPU": sampling.cpus_per_actor} | gpus


def train_workers(cluster: ClusterConfig, room: Room, batch_sizes: Sequence[int] = ()) -> int:
    """Workers that a training asks for: ``cluster.num_train_workers``, or as many as there is room
    for now, at least one.

    Args:
        batch_sizes: that must divide into the workers' shares.
    """
    if cluster.num_train_workers is not None:
        return cluster.num_train_workers
    need = train_worker_needs(cluster)
    found = room.fits(need) if cluster.min_train_workers is None else room.may_fit(need)
    if not cluster.use_gpu and not joins_cluster():
        found = min(found, os.cpu_count() or 1)  # Ray counts more than there are on small machines
    found = max(found, cluster.min_train_workers or 1)
    return next(
        number for number in range(found, 0, -1) if not any(size % number for size in batch_sizes)
    )


def engines(sampling: SamplingConfig, room: Room) -> tuple[int, int]:
    """Engines that a stage begins with, and that it may grow to.

    ``sampling.num_actors=null`` follows the GPUs; without GPUs it is one for each node, whose cores
    an engine shares out itself.
    """
    if sampling.num_actors is not None:
        return sampling.min_actors or sampling.num_actors, sampling.num_actors
    need = engine_needs(sampling)
    if not sampling.gpus_per_actor:
        now = most = sum(Room([node], {}).fits(need) > 0 for node in room.nodes)
    else:
        now, most = room.fits(need), room.may_fit(need)
    least = sampling.min_actors or max(now, 1)
    return least, max(most, least)
