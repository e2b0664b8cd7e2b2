"""Disks that are full, files that are cut, storage that is busy, and two writers at once."""

import logging
import os
import shutil
import subprocess
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server

from raypipe import config as configuration
from raypipe.errors import EXIT_INPUT, EXIT_RETRY, ArtifactError, StorageError
from raypipe.runtime.cluster import ray_session
from raypipe.schemas import LISTINGS
from raypipe.store.artifacts import Run
from raypipe.store.manifest import COMMIT
from tests.fakes.scripted_engine import (
    CHAINS_OF,
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


@pytest.fixture(scope="module")
def session() -> Iterator[None]:
    with ray_session(configuration.load(None).cluster):
        yield


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


@pytest.mark.usefixtures("session")
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


@pytest.mark.usefixtures("session")
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


@pytest.mark.usefixtures("session")
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


def test_of_two_drivers_at_once_one_commits_and_the_other_says_so(run: Run, tmp_path: Path) -> None:
    ids = make_catalog(run, NUM_LISTINGS)
    scripts = [
        new_script(tmp_path / voice, voice=voice, seconds=0.05) for voice in ("alto", "bass")
    ]
    holds = [Path(script.diary, "hold") for script in scripts]
    for hold in holds:
        hold.touch()
    drivers = [Driver(run, script) for script in scripts]
    try:
        deadline = time.monotonic() + 200
        while not all(script.page("started") for script in scripts):
            assert time.monotonic() < deadline, [driver.output for driver in drivers]
            time.sleep(0.05)
        for hold in holds:
            hold.unlink()
        codes = [driver.wait() for driver in drivers]
    finally:
        for driver in drivers:
            driver.end()
    assert_exact(run, ids)
    said = [driver.output for driver in drivers]
    assert 0 in codes, said
    for code, output in zip(codes, said, strict=True):
        assert code == 0 or (code == EXIT_INPUT and "was committed meanwhile" in output), output


class BusyS3:
    """An S3 server that is too busy for every third request."""

    def __init__(self) -> None:
        self.answered: Counter[int] = Counter()
        self._count = 0
        self._lock = threading.Lock()
        self._s3 = DomainDispatcherApplication(create_backend_app)
        self._server = make_server("127.0.0.1", 0, self._serve, threaded=True)
        logging.getLogger("werkzeug").setLevel(logging.ERROR)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self._server.port}"
        self._s3_request("PUT", "/bucket")

    def _serve(self, request: dict[str, Any], respond: Callable[..., Any]) -> Any:
        with self._lock:
            self._count += 1
            busy = self._count % 3 == 0
            self.answered[503 if busy else 200] += 1
        if not busy:
            return self._s3(request, respond)
        request["wsgi.input"].read(int(request.get("CONTENT_LENGTH") or 0))
        body = b"<Error><Code>SlowDown</Code><Message>Reduce your request rate.</Message></Error>"
        headers = [("Content-Type", "application/xml"), ("Content-Length", str(len(body)))]
        respond("503 Slow Down", headers)
        return [body]

    def _s3_request(self, method: str, path: str) -> None:
        credential = "AWS4-HMAC-SHA256 Credential=test/20260101/us-east-1/s3/aws4_request"
        headers = {"Authorization": credential}
        urllib.request.urlopen(
            urllib.request.Request(self.url + path, method=method, headers=headers)
        )

    @property
    def environment(self) -> dict[str, str]:
        """What points Arrow and obstore at it."""
        return {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_ALLOW_HTTP": "true",
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
            "NO_PROXY": "127.0.0.1",
        }

    def close(self) -> None:
        self._server.shutdown()


@pytest.fixture
def busy_s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[BusyS3]:
    server = BusyS3()
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    yield server
    server.close()


def test_a_run_on_a_busy_object_store_comes_out_whole(busy_s3: BusyS3, tmp_path: Path) -> None:
    run = Run("s3://bucket/runs/local")
    ids = make_catalog(run, 48)
    script = new_script(tmp_path)
    first = Driver(run, script)
    assert first.wait() == 0, first.output
    assert_exact(run, ids)
    assert busy_s3.answered[503] > 20
    assert script.redone() == 0
    again = Driver(run, script)
    assert again.wait() == 0, again.output
    assert script.redone() == 0
