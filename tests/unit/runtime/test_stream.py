"""How far a plan is, and how its errors are told."""

import pytest

from raypipe import errors
from raypipe.errors import (
    EngineDiedError,
    EngineStartError,
    QuarantineLimitError,
    RaypipeError,
    StorageError,
)
from raypipe.runtime import stream


def wrapped(error: Exception) -> RuntimeError:
    """An error as Ray hands it on: its last line somewhere below a remote traceback."""
    return RuntimeError(
        "\x1b[36mray::MapWorker(MapBatches(SamplingActor)).submit()\x1b[39m (pid=1, ip=10.0.0.1)\n"
        '  File "actor.py", line 1, in __call__\n'
        f"{type(error).__module__}.{type(error).__name__}: {error}"
    )


@pytest.mark.parametrize(
    "raised",
    [
        StorageError("cannot write /run/a.parquet: [Errno 28] No space left on device"),
        EngineDiedError("4 engines died: a, b …"),
        QuarantineLimitError("refused 3 of 4"),
        EngineStartError("too little memory\nlower it"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_tasks_own_error_comes_out_of_what_ray_wraps_it_in(raised: RaypipeError) -> None:
    found = stream.unwrap_ray_error(wrapped(raised))
    assert type(found) is type(raised)
    assert str(found) == str(raised)


def test_every_error_of_the_tree_is_recognised() -> None:
    kinds = [
        kind
        for kind in vars(errors).values()
        if isinstance(kind, type) and issubclass(kind, RaypipeError)
    ]
    assert len(kinds) > 8
    for kind in kinds:
        assert type(stream.unwrap_ray_error(wrapped(kind("so")))) is kind


def test_no_progress_and_a_full_disk_of_rays_are_worth_retrying() -> None:
    class ExecutionTimeoutError(Exception):
        pass

    timed_out = stream.unwrap_ray_error(ExecutionTimeoutError("nothing for 60 s"))
    assert isinstance(timed_out, EngineStartError)
    assert "cluster.capacity_wait_s" in str(timed_out)
    full = stream.unwrap_ray_error(RuntimeError("spilling:\n[Errno 28] No space left on device"))
    assert isinstance(full, StorageError)
    assert "the disk is full" in str(full)


def test_what_nobody_foresaw_stays_what_it_is() -> None:
    error = KeyError("no such column")
    assert stream.unwrap_ray_error(error) is error


@pytest.mark.parametrize("keep", [True, False])
def test_progress_speaks_of_listings_or_of_what_it_waits_for(keep: bool) -> None:
    progress = stream.Progress(total=2000, done=1500 if keep else 0, waiting=lambda: "waiting")
    assert progress.text() == ("1,500 of 2,000 listings" if keep else "waiting")
