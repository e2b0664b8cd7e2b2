"""Which merged weights a node keeps."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from raypipe.sampling import merged_cache
from raypipe.sampling.merged_cache import hold, make_room

SIZE = 1000


@pytest.fixture(autouse=True)
def _released() -> Iterator[None]:
    yield
    merged_cache.release_all()


def checkpoint(cache: Path, name: str, *, hours: float) -> Path:
    """A folder of SIZE bytes that was last used some hours ago."""
    folder = cache / name
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(b"w" * SIZE)
    then = time.time() - hours * 3600
    for path in (folder / "model.safetensors", folder):
        os.utime(path, (then, then))
    return folder


def names(cache: Path) -> list[str]:
    return sorted(path.name for path in cache.iterdir())


def test_the_least_recently_used_go_until_the_rest_fits(tmp_path: Path) -> None:
    for age, name in enumerate(("new", "middle", "old"), start=1):
        checkpoint(tmp_path, name, hours=age)
    assert make_room(tmp_path, 3 * SIZE) == []
    assert make_room(tmp_path, 2 * SIZE) == [tmp_path / "old"]
    assert make_room(tmp_path, SIZE // 2) == [tmp_path / "middle", tmp_path / "new"]
    assert names(tmp_path) == []


def test_what_is_held_or_was_just_used_stays(tmp_path: Path) -> None:
    old = checkpoint(tmp_path, "old", hours=5)
    checkpoint(tmp_path, "other", hours=4)
    checkpoint(tmp_path, "young", hours=0.01)
    assert hold(old)
    hours_ago = time.time() - 5 * 3600
    os.utime(old, (hours_ago, hours_ago))
    assert make_room(tmp_path, 0) == [tmp_path / "other"]
    assert names(tmp_path) == ["old", "young"]
    merged_cache.release_all()
    assert make_room(tmp_path, 0) == [old]


def test_a_holder_that_is_killed_holds_nothing(tmp_path: Path) -> None:
    old = checkpoint(tmp_path, "old", hours=5)
    holder = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import sys, time, pathlib; from raypipe.sampling.merged_cache import hold\n"
            "print(hold(pathlib.Path(sys.argv[1])), flush=True); time.sleep(600)",
            str(old),
        ],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "True\n"
    assert make_room(tmp_path, 0, young_s=0) == []
    holder.kill()
    holder.communicate()
    assert make_room(tmp_path, 0, young_s=0) == [old]


def test_what_is_gone_is_not_held(tmp_path: Path) -> None:
    assert not hold(tmp_path / "never")
    old = checkpoint(tmp_path, "old", hours=5)
    assert hold(old)
    assert hold(old)  # again
    merged_cache.release_all()
    make_room(tmp_path, 0, young_s=0)
    assert not hold(old)


def test_leftovers_of_killed_processes_go_after_a_day(tmp_path: Path) -> None:
    checkpoint(tmp_path, ".gc-0123", hours=30)
    checkpoint(tmp_path, ".policy.0123abcd", hours=1)
    checkpoint(tmp_path, "kept", hours=100)
    make_room(tmp_path, None)
    assert names(tmp_path) == [".policy.0123abcd", "kept"]
    assert make_room(tmp_path / "missing", 0) == []
