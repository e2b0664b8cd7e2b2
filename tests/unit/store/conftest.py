"""A run in an object store, on this machine."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from raypipe.store.artifacts import Run
from tests.fakes.s3_server import S3Server


@pytest.fixture(scope="package")
def server() -> Iterator[S3Server]:
    started = S3Server()
    yield started
    started.close()


@pytest.fixture
def remote_run(server: S3Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    return Run(f"s3://bucket/{tmp_path.name}")
