"""A storage that is away is worth another try, one that forbids is not, a corrupt file neither."""

import errno
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq
import pytest

from raypipe import storage
from raypipe.attributes.schema import load_attribute_schema
from raypipe.catalog import snapshots
from raypipe.catalog.sources import SPLITS_COLUMNS, open_source
from raypipe.cli.main import main
from raypipe.doctor.storage import check_storage
from raypipe.errors import EXIT_CONFIG, EXIT_RETRY, InputError, StorageDeniedError, StorageError
from raypipe.runtime import stream
from raypipe.schemas import SEED
from raypipe.store.artifacts import Run
from raypipe.store.manifest import File
from tests.fakes.flaky_store import FlakyStore, environment

FILE = File("data/a.parquet", "data", 100, "0" * 64, 1)
HEAD = "When reading information for key 'a' in bucket 'b': AWS Error {} during HeadObject: No"
LIST = "Kernel error -> Generic S3 error\n  \x1b[31m↳\x1b[0m Error performing GET http://x in 4s"


def point_at(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    for name, value in environment(url).items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def _no_server(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that is gone, for an Arrow that asks once: it would try again for six seconds."""

    def from_uri(uri: str) -> tuple[pafs.FileSystem, str]:
        once = pafs.AwsDefaultS3RetryStrategy(max_attempts=1)
        return pafs.S3FileSystem(retry_strategy=once), uri.removeprefix("s3://")

    point_at(monkeypatch, "http://127.0.0.1:9")
    monkeypatch.setattr(pafs, "FileSystem", SimpleNamespace(from_uri=from_uri))


@pytest.fixture
def forbidding(monkeypatch: pytest.MonkeyPatch) -> Iterator[FlakyStore]:
    with FlakyStore(403) as store:
        point_at(monkeypatch, store.url)
        yield store


@pytest.mark.parametrize(
    ("error", "exit_code"),
    [
        (OSError(HEAD.format("NETWORK_CONNECTION")), EXIT_RETRY),
        (OSError(HEAD.format("UNKNOWN (HTTP status 503)")), EXIT_RETRY),
        (OSError(HEAD.format("SLOW_DOWN")), EXIT_RETRY),
        (OSError(HEAD.format("ACCESS_DENIED")), EXIT_CONFIG),
        (OSError(HEAD.format("UNKNOWN (HTTP status 400)")), EXIT_CONFIG),
        (OSError("google::cloud::Status(UNAVAILABLE: try again)"), EXIT_RETRY),
        (OSError("google::cloud::Status(PERMISSION_DENIED: no)"), EXIT_CONFIG),
        (OSError(LIST), EXIT_RETRY),
        (
            ValueError("LanceError(IO): Generic S3 error: code: 403 Forbidden: x"),
            EXIT_CONFIG,
        ),
        (OSError(errno.EIO, "Input/output error"), EXIT_RETRY),
        (OSError(errno.ENOSPC, "No space left on device"), EXIT_RETRY),
        (PermissionError(errno.EACCES, "Permission denied"), EXIT_CONFIG),
        (OSError(errno.EROFS, "Read-only file system"), EXIT_CONFIG),
    ],
)
def test_what_a_storage_says_is_told_apart_by_whether_waiting_helps(
    error: Exception, exit_code: int
) -> None:
    assert storage.is_at_fault(error)
    found = storage.unreadable("s3://b/a", error, InputError("corrupt"))
    assert isinstance(found, StorageError)
    assert found.exit_code == exit_code
    assert str(found).startswith("cannot read s3://b/a: ")
    assert "\n" not in str(found)
    assert "\x1b" not in str(found)


@pytest.mark.parametrize(
    "error",
    [
        OSError("could not verify page integrity, CRC checksum verification failed"),
        OSError("Tried reading 8 bytes starting at position 4 from file but only got 2"),
        pa.ArrowInvalid("Parquet magic bytes not found in footer"),
        FileNotFoundError(errno.ENOENT, "No such file or directory"),
        ValueError("Generic LocalFileSystem error: no such table"),
    ],
)
def test_what_is_wrong_with_a_file_is_no_fault_of_its_storage(error: Exception) -> None:
    corrupt = InputError("corrupt")
    assert storage.unreadable("a", error, corrupt) is corrupt


@pytest.mark.usefixtures("_no_server")
def test_a_run_on_a_server_that_is_gone_is_worth_another_try(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["status", "s3://bucket/run"]) == 4
    said = capsys.readouterr().err
    assert said.startswith("StorageError: cannot read bucket/run/run.json: ")
    assert "error sending request" in said
    found = check_storage("s3://bucket/runs")
    assert (found.verdict, found.exit_code) == ("fail", EXIT_RETRY)


@pytest.mark.usefixtures("_no_server")
def test_a_catalog_on_a_server_that_is_gone_is_worth_another_try() -> None:
    with pytest.raises(StorageError, match="NETWORK_CONNECTION") as raised:
        open_source("s3://bucket/listings", SPLITS_COLUMNS)
    assert raised.value.exit_code == EXIT_RETRY


@pytest.mark.usefixtures("forbidding")
@pytest.mark.parametrize(
    "ask",
    [
        lambda: Run("s3://bucket/run").read("run.json"),
        lambda: Run("s3://bucket/run").create("run.json", b"{}"),
        lambda: Run("s3://bucket/run").replace("run.json", b"{}"),
        lambda: Run("s3://bucket/run").look(pafs.FileSelector("bucket/run")),
        lambda: Run("s3://bucket/run").artifact("a/b", SEED).commit(),
        lambda: Run("s3://bucket/run").artifact("a/b", SEED).rows_of(FILE),
        lambda: Run("s3://bucket/run").artifact("a/b", SEED).attempt({}).leftovers(),
        lambda: Run("s3://bucket/run").artifact("a/b", SEED).attempt({}).write_file("a", b""),
        lambda: Run("s3://bucket/run").artifact("a/b", SEED).attempt({}).inspect("b/a", "data"),
        lambda: open_source("s3://bucket/listings", SPLITS_COLUMNS),
        lambda: load_attribute_schema("s3://bucket/schema.yaml"),
    ],
)
def test_what_is_forbidden_is_not_worth_another_try(ask: Callable[[], object]) -> None:
    with pytest.raises(StorageDeniedError, match="rights") as raised:
        ask()
    assert raised.value.exit_code == EXIT_CONFIG


@pytest.mark.usefixtures("forbidding")
def test_the_doctor_and_the_command_line_exit_2_on_what_is_forbidden() -> None:
    found = check_storage("s3://bucket/runs")
    assert (found.verdict, found.exit_code) == ("fail", EXIT_CONFIG)
    assert "rights" in found.fix
    assert main(["status", "s3://bucket/run"]) == EXIT_CONFIG


def test_a_bucket_that_is_not_there_is_not_worth_another_try(forbidding: FlakyStore) -> None:
    forbidding.status = 404
    assert Run("s3://bucket/run").read("run.json") is None
    with pytest.raises(StorageDeniedError, match="NoSuchBucket"):
        Run("s3://bucket/run").create("run.json", b"{}")


@pytest.mark.parametrize(
    ("kind", "module", "status", "exit_code"),
    [
        ("delta", "deltalake", 403, EXIT_CONFIG),
        ("delta", "deltalake", 503, EXIT_RETRY),
        ("lance", "lance", 403, EXIT_CONFIG),
        ("iceberg", "pyiceberg", 403, EXIT_CONFIG),
        ("iceberg", "pyiceberg", 503, EXIT_RETRY),
    ],
)
def test_a_table_is_told_apart_as_a_file_is(
    forbidding: FlakyStore, kind: str, module: str, status: int, exit_code: int
) -> None:
    pytest.importorskip(module)
    forbidding.status = status
    place = "shop.listings" if kind == "iceberg" else "s3://bucket/table"
    location = snapshots.parse_location(f"{kind}:{place}")
    assert location is not None
    with pytest.raises(StorageError) as raised:
        snapshots.resolve_snapshot(location, {"type": "rest", "uri": forbidding.url})
    assert raised.value.exit_code == exit_code
    assert str(location) in str(raised.value)
    assert ".rs:" not in str(raised.value)


def test_a_corrupt_file_stays_a_fault_of_the_input(tmp_path: Path) -> None:
    path = tmp_path / "listings.parquet"
    ids = [f"listing {number}" for number in range(2000)]
    pq.write_table(pa.table({"listing_id": ids, "split": ids}), path, write_page_checksum=True)
    content = bytearray(path.read_bytes())
    content[200] ^= 0x55
    path.write_bytes(bytes(content))
    with pytest.raises(InputError, match=r"listings\.parquet is truncated or corrupt"):
        list(open_source(str(path), SPLITS_COLUMNS).rows())


def test_a_task_that_met_a_storage_out_of_reach_says_so() -> None:
    trace = 'ray::Map(_rows)() (pid=3)\n  File "a.py", line 3\nOSError: '
    found = stream.unwrap_ray_error(RuntimeError(trace + HEAD.format("NETWORK_CONNECTION")))
    assert isinstance(found, StorageError)
    assert found.exit_code == EXIT_RETRY
    assert "pid=3" not in str(found)
    assert "NETWORK_CONNECTION" in str(found)
    bug = RuntimeError(f"{trace}no such thing")
    assert stream.unwrap_ray_error(bug) is bug


def test_nothing_is_made_before_something_is_written(tmp_path: Path) -> None:
    run = Run(f"file://{tmp_path}/runs/mine")
    assert run.read("run.json") is None
    assert run.artifact("a/b").commit() is None
    assert check_storage(f"file://{tmp_path}/runs").verdict == "ok"
    assert list(tmp_path.iterdir()) == []
    assert run.create("run.json", b"{}")
    assert (tmp_path / "runs" / "mine" / "run.json").is_file()
