"""Ray tasks over a list of items, so many at a time as the cluster has CPUs for."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

from raypipe.runtime.stream import unwrap_ray_error

A = TypeVar("A")
T = TypeVar("T")


def run_tasks(task: Callable[[A], T], items: Sequence[A], *, fewest: int = 2) -> Iterator[T]:
    """What the task returns of each item, in their order. It runs in this process when there is no
    cluster, or there are fewer than ``fewest`` items. A task whose node is lost runs again.

    Raises what the task raises; the tasks that are left are then cancelled.
    """
    import ray

    if len(items) < fewest or not ray.is_initialized():
        yield from map(task, items)
        return
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


def _call(task: Callable[[A], T], item: A) -> T:
    return task(item)
