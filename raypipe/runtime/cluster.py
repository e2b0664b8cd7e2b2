"""Join the job's Ray cluster, or start a local one."""

import contextlib
import logging
import os
import warnings
from collections.abc import Iterator
from typing import Any

from raypipe.config import ClusterConfig
from raypipe.errors import EngineStartError
from raypipe.runtime.interruption import is_stopping, listen
from raypipe.runtime.local_session import joins_cluster, local_session

# Ray Data needs CPUs for reads and writes besides those of the actors; with two logical CPUs a plan
# with one actor can deadlock.
MIN_LOGICAL_CPUS = 4


# Set for every process of the session; values set by the user win.
QUIET_ENVIRONMENT = {
    "PYTHONWARNINGS": "ignore",
    "TRANSFORMERS_VERBOSITY": "error",
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TQDM_DISABLE": "1",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "DS_LOG_LEVEL": "error",
}
# Backpressure: readers wait when twice the engines' batch is queued. By default they wait only when
# half of the object store is full, so memory would grow with the catalog up to that.
READ_AHEAD = {"RAY_DATA_DOWNSTREAM_CAPACITY_OBJECT_STORE_BUDGET_UTIL_THRESHOLD": "0"}

# Warnings of intended states: an Iceberg table with few files, disabled progress bars.
_USUAL = ("Reducing the parallelism to ", "Progress bars disabled.")


@contextlib.contextmanager
def ray_session(cluster: ClusterConfig) -> Iterator[None]:
    """A Ray session: the cluster named by RAY_ADDRESS (set in every Ray job), else a local one.

    A local one listens on loopback only, with files private to the user. When a signal ends the
    process, a local session is shut down, a cluster only disconnected.
    """
    for name, value in (QUIET_ENVIRONMENT | READ_AHEAD).items():
        os.environ.setdefault(name, value)
    with contextlib.ExitStack() as stack:
        where = {} if joins_cluster() else stack.enter_context(local_session())
        import ray

        try:
            ray.init(**_arguments(cluster), **where)
        except Exception as error:  # a node that starts too slowly raises a plain Exception
            raise EngineStartError(f"Ray did not start: {error}") from error
        finally:
            listen()  # Ray installs its own SIGTERM handler
        try:
            quiet_ray_data()
            yield
        finally:
            if not is_stopping():
                ray.shutdown()


@contextlib.contextmanager
def ensure_ray(cluster: ClusterConfig) -> Iterator[None]:
    """The current Ray session, or a new one while the body runs."""
    import ray

    with contextlib.nullcontext() if ray.is_initialized() else ray_session(cluster):
        yield


@contextlib.contextmanager
def without_bars() -> Iterator[None]:
    """No Ray Data progress bars while the body runs; one reader draws them into logs too."""
    import ray.data

    context = ray.data.DataContext.get_current()
    shown, context.enable_progress_bars = context.enable_progress_bars, False
    try:
        yield
    finally:
        context.enable_progress_bars = shown


def logical_cpus(cluster: ClusterConfig) -> int:
    """CPUs of a Ray started here, as it counts them."""
    return cluster.num_cpus or max(MIN_LOGICAL_CPUS, os.cpu_count() or 1)


def _arguments(cluster: ClusterConfig) -> dict[str, Any]:
    quiet = {"logging_level": logging.ERROR, "log_to_driver": False}
    if joins_cluster():
        return quiet
    logical = logical_cpus(cluster)
    # Ray warns when there are many more workers than processors.
    os.environ.setdefault("RAY_worker_maximum_startup_concurrency", str(logical))
    return {**quiet, "address": "local", "num_cpus": logical, "include_dashboard": False}


def quiet_ray_data() -> None:
    """Show only Ray Data's warnings, and progress bars on a terminal."""
    import ray.data
    from ray.util.annotations import RayDeprecationWarning

    context = ray.data.DataContext.get_current()
    context.print_on_execution_start = False
    context.DEFAULT_ENABLE_PROGRESS_BAR_NAME_TRUNCATION = False  # it warns of long names
    # Ray Data advises to reserve heap memory, which does not fit engines.
    context.issue_detectors_config.high_memory_detector_config.detection_time_interval_s = -1
    for handler in logging.getLogger("ray.data").handlers:
        if isinstance(handler, logging.StreamHandler):  # the log file still gets everything
            handler.addFilter(is_reportable)
    # max_restarts and max_task_retries, which bound what Ray retries, have no named parameter yet.
    warnings.filterwarnings("ignore", "`ray_remote_args` is deprecated", RayDeprecationWarning)


def is_reportable(record: logging.LogRecord) -> bool:
    """Whether to log a record: errors that are re-raised are logged by the caller."""
    caught = record.name == "ray.data.exceptions"
    usual = record.getMessage().startswith(_USUAL)
    return record.levelno >= logging.WARNING and not caught and not usual
