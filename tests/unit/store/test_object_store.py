"""Artifacts of a run in an object store: how many requests, and in which order."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.fs as pafs
import pytest

from raypipe.errors import ArtifactError
from raypipe.schemas import QUARANTINE
from raypipe.store.artifacts import Attempt, Run
from raypipe.store.manifest import Commit
from tests.fakes.s3_server import S3Server

NUM_FILES = 30


@pytest.fixture(scope="module")
def server() -> Iterator[S3Server]:
    started = S3Server()
    yield started
    started.close()


@pytest.fixture
def remote(server: S3Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    return Run(f"s3://bucket/{tmp_path.name}")


def attempt_with_files(run: Run) -> Attempt:
    attempt = run.artifact("some/rows", QUARANTINE).attempt({})
    for number in range(NUM_FILES):
        row: dict[str, Any] = {name: f"{name} {number}" for name in QUARANTINE.schema.names}
        attempt.write(QUARANTINE.from_rows([row]))
    return attempt


def committed(run: Run) -> Commit:
    return attempt_with_files(run).commit()


def test_a_commit_lists_its_files_and_asks_for_none_by_itself(
    remote: Run, server: S3Server
) -> None:
    attempt = attempt_with_files(remote)
    before = server.answered.total()
    attempt.commit()
    assert server.answered.total() - before < NUM_FILES // 2


def test_files_are_read_ahead_in_their_order(remote: Run) -> None:
    committed(remote)
    artifact = remote.artifact("some/rows", QUARANTINE)
    read = [table.column("id").to_pylist() for table in artifact.read_files(["id"])]
    assert read == [[f"id {number}"] for number in range(NUM_FILES)]


def test_a_file_that_is_missing_is_named_when_its_turn_comes(remote: Run) -> None:
    missing = committed(remote).files[20].path
    remote.filesystem.delete_file(remote.path("some/rows", missing))
    tables = remote.artifact("some/rows", QUARANTINE).read_files()
    for _ in range(20):
        next(tables)
    with pytest.raises(ArtifactError, match=missing):
        next(tables)


def test_a_reader_may_stop_early(remote: Run) -> None:
    committed(remote)
    tables = remote.artifact("some/rows", QUARANTINE).read_files()
    assert len(next(tables)) == 1
    tables.close()


@pytest.mark.parametrize("harm", ["gone", "shorter"])
def test_a_file_that_changed_before_the_commit_is_refused(remote: Run, harm: str) -> None:
    attempt = attempt_with_files(remote)
    (lost, *_) = attempt.artifact.run.look(pafs.FileSelector(attempt.directory()))
    place = lost.path
    if harm == "gone":
        remote.filesystem.delete_file(place)
    else:
        with remote.filesystem.open_output_stream(place) as stream:
            stream.write(b"x")
    with pytest.raises(ArtifactError, match="is missing or corrupt"):
        attempt.commit()
