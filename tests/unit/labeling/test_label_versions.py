"""Which label version a request belongs to, and what it takes over."""

import pytest

from raypipe.errors import ArtifactError
from raypipe.labeling.label_versions import (
    label_versions,
    newest_published,
    open_label_version,
    set_decision,
)
from raypipe.schemas import LABELS
from raypipe.store.artifacts import Run
from tests.conftest import CommitRows
from tests.fakes.label_rows import DIGEST, decide, label, rule

REQUEST = {"recipe": "abc", "mode": "vote", "files": [["a.parquet", 1]]}


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
    second = open_label_version(run, REQUEST | {"mode": "greedy"})
    third = open_label_version(run, REQUEST | {"recipe": "other"})
    assert (second.scope, third.scope) == ("labels/000002", "labels/000003")
    for label_version in (second, third):
        assert label_version.previous is not None
        assert label_version.previous.name == "labels/000001/labels"
    assert label_versions(run) == ["labels/000001", "labels/000002", "labels/000003"]


def test_other_directories_are_no_generations(run: Run) -> None:
    run.create("labels/0a1b2c3d4e5f/calibration_run/x", b"")
    assert label_versions(run) == []
    assert open_label_version(run, REQUEST).scope == "labels/000001"


def test_labels_are_published_by_the_current_decision_of_the_newest_version_that_has_one(
    run: Run, commit_rows: CommitRows
) -> None:
    assert newest_published(run) is None
    for number in (1, 2, 3):
        finish(run, f"labels/00000{number}", commit_rows)
    assert newest_published(run) is None
    for number, threshold in ((1, 0.5), (2, 0.75)):
        decide(run, commit_rows, f"labels/00000{number}", rule(threshold))
    found = newest_published(run)
    assert found is not None
    assert (found[0].name, found[1].threshold) == ("labels/000002/labels", 0.75)


def test_a_decision_is_set_once(run: Run) -> None:
    assert set_decision(run, "labels/000001", DIGEST)
    assert not set_decision(run, "labels/000001", DIGEST)
    assert set_decision(run, "labels/000001", DIGEST[::-1])


@pytest.mark.parametrize("content", [b"", b"[]", b'{"digest": "../../other"}', b'{"digest": 3}'])
def test_a_broken_decision_is_one_error_that_says_what_to_do(run: Run, content: bytes) -> None:
    run.create("labels/000001/labels/x", b"")
    run.replace("labels/000001/decision.json", content)
    with pytest.raises(ArtifactError, match=r"decision\.json .*jobs/label\.py writes it again"):
        newest_published(run)
