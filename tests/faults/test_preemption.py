"""A node is announced to be taken away while a training runs on it, and then is."""

import contextlib
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray
from ray._private.authentication.authentication_token_setup import ensure_token_if_auth_enabled
from ray.cluster_utils import Cluster
from ray.core.generated import autoscaler_pb2

from raypipe.catalog import stage as catalog
from raypipe.runtime.cluster import ray_session
from raypipe.runtime.spot import drain_node
from raypipe.schemas import LISTINGS
from raypipe.store.artifacts import Run
from tests.conftest import CommitRows
from tests.faults.test_cluster_faults import raylet
from tests.integration.test_training import (
    NUM_STEPS,
    event_files,
    logged_steps,
    paired,
    recorded,
    settings,
    steps_of,
    trained,
)

pytestmark = pytest.mark.engine
EPOCHS = 6
FAR = 600_000
"""Milliseconds until the node goes by its notice: in the test it goes as soon as it may."""


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """The driver's node, and two with room for a training each."""
    # As every other session of this process: Ray reads once how it is to ask for the token.
    ensure_token_if_auth_enabled(create_token_if_missing=True)
    monkeypatch.setenv("RAY_TRAIN_PREEMPTION_POLL_INTERVAL_S", "0.2")
    started = Cluster()
    try:
        started.add_node(num_cpus=0, include_dashboard=False)
        for _ in range(2):
            started.add_node(num_cpus=4, include_dashboard=False)
        started.wait_for_nodes(60)
        monkeypatch.setenv("RAY_ADDRESS", started.address)
        with ray_session(settings().cluster):
            yield started
    finally:
        started.shutdown()


def training_node(cluster: Cluster) -> Any:
    """The node on which the training's workers run; None before they do."""
    used = {
        actor["Address"]["NodeID"]
        for actor in ray._private.state.actors().values()
        if actor["State"] == "ALIVE" and "RayTrainWorker" in actor["ActorClassName"]
    }
    return next((node for node in cluster.worker_nodes if node.node_id in used), None)


def take(node: Any) -> None:
    """End all that runs on a node, as when its machine goes."""
    machine = psutil.Process(raylet(node))
    for process in [machine, *machine.children(recursive=True)]:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()


class Cloud:
    """Takes the training's node; announces it first, where it is said to, and takes it once a
    checkpoint is there."""

    def __init__(self, cluster: Cluster, run: Run, *, announces: bool) -> None:
        self._cluster = cluster
        self._run = run
        self._announces = announces
        self.taken: Any = None
        self.other: Any = None
        self.noticed = 0
        self.saved: list[int] = []
        self.error: BaseException | None = None
        self.thread = threading.Thread(target=self._work, daemon=True)

    def _work(self) -> None:
        try:
            self._wait(lambda: any(steps_of(path) for path in self._events()))
            self.noticed = max(step for path in self._events() for step in steps_of(path))
            node = training_node(self._cluster)
            if self._announces:
                self._announce(node)
            take(node)
            self.taken = node
            saved = Path(self._run.path(".training", "round-1")).glob("*/checkpoint_*/global_step*")
            self.saved = sorted({int(path.name.removeprefix("global_step")) for path in saved})
        except BaseException as error:  # noqa: BLE001 - told by the test
            self.error = error

    def bring_another(self) -> None:
        """Take the node that is left too, and add another once Ray knows of none."""
        self._wait(lambda: self.taken is not None)
        self.other = next(node for node in self._cluster.worker_nodes if node is not self.taken)
        take(self.other)
        self._wait(lambda: not ray.cluster_resources().get("CPU"))
        self._cluster.add_node(num_cpus=4, include_dashboard=False)

    def _announce(self, node: Any) -> None:
        gcs = ray._raylet.GcsClient(address=self._cluster.address)
        reason = autoscaler_pb2.DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION")
        accepted, why = gcs.drain_node(node.node_id, reason, "spot", int(time.time() * 1000) + FAR)
        assert accepted, why
        storage = Path(self._run.path(".training", "round-1"))
        self._wait(
            lambda: any(
                recorded(path, 1) for path in storage.glob("*/checkpoint_manager_snapshot.json")
            )
        )

    def _events(self) -> list[Path]:
        there = Path(self._run.path("tensorboard", "round-1")).exists()
        return event_files(self._run) if there else []

    def _wait(self, until: Any) -> None:
        deadline = time.monotonic() + 300
        while not until():
            assert time.monotonic() < deadline, "waited in vain"
            time.sleep(0.05)


def test_the_watchers_command_drains_a_node(cluster: Cluster) -> None:
    """Which of the three is "here" Ray cannot tell on one machine; an idle one goes at once."""
    assert drain_node(90)
    deadline = time.monotonic() + 60
    while len(staying()) == 3:
        assert time.monotonic() < deadline, "no node was drained"
        time.sleep(0.2)
    assert len(staying()) == 2


def staying() -> set[str]:
    """The nodes that live and are not announced to go."""
    alive = {node["NodeID"] for node in ray.nodes() if node["Alive"]}
    return alive - set(ray._private.state.state.get_draining_nodes())


@pytest.fixture
def run(tmp_path: Path, commit_rows: CommitRows) -> Run:
    prepared = Run(str(tmp_path / "catalog"))
    catalog.run(settings(), prepared)
    rows = prepared.artifact("catalog/listings", LISTINGS).read().to_pylist()
    pool = [row for row in rows if row["split"] == "pool"]
    return paired(tmp_path / "run", pool, commit_rows)


def test_on_a_notice_a_training_saves_at_once_and_its_restart_is_no_failure(
    cluster: Cluster, run: Run
) -> None:
    cloud = Cloud(cluster, run, announces=True)
    cloud.thread.start()
    # No checkpoint is due by itself, and no failure is allowed.
    overrides = ("cluster.checkpoint_steps=1000", "cluster.max_train_failures=0")
    commit = trained(run, f"training.epochs={EPOCHS}", *overrides)
    cloud.thread.join()
    assert cloud.error is None
    assert commit.counts["num_steps"] == EPOCHS * NUM_STEPS
    assert logged_steps(run) == list(range(1, EPOCHS * NUM_STEPS + 1))
    first, second = (steps_of(path) for path in event_files(run))
    assert first[0] == 1
    (saved,) = cloud.saved
    assert saved >= cloud.noticed
    assert second[0] == saved + 1
    cluster.remove_node(cloud.taken, allow_graceful=False)


def test_nodes_that_go_without_notice_are_no_failure_and_others_are_waited_for(
    cluster: Cluster, run: Run
) -> None:
    cloud = Cloud(cluster, run, announces=False)
    overrides = ("cluster.max_train_failures=0", "cluster.capacity_wait_s=120")
    with ThreadPoolExecutor(1) as pool:  # a node can be added by the main thread alone
        training = pool.submit(trained, run, f"training.epochs={EPOCHS}", *overrides)
        cloud.thread.start()
        cloud.bring_another()
        commit = training.result()
    cloud.thread.join()
    assert cloud.error is None
    assert commit.counts["num_steps"] == EPOCHS * NUM_STEPS
    assert logged_steps(run) == list(range(1, EPOCHS * NUM_STEPS + 1))
    for node in (cloud.taken, cloud.other):
        cluster.remove_node(node, allow_graceful=False)
