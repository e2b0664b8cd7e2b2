"""The chains as others open them."""

import io
from pathlib import Path
from typing import Any

import pytest
from datasets import Image, List, Value, load_dataset
from PIL import Image as Pictures

import raypipe.consensus.stage as consensus
from raypipe.attributes import parser
from raypipe.config import resolve
from raypipe.errors import ArtifactError
from raypipe.exports.chains import export_chains
from raypipe.schemas import CONSENSUS
from raypipe.store.artifacts import Run
from tests.fakes.voted_run import SCHEMA, MakeRun, Rows

CONFIG = resolve({})


def opened(path: Path, cache: Path) -> Any:
    return load_dataset("parquet", data_files=str(path), split="train", cache_dir=str(cache))


@pytest.fixture
def voted(make_run: MakeRun) -> Run:
    """Chains in another order than the listings, and in other files."""
    run = make_run("run", per_file=3)
    consensus.run(CONFIG, run, scope="sft", round_index=1)
    return run


@pytest.fixture
def exported(voted: Run, tmp_path: Path) -> Any:
    return opened(export_chains(CONFIG, voted, "sft", tmp_path / "export"), tmp_path / "cache")


def test_load_dataset_finds_the_columns_and_a_row_for_every_query(
    exported: Any, chain_rows: Rows
) -> None:
    assert exported.features["images"] == List(Image())
    assert exported.features["chains"].feature["reason"] == Value("string")
    found = [(row["listing_id"], row["attribute"]) for row in exported.remove_columns("images")]
    wanted = [
        (row["listing_id"], query["attribute"]) for row in chain_rows for query in row["queries"]
    ]
    assert sorted(found) == sorted(wanted)


def test_a_row_has_what_was_asked_and_what_every_chain_said(
    exported: Any, chain_rows: Rows, listing_rows: Rows
) -> None:
    listings = {row["listing_id"]: row for row in listing_rows}
    said = {
        (row["listing_id"], query["attribute"]): query
        for row in chain_rows
        for query in row["queries"]
    }
    for row in exported:
        key = row["listing_id"], row["attribute"]
        listing = listings[row["listing_id"]]
        pictures = [Pictures.open(io.BytesIO(part)) for part in listing["images"]]
        assert [image.tobytes() for image in row["images"]] == [p.tobytes() for p in pictures]
        (query,) = [query for query in listing["queries"] if query["attribute"] == key[1]]
        assert row["prompt"][1] == {"role": "user", "content": query["prompt"]}
        assert row["options"] == query["options"]
        assert [chain["text"] for chain in row["chains"]] == [
            chain["text"] for chain in said[key]["chains"]
        ]
        attribute = SCHEMA.get(row["vertical"], row["attribute"])
        for chain in row["chains"]:
            parsed = parser.parse(chain["text"], chain["finish_reason"], attribute, "reasoning")
            assert (chain["answer"], chain["reason"]) == (parsed.value, parsed.reason)
            assert (chain["logprob"], chain["num_tokens"]) == (-1.0, 2)
        assert (row["greedy"] is None or row["greedy"]["text"] is None) == (
            said[key]["greedy"] is None
        )


def test_votes_are_those_of_the_consensus_and_absent_without_one(exported: Any, voted: Run) -> None:
    votes = {
        (row["listing_id"], row["attribute"]): row
        for row in voted.artifact("sft/consensus", CONSENSUS).read().to_pylist()
    }
    rows = exported.remove_columns("images").to_list()
    assert {row["split"] for row in rows if row["gate"] is None} == {"eval"}
    for row in rows:
        vote = votes.get((row["listing_id"], row["attribute"]))
        if vote is not None:
            assert row["consensus"] == vote["answer"]
            assert (row["confidence"], row["gate"]) == (vote["confidence"], vote["gate"])
            assert row["votes"] == vote["votes"]
    assert len(votes) == sum(row["gate"] is not None for row in rows) > 0


def test_chains_that_nobody_voted_on_are_exported_too(make_run: MakeRun, tmp_path: Path) -> None:
    path = export_chains(CONFIG, make_run("run"), "sft", tmp_path / "export")
    rows = opened(path, tmp_path / "cache").remove_columns("images").to_list()
    assert {row["gate"] for row in rows} == {None}
    assert any(row["chains"] for row in rows)


def test_a_refused_listing_is_not_in_it(make_run: MakeRun, tmp_path: Path) -> None:
    path = export_chains(CONFIG, make_run("run", refused=["l03"]), "sft", tmp_path / "export")
    names = opened(path, tmp_path / "cache")["listing_id"]
    assert "l03" not in names
    assert "l04" in names


def test_chains_that_are_not_committed_are_refused(make_run: MakeRun, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="round-1/chains is not committed"):
        export_chains(CONFIG, make_run("run"), "round-1", tmp_path / "export")
