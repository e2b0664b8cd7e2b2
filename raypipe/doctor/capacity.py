"""Whether there is room for what the configuration asks: workers of trainings, and engines."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator

from raypipe.config import Config
from raypipe.doctor.finding import Finding, fail, ok, warn
from raypipe.doctor.machine import Devices
from raypipe.runtime.capacity import (
    Resources,
    Room,
    amounts,
    engine_needs,
    engines,
    train_worker_needs,
    train_workers,
)
from raypipe.runtime.cluster import logical_cpus

_ASK_RAY = """\
import dataclasses, json, logging, ray
ray.init(address="auto", logging_level=logging.ERROR, log_to_driver=False)
from raypipe.runtime.capacity import Room
room = Room.of_cluster()
print(json.dumps([list(room.nodes), room.free, room.most]))
"""
_SECONDS_OF_RAY = 60


def room_of_machine(config: Config, devices: Devices) -> Room:
    """What a Ray that a job starts here would have."""
    node = {"CPU": float(logical_cpus(config.cluster)), "GPU": float(len(devices.gpus))}
    return Room([node], node)


def room_of_cluster(address: str) -> Room | str:
    """What the cluster that RAY_ADDRESS names has, asked in a process of its own; the reason where
    it does not say."""
    try:
        answer = subprocess.run(
            [sys.executable, "-c", _ASK_RAY.replace('"auto"', repr(address))],
            capture_output=True,
            text=True,
            timeout=_SECONDS_OF_RAY,
            check=True,
            env=os.environ,
        )
        return Room(*json.loads(answer.stdout.strip().rpartition("\n")[2]))
    except subprocess.CalledProcessError as error:
        return str((error.stderr.strip().splitlines() or ["it says nothing"])[-1])
    except (subprocess.TimeoutExpired, ValueError, TypeError) as error:
        return f"{type(error).__name__}: {error}"


def check_capacity(config: Config, room: Room, *, joins: bool) -> Iterator[Finding]:
    """Args:
    joins: whether the room is a cluster's, which nodes may join.
    """
    cluster, sampling = config.cluster, config.sampling
    stock = config.training.step == "stock"
    sizes = (config.sft.batch_size, config.training.batch_size) if stock else ()
    yield _check(
        "cluster.num_train_workers",
        (cluster.min_train_workers, cluster.num_train_workers),
        train_workers(cluster, room, sizes),
        train_worker_needs(cluster),
        room,
        joins=joins,
    )
    yield _check(
        "sampling.num_actors",
        (sampling.min_actors, sampling.num_actors),
        engines(sampling, room)[1],
        engine_needs(sampling),
        room,
        joins=joins,
    )


def _check(
    what: str,
    asked: tuple[int | None, int | None],
    most: int,
    need: Resources,
    room: Room,
    *,
    joins: bool,
) -> Finding:
    """Compare the fewest and the most that are asked for with what there is."""
    least = asked[0] or asked[1] or 1
    place = "the cluster" if joins else "this machine"
    fits = room.fits(need)
    told = f"{most}{' (null)' if asked[1] is None else ''} of {amounts(need)} each"
    if fits >= least:
        more = f"; {place} has room for {fits} now" if fits < most else ""
        return ok(what, f"{told}{more}")
    detail = f"{told}; {place} has {amounts(room.total)}, room for {fits}"
    if joins and room.may_fit(need) >= least:
        return warn(what, f"{detail} until its autoscaler adds nodes", "nothing, or fewer")
    remedy = f"{what}=null takes what is there" if fits else f"a {place.split()[-1]} that has them"
    if joins and room.most is None:
        return warn(what, f"{detail}: a job waits for nodes to join", remedy)
    return fail(what, f"{detail}: a job would wait in vain", remedy)
