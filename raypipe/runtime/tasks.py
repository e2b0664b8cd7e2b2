"""Ray tasks over a list of items, so many at a time as the cluster has CPUs for."""

import os
import sys
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar

from raypipe.runtime.stream import unwrap_ray_error

A = TypeVar("A")
T = TypeVar("T")
_MAX_THREADS = 16
_in_this_process = ContextVar("in_this_process", default=False)


def run_tasks(task: Callable[[A], T], items: Sequence[A], *, fewest: int = 2) -> Iterator[T]:
    """What the task returns of each item, in their order. It runs in this process when there is no
    cluster, or there are fewer than ``fewest`` items. A task whose node is lost runs again.

    Raises what the task raises; the tasks that are left are then cancelled.
    """
    if len(items) < fewest or _in_this_process.get() or not _has_session():
        yield from map(task, items)
        return
    import ray

    remote, shared = ray.remote(max_retries=-1)(_call), ray.put(task)
    limit = 2 * int(max(1, ray.cluster_resources().get("CPU", 1)))
    running: deque[Any] = deque()
    try:
        for item in items:
            running.append(remote.remote(shared, item))
            if len(running) >= limit:
                yield ray.get(running.popleft())
        while running:
            yield ray.get(running.popleft())
    except ray.exceptions.RayError as error:
        raise unwrap_ray_error(error) from error
    finally:
        for left in running:
            ray.cancel(left, force=True)


@contextmanager
def in_this_process() -> Iterator[None]:
    """:func:`run_tasks` starts no Ray tasks while the body runs: other nodes lack its files."""
    token = _in_this_process.set(True)
    try:
        yield
    finally:
        _in_this_process.reset(token)


def num_threads() -> int:
    """How many threads may compute here: one in a Ray task, which has one CPU, else one a CPU."""
    if _has_session():
        import ray

        if ray.get_runtime_context().get_task_id() is not None:
            return 1
    return min(_MAX_THREADS, os.cpu_count() or 1)


def _has_session() -> bool:
    ray = sys.modules.get("ray")
    return ray is not None and bool(ray.is_initialized())


def _call(task: Callable[[A], T], item: A) -> T:
    return task(item)
