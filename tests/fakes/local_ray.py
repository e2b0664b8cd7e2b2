"""A Ray session of this process that tests of several modules share: starting one costs seconds."""

from contextlib import ExitStack

from raypipe import config as configuration
from raypipe.runtime.cluster import ray_session

_open: dict[int | None, ExitStack] = {}


def use(num_cpus: int | None = None) -> None:
    """Have a session of so many logical CPUs, the default's if None; one of another number ends."""
    if num_cpus in _open:
        return
    end()
    cluster = configuration.load().cluster.model_copy(update={"num_cpus": num_cpus})
    with ExitStack() as stack:
        stack.enter_context(ray_session(cluster))
        _open[num_cpus] = stack.pop_all()


def end() -> None:
    """End the session that there is, for a test that has its own or none."""
    while _open:
        _open.popitem()[1].close()
