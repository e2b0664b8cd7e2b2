"""Artifacts of a run in an object store: how many requests, and in which order."""

from typing import Any

import pyarrow.fs as pafs
import pytest

from raypipe.errors import ArtifactError
from raypipe.schemas import QUARANTINE
from raypipe.store.artifacts import Attempt, Run
from raypipe.store.manifest import Commit
from tests.fakes.s3_server import S3Server

NUM_FILES = 30


def attempt_with_files(run: Run) -> Attempt:
    attempt = run.artifact("some/rows", QUARANTINE).attempt({})
    for number in range(NUM_FILES):
        row: dict[str, Any] = {name: f"{name} {number}" for name in QUARANTINE.schema.names}
        attempt.write(QUARANTINE.from_rows([row]))
    return attempt


def committed(run: Run) -> Commit:
    return attempt_with_files(run).commit()


def test_a_commit_lists_its_files_and_asks_for_none_by_itself(
    remote_run: Run, server: S3Server
) -> None:
    attempt = attempt_with_files(remote_run)
    before = server.answered.total()
    attempt.commit()
    assert server.answered.total() - before < NUM_FILES // 2


def test_files_are_read_ahead_in_their_order(remote_run: Run) -> None:
    committed(remote_run)
    artifact = remote_run.artifact("some/rows", QUARANTINE)
    read = [table.column("id").to_pylist() for table in artifact.read_files(["id"])]
    assert read == [[f"id {number}"] for number in range(NUM_FILES)]


def test_a_file_that_is_missing_is_named_when_its_turn_comes(remote_run: Run) -> None:
    missing = committed(remote_run).files[20].path
    remote_run.filesystem.delete_file(remote_run.path("some/rows", missing))
    tables = remote_run.artifact("some/rows", QUARANTINE).read_files()
    for _ in range(20):
        next(tables)
    with pytest.raises(ArtifactError, match=missing):
        next(tables)


def test_a_reader_may_stop_early(remote_run: Run) -> None:
    committed(remote_run)
    tables = remote_run.artifact("some/rows", QUARANTINE).read_files()
    assert len(next(tables)) == 1
    tables.close()


@pytest.mark.parametrize("harm", ["gone", "shorter"])
def test_a_file_that_changed_before_the_commit_is_refused(remote_run: Run, harm: str) -> None:
    attempt = attempt_with_files(remote_run)
    (lost, *_) = attempt.artifact.run.look(pafs.FileSelector(attempt.directory()))
    place = lost.path
    if harm == "gone":
        remote_run.filesystem.delete_file(place)
    else:
        with remote_run.filesystem.open_output_stream(place) as stream:
            stream.write(b"x")
    with pytest.raises(ArtifactError, match="is missing or corrupt"):
        attempt.commit()
