"""Join the Ray cluster that a job runs on, or start one on this machine."""

import contextlib
import logging
import os
import warnings
from collections.abc import Iterator
from typing import Any

from raypipe.config import ClusterConfig
from raypipe.errors import EngineStartError
from raypipe.interruption import is_stopping, listen
from raypipe.local_session import joins_cluster, local_session

# Ray Data plans need CPUs for reading and writing beside the actors' own; with two logical CPUs a
# plan of one actor can wait for itself for ever.
MIN_LOGICAL_CPUS = 4


# Set for every process of the session; what a user has set himself stays.
QUIET_ENVIRONMENT = {
    "PYTHONWARNINGS": "ignore",
    "TRANSFORMERS_VERBOSITY": "error",
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TQDM_DISABLE": "1",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "DS_LOG_LEVEL": "error",
}
# Readers wait once twice of what the engines work on is queued; by default only when half of the
# object store is full, so that memory would grow with the catalog up to there.
READ_AHEAD = {"RAY_DATA_DOWNSTREAM_CAPACITY_OBJECT_STORE_BUDGET_UTIL_THRESHOLD": "0"}

# Warnings of what is meant: of an Iceberg table with few files, and of bars switched off.
_USUAL = ("Reducing the parallelism to ", "Progress bars disabled.")


@contextlib.contextmanager
def ray_session(cluster: ClusterConfig) -> Iterator[None]:
    """A Ray session: the cluster named by RAY_ADDRESS (set in every Ray job), else a local one.

    A local one listens on this machine's loopback alone and keeps its files to its user. When a
    signal ends the process, the processes of a local one are ended, and a cluster is left.
    """
    for name, value in (QUIET_ENVIRONMENT | READ_AHEAD).items():
        os.environ.setdefault(name, value)
    with contextlib.ExitStack() as stack:
        where = {} if joins_cluster() else stack.enter_context(local_session())
        import ray

        try:
            ray.init(**_arguments(cluster), **where)
        except Exception as error:  # a node that starts too slowly raises just that
            raise EngineStartError(f"Ray did not start: {error}") from error
        finally:
            listen()  # Ray takes SIGTERM for itself
        try:
            _tame_ray_data()
            yield
        finally:
            if not is_stopping():
                ray.shutdown()


@contextlib.contextmanager
def ray_at_hand(cluster: ClusterConfig) -> Iterator[None]:
    """The Ray session that there is, or one for as long as the body runs."""
    import ray

    with contextlib.nullcontext() if ray.is_initialized() else ray_session(cluster):
        yield


@contextlib.contextmanager
def without_bars() -> Iterator[None]:
    """No bars of Ray Data while the body runs; one of its readers draws them into logs too."""
    import ray.data

    context = ray.data.DataContext.get_current()
    shown, context.enable_progress_bars = context.enable_progress_bars, False
    try:
        yield
    finally:
        context.enable_progress_bars = shown


def _arguments(cluster: ClusterConfig) -> dict[str, Any]:
    quiet = {"logging_level": logging.ERROR, "log_to_driver": False}
    if joins_cluster():
        return quiet
    logical = cluster.num_cpus or max(MIN_LOGICAL_CPUS, os.cpu_count() or 1)
    # Ray warns of more workers than a few times the machine's processors.
    os.environ.setdefault("RAY_worker_maximum_startup_concurrency", str(logical))
    return {**quiet, "address": "local", "num_cpus": logical, "include_dashboard": False}


def _tame_ray_data() -> None:
    """Keep Ray Data's bars on a terminal and its warnings; the driver tells the rest."""
    import ray.data
    from ray.util.annotations import RayDeprecationWarning

    context = ray.data.DataContext.get_current()
    context.print_on_execution_start = False
    context.DEFAULT_ENABLE_PROGRESS_BAR_NAME_TRUNCATION = False  # it warns of long names
    # An engine's memory is the engine's business; Ray Data would advise to reserve it.
    context.issue_detectors_config.high_memory_detector_config.detection_time_interval_s = -1
    for handler in logging.getLogger("ray.data").handlers:
        if isinstance(handler, logging.StreamHandler):  # the log file keeps everything
            handler.addFilter(_worth_telling)
    # max_restarts and max_task_retries, which bound what Ray retries, have no named parameter yet.
    warnings.filterwarnings("ignore", "`ray_remote_args` is deprecated", RayDeprecationWarning)


def _worth_telling(record: logging.LogRecord) -> bool:
    """Of an error that Ray Data raises too, whoever catches it tells once."""
    caught = record.name == "ray.data.exceptions"
    usual = record.getMessage().startswith(_USUAL)
    return record.levelno >= logging.WARNING and not caught and not usual
