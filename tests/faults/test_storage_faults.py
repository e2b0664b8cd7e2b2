"""Disks that are full, files that are cut, storage that is busy, and two writers at once."""

import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from raypipe.errors import EXIT_INPUT, EXIT_RETRY, ArtifactError, StorageError
from raypipe.schemas import LISTINGS
from raypipe.store.artifacts import Run
from raypipe.store.manifest import COMMIT
from tests.fakes.s3_server import S3Server
from tests.fakes.scripted_engine import (
    CHAINS_OF,
    IN_FLIGHT,
    LISTINGS_PER_CALL,
    Driver,
    assert_exact,
    is_committed,
    make_catalog,
    new_script,
    sample,
)

pytestmark = pytest.mark.engine
NUM_LISTINGS = 160


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of three megabytes."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=3m", "small", str(disk)]
    if os.geteuid() or subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("only root may mount a small disk")
    try:
        yield disk
    finally:
        subprocess.run(["umount", "--lazy", str(disk)], check=True)


def fill(disk: Path, leave: int) -> Path:
    """Take all room of a disk but so many bytes."""
    ballast = disk / "ballast"
    ballast.write_bytes(b"\1" * (shutil.disk_usage(disk).free - leave))
    return ballast


@pytest.mark.usefixtures("local_ray")
def test_a_full_disk_is_named_and_the_same_command_goes_on_once_there_is_room(
    small_disk: Path, tmp_path: Path
) -> None:
    run = Run(str(small_disk / "run"))
    ids = make_catalog(run, NUM_LISTINGS)
    script = new_script(tmp_path, padding=4_000)
    ballast = fill(small_disk, leave=300_000)
    with pytest.raises(StorageError, match="No space left on device") as raised:
        sample(run, script)
    assert run.path(f"{CHAINS_OF}/chains/data") in str(raised.value)
    assert raised.value.exit_code == EXIT_RETRY
    assert not is_committed(run)
    ballast.unlink()
    commit = sample(run, script)
    assert_exact(run, ids)
    assert commit.counts["salvaged"] > 0


def test_a_disk_too_full_for_the_manifest_leaves_none(small_disk: Path) -> None:
    run = Run(str(small_disk / "run"))
    ids = make_catalog(run, 8)
    attempt = run.artifact("labels/listings", LISTINGS).attempt({})
    attempt.write(run.artifact("catalog/listings", LISTINGS).read())
    attempt.directory("files")
    ballast = fill(small_disk, leave=0)
    refused: tuple[Callable[[], object], ...] = (
        lambda: attempt.commit(expected=ids),
        lambda: attempt.write_json("metrics.json", ids),
        lambda: run.replace("summary.json", b"{}"),
    )
    for write, name in zip(refused, (COMMIT, "metrics.json", "summary.json"), strict=True):
        with pytest.raises(StorageError, match=rf"{name}.*No space left on device"):
            write()
    assert run.read(f"labels/listings/{COMMIT}") is None
    ballast.unlink()
    attempt.commit(expected=ids)
    assert_exact(run, ids, "labels/listings")


@pytest.mark.usefixtures("local_ray")
def test_a_cut_leftover_is_made_again_and_a_whole_one_is_not(run: Run, tmp_path: Path) -> None:
    ids = make_catalog(run, NUM_LISTINGS)
    script = new_script(tmp_path)
    digest = sample(run, script).digest
    chains = Path(run.path(CHAINS_OF, "chains"))
    (chains / COMMIT).unlink()
    cut, emptied, *_ = sorted(chains.rglob("*.parquet"))
    cut.write_bytes(cut.read_bytes()[:-40])
    emptied.write_bytes(b"")
    commit = sample(run, script)
    assert_exact(run, ids)
    assert commit.digest == digest
    assert script.redone() == 2 * LISTINGS_PER_CALL


def place_in(path: Path, column: str) -> int:
    """Offset of a byte of a column's data in a Parquet file."""
    group = pq.read_metadata(path).row_group(0)
    chunks = [group.column(index) for index in range(group.num_columns)]
    chunk = next(chunk for chunk in chunks if chunk.path_in_schema.startswith(f"{column}."))
    return chunk.data_page_offset + chunk.total_compressed_size // 2


@pytest.mark.usefixtures("local_ray")
@pytest.mark.parametrize("harm", ["cut", "flipped"])
def test_a_corrupt_prepared_file_ends_the_stage_by_name(
    run: Run, tmp_path: Path, harm: str
) -> None:
    ids = make_catalog(run, NUM_LISTINGS)
    path = Path(run.artifact("catalog/listings").paths()[1])
    content = path.read_bytes()
    harmed = bytearray(content)
    harmed[place_in(path, "images")] ^= 0x55
    path.write_bytes(content[:-40] if harm == "cut" else bytes(harmed))
    script = new_script(tmp_path)
    with pytest.raises(ArtifactError, match="corrupt") as raised:
        sample(run, script)
    assert path.name in str(raised.value)
    assert raised.value.exit_code == EXIT_INPUT
    assert not is_committed(run)
    path.write_bytes(content)
    sample(run, script)
    assert_exact(run, ids)


def test_of_two_drivers_at_once_one_works_and_the_other_waits_for_it(
    run: Run, tmp_path: Path
) -> None:
    ids = make_catalog(run, NUM_LISTINGS)
    script = new_script(tmp_path, seconds=0.05)
    hold = Path(script.diary, "hold")
    hold.touch()
    drivers = [Driver(run, script), Driver(run, script)]
    try:
        wait_until(lambda: any("which makes" in driver.output for driver in drivers))
        wait_until(lambda: bool(script.page("started")))
        hold.unlink()
        codes = [driver.wait() for driver in drivers]
    finally:
        for driver in drivers:
            driver.end()
    assert codes == [0, 0], [driver.output for driver in drivers]
    assert_exact(run, ids)
    assert script.redone() == 0
    assert len(script.page("started")) == 1


def test_a_driver_that_waits_takes_over_from_one_that_is_killed(run: Run, tmp_path: Path) -> None:
    ids = make_catalog(run, NUM_LISTINGS)
    script = new_script(tmp_path, seconds=0.1)
    hold = Path(script.diary, "hold")
    first = Driver(run, script)
    second: list[Driver] = []

    def half_done() -> bool:
        if script.answered and not second:
            hold.touch()
            second.append(Driver(run, script))
        return bool(second) and "which makes" in second[0].output

    try:
        first.kill_when(half_done)
        hold.unlink()
        assert second[0].wait() == 0, second[0].output
    finally:
        first.end()
        for driver in second:
            driver.end()
    assert_exact(run, ids)
    assert script.redone() <= IN_FLIGHT + LISTINGS_PER_CALL


def wait_until(reached: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 200
    while not reached():
        assert time.monotonic() < deadline, "never reached"
        time.sleep(0.05)


@pytest.fixture
def busy_s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Server]:
    """One that is too busy for every third request."""
    server = S3Server(busy_every=3)
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    yield server
    server.close()


def test_a_run_on_a_busy_object_store_comes_out_whole(busy_s3: S3Server, tmp_path: Path) -> None:
    run = Run("s3://bucket/runs/local")
    ids = make_catalog(run, 48)
    script = new_script(tmp_path)
    first = Driver(run, script)
    assert first.wait() == 0, first.output
    assert_exact(run, ids)
    assert busy_s3.answered[503] > 20
    assert script.redone() == 0
    assert sample(run, script).reused
    assert script.redone() == 0
