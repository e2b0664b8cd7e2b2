"""Which generation a request belongs to, and what it takes over."""

import pyarrow as pa

from raypipe.artifacts import Run
from raypipe.labeling.generations import generations, open_generation, unchanged
from raypipe.schemas import LABELS
from tests.conftest import CommitRows, Row

REQUEST = {"law": "abc", "precision": 0.9, "files": [["a.parquet", 1]]}


def label(listing_id: str, key: str, attribute: str = "colour") -> Row:
    return {
        "listing_id": listing_id,
        "vertical": "Shoe",
        "split": "pool",
        "attribute": attribute,
        "value": "Red",
        "outcome": "published",
        "answer": "Red",
        "confidence": 1.0,
        "probability": 0.9,
        "votes": [{"value": "Red", "count": 7}],
        "num_chains": 7,
        "num_valid": 7,
        "reasoning": "It is red.",
        "seller_value": None,
        "seller_conflict": None,
        "policy_id": "p",
        "template": "t",
        "schema_version": "s",
        "label_key": key,
        "versions": "torch 1.0",
    }


def finish(run: Run, scope: str, commit_rows: CommitRows) -> None:
    rows = [label("a", "k1"), label("a", "k1", "heel"), label("b", "k2")]
    commit_rows(run, f"{scope}/labels", LABELS, rows)


def test_the_same_request_is_the_same_generation_finished_or_not(
    run: Run, commit_rows: CommitRows
) -> None:
    assert open_generation(run, REQUEST).scope == "labels/000001"
    assert open_generation(run, REQUEST).scope == "labels/000001"
    finish(run, "labels/000001", commit_rows)
    again = open_generation(run, REQUEST)
    assert (again.scope, again.previous) == ("labels/000001", None)


def test_another_request_is_the_next_generation_and_knows_the_last_finished_one(
    run: Run, commit_rows: CommitRows
) -> None:
    open_generation(run, REQUEST)
    finish(run, "labels/000001", commit_rows)
    second = open_generation(run, REQUEST | {"precision": 0.8})
    third = open_generation(run, REQUEST | {"precision": 0.7})
    assert (second.scope, third.scope) == ("labels/000002", "labels/000003")
    for generation in (second, third):
        assert generation.previous is not None
        assert generation.previous.name == "labels/000001/labels"
    assert generations(run) == ["labels/000001", "labels/000002", "labels/000003"]


def test_other_directories_are_no_generations(run: Run) -> None:
    run.create("labels/0a1b2c3d4e5f/trial/x", b"")
    assert generations(run) == []
    assert open_generation(run, REQUEST).scope == "labels/000001"


def test_unchanged_are_the_listings_with_the_same_key(run: Run, commit_rows: CommitRows) -> None:
    finish(run, "labels/000001", commit_rows)
    previous = run.artifact("labels/000001/labels", LABELS)
    keys = pa.table({"listing_id": ["a", "b", "c"], "label_key": ["k1", "other", "k3"]})
    assert unchanged(previous, keys).to_pylist() == ["a"]
    assert unchanged(None, keys).to_pylist() == []
