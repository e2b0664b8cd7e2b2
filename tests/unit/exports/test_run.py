"""One call exports whatever a run has by now."""

import json
from pathlib import Path

import pytest

from raypipe.attributes.schema import Attribute, AttributeSchema
from raypipe.cli.jobs import main
from raypipe.config import load
from raypipe.exports.run import export_run
from raypipe.schemas import CHAINS, CONSENSUS, LISTINGS, PAIRS
from raypipe.store.artifacts import Run
from raypipe.store.runs import open_run
from tests.conftest import CommitRows, MakeListing, Row
from tests.fakes.adapters import adapted_run, nano_config


def chains_of(listing: Row) -> Row:
    chain = {"text": "Red", "token_ids": [1], "logprob": -1.0, "finish_reason": "stop"}
    queries = [
        {"attribute": query["attribute"], "greedy": None, "chains": [chain, chain]}
        for query in listing["queries"]
    ]
    kept = {name: listing[name] for name in ("listing_id", "vertical", "split")}
    return kept | {"policy_id": "p", "queries": queries}


def pairs_of(listing: Row) -> Row:
    pair = {"chosen": "Red", "rejected": "Blue", "chosen_index": 0, "rejected_index": 1}
    query = {"attribute": "colour", "prompt": "colour?", "margin": 0.5, "pairs": [pair]}
    return {"listing_id": listing["listing_id"], **query}


@pytest.fixture
def sampled(tmp_path: Path, make_listing: MakeListing, commit_rows: CommitRows) -> Run:
    """A run whose SFT policy has been sampled and voted on, and no more."""
    where = [f"run.directory={tmp_path}/runs", "run.name=sampled"]
    run = open_run(load(None, where))
    attribute = Attribute("Shoe", "colour", "The colour.", ("Red", "Blue"), {})
    listing = make_listing("a", "pool", ["colour"])
    schema = json.dumps(AttributeSchema((attribute,)).to_json()).encode()
    commit_rows(
        run, "catalog/listings", LISTINGS, [listing], files={"attribute_schema.json": schema}
    )
    attempt = run.artifact("sft/chains", CHAINS).attempt({"model.answer_format": "reasoning"})
    attempt.write(CHAINS.from_rows([chains_of(listing)]))
    attempt.commit()
    commit_rows(run, "sft/pairs", PAIRS, [pairs_of(listing)])
    commit_rows(run, "sft/consensus", CONSENSUS)
    return run


def exported(run: Run) -> dict[str, str]:
    root = Path(run.path("exports"))
    return {what: str(path.relative_to(root)) for what, path in export_run(nano_config(), run)}


def test_an_unfinished_run_gives_what_it_has(sampled: Run) -> None:
    assert exported(sampled) == {
        "pairs of sft": "sft/preferences.parquet",
        "chains of sft": "sft/chains.parquet",
    }


def test_an_adapter_is_exported_with_its_card(tmp_path: Path) -> None:
    run = adapted_run(tmp_path / "shoes")
    assert exported(run) == {"adapter of round-1": "adapters/round-1"}
    assert Path(run.path("exports", "adapters", "round-1", "README.md")).is_file()


def test_a_scope_without_pairs_has_no_pairs_to_export(
    sampled: Run, commit_rows: CommitRows
) -> None:
    commit_rows(sampled, "pretrained/chains", CHAINS)
    commit_rows(sampled, "pretrained/pairs", PAIRS)
    assert [what for what in exported(sampled) if "pretrained" in what] == ["chains of pretrained"]


def test_the_job_names_every_file(sampled: Run, capsys: pytest.CaptureFixture[str]) -> None:
    where = ["run.name=sampled", f"run.directory={Path(sampled.root).parent}"]
    assert main("export", None, where) == 0
    shown = capsys.readouterr().out
    assert "pairs of sft" in shown
    assert "chains of sft" in shown


def test_a_run_that_has_nothing_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    where = ["run.name=new", f"run.directory={tmp_path}"]
    open_run(load(None, where))
    assert main("export", None, where) == 3
    assert "nothing to export yet" in capsys.readouterr().err


@pytest.mark.parametrize(
    "key", ["model.answer_format=answer_only", "lora.alpha=16", "catalog.image_size=56"]
)
def test_a_run_that_was_made_with_other_settings_exports_nothing(
    sampled: Run, tmp_path: Path, key: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run = sampled if key.startswith("model") else adapted_run(tmp_path / "runs" / "shoes")
    where = [f"run.name={Path(run.root).name}", f"run.directory={tmp_path}/runs"]
    assert main("export", None, [*where, "catalog.image_size=224", key]) == 2
    shown = capsys.readouterr()
    assert "ConfigDriftError" in shown.err
    assert key.partition("=")[0] in shown.err
    assert not Path(run.path("exports")).exists()


@pytest.mark.parametrize("job", ["export", "merge", "report", "review"])
def test_a_mistyped_run_is_told_and_not_made(
    sampled: Run, tmp_path: Path, job: str, capsys: pytest.CaptureFixture[str]
) -> None:
    target = ["--target", str(tmp_path / "served")] if job == "merge" else []
    where = ["run.name=smapled", f"run.directory={tmp_path}/runs"]
    assert main(job, None, [*target, *where]) == 3
    said = capsys.readouterr().err
    assert f"there is no run at {tmp_path}/runs/smapled; runs in {tmp_path}/runs: sampled" in said
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["sampled"]
