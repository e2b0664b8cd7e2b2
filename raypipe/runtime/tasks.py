"""Calls as Ray tasks, their results in order, a bounded number at once."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

from raypipe.runtime import stream

Item = TypeVar("Item")
Result = TypeVar("Result")


def run_tasks(
    call: Callable[[Item], Result], items: Sequence[Item], *, fewest: int = 2
) -> Iterator[Result]:
    """The results of ``call`` for every item, in their order.

    On the cluster, with two tasks in flight for every CPU; here where there is none, or there are
    fewer than ``fewest`` items. ``call`` is shared by all tasks and goes to every node once.

    Raises:
        RaypipeError: the first error of a call.
    """
    import ray

    if len(items) < fewest or not ray.is_initialized():
        yield from map(call, items)
        return
    # A lost node is no fault of the task; its errors end it at once.
    remote, shared = ray.remote(max_retries=-1)(_called), ray.put(call)
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
        raise stream.unwrap_ray_error(error) from error
    finally:
        for left in running:
            ray.cancel(left, force=True)


def _called(call: Callable[[Any], Any], item: Any) -> Any:
    return call(item)
