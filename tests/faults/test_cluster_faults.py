"""A node of three is lost while its engine works."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from ray.cluster_utils import Cluster

from raypipe.store.artifacts import Run
from tests.fakes.scripted_engine import (
    IN_FLIGHT,
    Driver,
    assert_exact,
    make_catalog,
    new_script,
    refusals,
)
from tests.faults.test_sampling_faults import once

pytestmark = pytest.mark.engine
NUM_LISTINGS = 400


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """Three nodes of two logical CPUs."""
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    started = Cluster()
    try:
        for _ in range(3):
            started.add_node(num_cpus=2, include_dashboard=False)
        started.wait_for_nodes(60)
        yield started
    finally:
        started.shutdown()


def raylet(node: Any) -> int:
    return int(node.all_processes["raylet"][0].process.pid)


def node_of(cluster: Cluster, engine: int) -> Any:
    """The node, other than the driver's, on which an engine's process runs; None for none."""
    ancestors = {process.pid for process in psutil.Process(engine).parents()}
    return next((node for node in cluster.worker_nodes if raylet(node) in ancestors), None)


def test_a_lost_node_loses_no_listing(cluster: Cluster, run: Run, tmp_path: Path) -> None:
    ids = make_catalog(run, NUM_LISTINGS)
    # Rows too large to travel beside the task: what the node held in its memory is lost with it.
    script = new_script(tmp_path, seconds=0.2, padding=30_000)
    lost: list[Any] = []

    def lose_a_node() -> None:
        nodes = [node_of(cluster, int(engine)) for engine in script.page("started")]
        lost.append(next(node for node in nodes if node is not None))
        os.kill(raylet(lost[0]), signal.SIGKILL)

    joined = {"RAY_ADDRESS": cluster.address, "RAY_AUTH_MODE": "disabled"}
    driver = Driver(
        run, script, "sampling.num_actors=3", "sampling.min_actors=1", environment=joined
    )
    with once(lambda: len(script.answered) > NUM_LISTINGS // 3, lose_a_node):
        assert driver.wait() == 0, driver.output
    assert_exact(run, ids)
    assert refusals(run) == {}
    assert script.redone() <= 2 * IN_FLIGHT + NUM_LISTINGS // 50
    cluster.remove_node(lost[0], allow_graceful=False)
