"""Which label version a request belongs to, and what it takes over."""

import pyarrow as pa

from raypipe.labeling.label_versions import label_versions, open_label_version, unchanged
from raypipe.schemas import LABELS
from raypipe.store.artifacts import Run
from tests.conftest import CommitRows
from tests.fakes.label_rows import label

REQUEST = {"recipe": "abc", "precision": 0.9, "files": [["a.parquet", 1]]}


def finish(run: Run, scope: str, commit_rows: CommitRows) -> None:
    rows = [label("a", "k1"), label("a", "k1", "heel"), label("b", "k2")]
    commit_rows(run, f"{scope}/labels", LABELS, rows)


def test_the_same_request_is_the_same_generation_finished_or_not(
    run: Run, commit_rows: CommitRows
) -> None:
    assert open_label_version(run, REQUEST).scope == "labels/000001"
    assert open_label_version(run, REQUEST).scope == "labels/000001"
    finish(run, "labels/000001", commit_rows)
    again = open_label_version(run, REQUEST)
    assert (again.scope, again.previous) == ("labels/000001", None)


def test_another_request_is_the_next_generation_and_knows_the_last_finished_one(
    run: Run, commit_rows: CommitRows
) -> None:
    open_label_version(run, REQUEST)
    finish(run, "labels/000001", commit_rows)
    second = open_label_version(run, REQUEST | {"precision": 0.8})
    third = open_label_version(run, REQUEST | {"precision": 0.7})
    assert (second.scope, third.scope) == ("labels/000002", "labels/000003")
    for label_version in (second, third):
        assert label_version.previous is not None
        assert label_version.previous.name == "labels/000001/labels"
    assert label_versions(run) == ["labels/000001", "labels/000002", "labels/000003"]


def test_other_directories_are_no_generations(run: Run) -> None:
    run.create("labels/0a1b2c3d4e5f/calibration_run/x", b"")
    assert label_versions(run) == []
    assert open_label_version(run, REQUEST).scope == "labels/000001"


def test_unchanged_are_the_listings_with_the_same_key(run: Run, commit_rows: CommitRows) -> None:
    finish(run, "labels/000001", commit_rows)
    previous = run.artifact("labels/000001/labels", LABELS)
    keys = pa.table({"listing_id": ["a", "b", "c"], "label_key": ["k1", "other", "k3"]})
    assert unchanged(previous, keys).to_pylist() == ["a"]
    assert unchanged(None, keys).to_pylist() == []
