"""How many workers and engines a cluster has room for."""

from typing import Any

import pytest

from raypipe.config import Config, resolve
from raypipe.runtime.capacity import Room, amounts, engines, train_workers

GPU_NODE = {"CPU": 8.0, "GPU": 2.0, "memory": 1e9}
TWO = Room([{"CPU": 6.0}, GPU_NODE, GPU_NODE], {"CPU": 3.0, "GPU": 1.0})


def config(section: str, **values: Any) -> Config:
    return resolve({section: values})


def test_what_an_actor_needs_must_be_free_on_one_node() -> None:
    assert TWO.fits({"GPU": 1, "CPU": 1}) == 4
    assert TWO.fits({"GPU": 2, "CPU": 1}) == 2
    assert TWO.fits({"GPU": 4}) == 0
    assert TWO.fits({"CPU": 4}) == 5
    assert TWO.fits({"CPU": 0, "GPU": 0}) == 3


def test_what_there_is_and_may_come_is_told() -> None:
    assert amounts({"GPU": 1, "CPU": 0.5}) == "1 GPU and 0.5 CPUs"
    assert TWO.text() == (
        "the cluster has 4 GPUs and 22 CPUs (1 GPU and 3 CPUs free), and no autoscaler that says "
        "it will grow"
    )
    grows = Room(TWO.nodes, TWO.free, {"GPU": 8, "CPU": 64})
    assert grows.text().endswith("and its autoscaler may bring it to 8 GPUs and 64 CPUs")
    assert (grows.fits({"GPU": 1}), grows.may_fit({"GPU": 1})) == (4, 8)


def test_workers_follow_the_gpus_unless_a_number_is_given() -> None:
    def workers(room: Room, *sizes: int, **cluster: Any) -> int:
        return train_workers(config("cluster", use_gpu=True, **cluster).cluster, room, sizes)

    assert workers(TWO) == 4
    assert workers(TWO, num_train_workers=3) == 3
    assert workers(TWO, 18, 6) == 3  # every worker of the stock step takes the same share
    assert workers(Room([{"CPU": 8.0}], {})) == 1  # it waits for one
    grows = Room(TWO.nodes, TWO.free, {"GPU": 8, "CPU": 64})
    assert workers(grows) == 4
    assert workers(grows, min_train_workers=2, zero_stage=0) == 8


def test_without_gpus_workers_follow_the_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = config("cluster", cpus_per_train_worker=2).cluster
    room = Room([{"CPU": 8.0}], {})
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert train_workers(cluster, room) == 2  # a Ray of its own counts more than there are
    monkeypatch.setenv("RAY_ADDRESS", "head:6379")
    assert train_workers(cluster, room) == 4


def test_engines_follow_the_gpus_and_grow_with_the_autoscaler() -> None:
    def pool(room: Room, **sampling: Any) -> tuple[int, int]:
        return engines(config("sampling", **sampling).sampling, room)

    assert pool(TWO, gpus_per_actor=1) == (4, 4)
    assert pool(TWO, gpus_per_actor=2) == (2, 2)
    assert pool(TWO, gpus_per_actor=1, num_actors=3) == (3, 3)
    assert pool(TWO, gpus_per_actor=1, num_actors=3, min_actors=1) == (1, 3)
    grows = Room([{"CPU": 6.0}], {}, {"GPU": 8, "CPU": 64})
    assert pool(grows, gpus_per_actor=1) == (1, 8)
    assert pool(grows, gpus_per_actor=1, min_actors=2) == (2, 8)
    assert pool(TWO) == (3, 3)  # without GPUs one for each node
