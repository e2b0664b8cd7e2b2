"""A cluster that grows from no GPU worker to its maximum while listings are sampled, and shrinks.

The head, its autoscaler (version 2, the one that `ray up` starts) and the scheduling are Ray's own.
The provider is Ray's fake one: its instances are raylets of this machine that say they have a GPU.
"""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from raypipe.store.artifacts import Run
from tests.fakes.scripted_engine import Driver, assert_exact, make_catalog, new_script

pytestmark = [pytest.mark.engine, pytest.mark.timeout(300)]
ROOT = Path(__file__).resolve().parents[2]
RAY = str(Path(sys.executable).with_name("ray"))
MAX_WORKERS = 2
NUM_LISTINGS = 800
# Ray's FAKE_HEAD_NODE_ID; the fake workers are numbered from it.
HEAD_ID = "f" * 51 + "00000"
COMMANDS = (
    "initialization_commands",
    "setup_commands",
    "head_setup_commands",
    "worker_setup_commands",
    "head_start_ray_commands",
    "worker_start_ray_commands",
    "cluster_synced_files",
    "rsync_exclude",
    "rsync_filter",
)


def cluster_config(address: str) -> dict[str, Any]:
    """As in cluster.yaml, for the fake provider: no GPU on the head, 0 to MAX_WORKERS beside it."""
    return {
        "cluster_name": "fake",
        "max_workers": MAX_WORKERS,
        "upscaling_speed": 1.0,
        "idle_timeout_minutes": 0.1,
        "provider": {
            # "fake_multinode" would look for an example.yaml that Ray's wheel does not hold.
            "type": "external",
            "module": "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider",
            "head_node_id": HEAD_ID,
            "gcs_address": address,
            "use_node_id_as_ip": True,
            "launch_multiple": True,
            "disable_node_updaters": True,
            "disable_launch_config_check": True,
        },
        "head_node_type": "ray.head.default",  # the fake provider knows it by this name
        "available_node_types": {
            "ray.head.default": {"resources": {"CPU": 2}, "node_config": {}, "max_workers": 0},
            "gpu": {
                "resources": {"CPU": 1, "GPU": 1, "object_store_memory": 150 * 2**20},
                "node_config": {},
                "min_workers": 0,
                "max_workers": MAX_WORKERS,
            },
        },
        "auth": {},
        "docker": {},
        "file_mounts": {},
        "file_mounts_sync_continuously": False,
        **{name: [] for name in COMMANDS},
    }


def environment(**more: str) -> dict[str, str]:
    """Of the head and of the drivers alike: they must agree about authentication."""
    kept = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    return {**kept, "RAY_AUTH_MODE": "disabled", **more}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def end_group(group: int) -> None:
    """End a process group: gently, and after three seconds for good."""
    for sent in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(group, sent)
        deadline = time.monotonic() + 3
        while lives(group) and time.monotonic() < deadline:
            time.sleep(0.2)


def lives(group: int) -> bool:
    """Whether a process group has a process that is not just waiting to be buried."""
    for process in psutil.process_iter(["status"]):
        with contextlib.suppress(ProcessLookupError):
            if os.getpgid(process.pid) == group and process.info["status"] != "zombie":
                return True
    return False


class Cluster:
    """A head with an autoscaler; it, its monitor and the fake workers are one process group."""

    def __init__(self) -> None:
        # Sockets live below it, whose paths must be short; an own one also keeps a later
        # ray.init() from finding the address of this cluster.
        self.directory = tempfile.mkdtemp(prefix="ray")
        port = free_port()
        self.address = f"127.0.0.1:{port}"
        config = Path(self.directory, "cluster.json")
        config.write_text(json.dumps(cluster_config(self.address)))
        command = [
            RAY,
            "start",
            "--head",
            f"--port={port}",
            "--node-ip-address=127.0.0.1",
            "--num-cpus=2",
            "--num-gpus=0",
            "--object-store-memory=300000000",
            "--include-dashboard=false",
            "--disable-usage-stats",
            f"--temp-dir={self.directory}",
            f"--autoscaling-config={config}",  # read again at every turn of the autoscaler
        ]
        with Path(self.directory, "start.log").open("wb") as log:
            self._head = subprocess.Popen(
                command,
                env=environment(
                    RAY_FAKE_CLUSTER="1",
                    AUTOSCALER_UPDATE_INTERVAL_S="1",
                    RAY_enable_autoscaler_v2="1",
                    RAY_CLOUD_INSTANCE_ID=HEAD_ID,
                    RAY_OVERRIDE_NODE_ID_FOR_TESTING=HEAD_ID,
                ),
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def wait(self) -> None:
        """Until the head is up, which is when `ray start` returns."""
        status = self._head.wait(120)
        assert status == 0, Path(self.directory, "start.log").read_text()

    def complaint(self) -> str:
        """What the autoscaler said; `ray start` succeeds even when its configuration is wrong."""
        logs = Path(self.directory, "session_latest", "logs")
        texts = [path.read_text()[-3000:] for path in sorted(logs.glob("monitor.*"))]
        return "\n".join(["the autoscaler says:", *texts])

    def stop(self) -> None:
        try:
            end_group(self._head.pid)
            self._head.wait(10)
        finally:
            shutil.rmtree(self.directory, ignore_errors=True)


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    made = Cluster()
    try:
        made.wait()
        yield made
    finally:
        made.stop()


class Watch:
    """The number of workers alive, whenever it changes, as a driver of its own sees it."""

    def __init__(self, cluster: Cluster) -> None:
        self.counts: list[int] = []
        self._cluster = cluster
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.integration.test_autoscaling", cluster.address],
            cwd=ROOT,
            env=environment(),
            stdout=subprocess.PIPE,
            text=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.strip().isdigit():  # Ray tells of nodes that end in between
                self.counts.append(int(line))

    def until(self, reached: Callable[[list[int]], bool], limit_s: float) -> None:
        deadline = time.monotonic() + limit_s
        while not reached(self.counts):
            assert time.monotonic() < deadline, f"{self.counts}; {self._cluster.complaint()}"
            assert self._process.poll() is None, "the watch ended"
            time.sleep(0.2)

    def stop(self) -> None:
        self._process.kill()
        self._process.wait(10)
        self._reader.join(10)


@pytest.fixture
def watch(cluster: Cluster) -> Iterator[Watch]:
    started = Watch(cluster)
    try:
        yield started
    finally:
        started.stop()


def test_gpu_workers_come_with_a_samplings_demand_and_go_after_it(
    cluster: Cluster, watch: Watch, run: Run, tmp_path: Path
) -> None:
    watch.until(lambda counts: counts == [0], 60)
    ids = make_catalog(run, NUM_LISTINGS)
    script = new_script(tmp_path, seconds=1.0)
    driver = Driver(
        run,
        script,
        "sampling.gpus_per_actor=1",
        "sampling.min_actors=1",
        f"sampling.num_actors={MAX_WORKERS}",
        environment={
            "RAY_ADDRESS": cluster.address,
            "RAY_AUTH_MODE": "disabled",
            "RAY_DATA_MIN_GAP_BETWEEN_AUTOSCALING_REQUESTS": "1",
        },
    )
    try:
        watch.until(lambda counts: MAX_WORKERS in counts, 120)
        deadline = time.monotonic() + 60
        while len(script.page("started")) < MAX_WORKERS:
            assert time.monotonic() < deadline, driver.output
            time.sleep(0.2)
        Path(script.diary, "hurry").touch()
        assert driver.wait() == 0, f"{driver.output}; {watch.counts}; {cluster.complaint()}"
    finally:
        driver.end()
    assert_exact(run, ids)
    watch.until(lambda counts: counts[-1] == 0, 60)
    assert max(watch.counts) == MAX_WORKERS


# What follows runs in a driver of its own.


def report_workers(address: str) -> None:
    """Print the number of workers whenever it changes, until somebody ends this process."""
    import ray

    ray.init(address=address, log_to_driver=False, logging_level="ERROR")
    last = None
    while True:
        now = sum(node["Alive"] for node in ray.nodes()) - 1
        if now != last:
            last = now
            sys.stdout.write(f"{now}\n")
            sys.stdout.flush()
        time.sleep(0.2)


if __name__ == "__main__":
    report_workers(sys.argv[1])
