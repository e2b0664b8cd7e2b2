"""SIGKILL of a call that publishes labels: between its commits and inside them, on disk and S3."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fakes.s3_server import S3Server
from tests.fakes.sink_process import LISTINGS_PER_PART, NUM_PARTS, SinkProcess, counts, publish
from tests.fakes.table_formats import Lake

NUM_LABELS = 2 * LISTINGS_PER_PART * NUM_PARTS
# Seconds after a part is read: a commit takes some hundredths.
WAITS_S = (0.0, 0.04)


@pytest.fixture(scope="module")
def server() -> Iterator[S3Server]:
    started = S3Server()
    yield started
    started.close()


@pytest.mark.parametrize("store", ["disk", "s3"])
@pytest.mark.parametrize("kind", ["delta", "iceberg"])
def test_killed_again_and_again_the_same_call_publishes_every_label_once(
    kind: str, store: str, server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if store == "s3":
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
    lake = Lake(kind, tmp_path / "lake", f"s3://bucket/{tmp_path.name}" if store == "s3" else "")
    publish(lake, "Red")
    for wait_s in WAITS_S:
        assert SinkProcess(lake, "Blue").kill_after(1, wait_s) == -9
    assert SinkProcess(lake, "Blue").kill_after(2, WAITS_S[1]) == -9
    before = counts(lake)
    assert before.total() == NUM_LABELS
    assert before.keys() <= {"Red", "Blue"}
    assert publish(lake, "Blue").parts_written > 0
    assert counts(lake) == {"Blue": NUM_LABELS}
    assert publish(lake, "Blue").parts_written == 0
