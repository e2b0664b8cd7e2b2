"""``kill -9`` while DeepSpeed's extension is being compiled; the next process builds it."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.fakes.small_run import ROOT

pytestmark = pytest.mark.engine

LOAD = "from raypipe.training.extension import load_extension; load_extension()"


def loading(cache: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", LOAD],
        cwd=ROOT,
        env={**os.environ, "TORCH_EXTENSIONS_DIR": str(cache)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def kill_once_locked(cache: Path) -> None:
    """SIGKILL a build, compiler and all, as soon as PyTorch's lock file is there."""
    build = loading(cache)
    deadline = time.monotonic() + 120
    try:
        while not list(cache.rglob("lock")):
            assert build.poll() is None, build.communicate()[0]
            assert time.monotonic() < deadline, "the build never began"
            time.sleep(0.01)
    finally:
        os.killpg(build.pid, signal.SIGKILL)
        build.communicate()


def finish(*builds: subprocess.Popen[str]) -> None:
    for build in builds:
        output, _ = build.communicate(timeout=300)
        assert build.returncode == 0, output


def test_a_build_that_was_killed_is_made_by_the_next_process(tmp_path: Path) -> None:
    kill_once_locked(tmp_path)
    assert list(tmp_path.rglob("lock"))  # left behind: PyTorch would wait for it without end
    for object_file in ("shm.o", "deepspeed_shm_comm.so"):  # and what the compiler had so far
        (next(tmp_path.rglob("lock")).parent / object_file).write_bytes(b"half")
    finish(loading(tmp_path), loading(tmp_path))  # two workers of one machine, at once
    (library,) = tmp_path.rglob("*.so")
    assert not list(tmp_path.rglob("lock"))

    built = library.stat().st_mtime_ns
    finish(loading(tmp_path))
    assert library.stat().st_mtime_ns == built
