"""The stage on a run directory: rows, metrics, and what it refuses."""

import copy
from typing import Any

import pytest

import raypipe.evaluation.stage as evaluation
from raypipe.attributes.schema import Attribute, AttributeSchema
from raypipe.config import Config, resolve
from raypipe.errors import ArtifactError, ConfigDriftError
from raypipe.rounds.alarm import Measured, collapse, gain_of
from raypipe.schemas import CHAINS, CONSENSUS, EVALUATION, LISTINGS, QUARANTINE, TRUTH
from raypipe.store.artifacts import Run
from raypipe.summaries import Evidence, Metrics, OverpredictedValue

Rows = list[dict[str, Any]]

SCHEMA = AttributeSchema(
    (
        Attribute("Dress", "colour", "The colour.", ("Red", "Blue", "None"), {"Crimson": "Red"}),
        Attribute("Dress", "sleeve", "The sleeve.", ("Long", "Short"), {}),
        Attribute("Shoe", "heel", "The heel.", ("Flat", "High"), {}),
    )
)
# What the greedy chain says, of two eval listings, two anchor listings and one of the pool.
SAID = {
    ("e1", "Dress", "eval"): {"colour": "crimson", "sleeve": "Long"},
    ("e2", "Shoe", "eval"): {"heel": "Wedge"},
    ("a1", "Dress", "anchor"): {"colour": "Blue", "sleeve": "Short"},
    ("a2", "Shoe", "anchor"): {"heel": "Flat"},
    ("p1", "Shoe", "pool"): {"heel": "Flat"},
}
TRUE = {
    "e1": {"colour": "Red", "sleeve": "Short"},
    "e2": {"heel": "Flat"},
    "a1": {"colour": "Red"},  # nobody verified the sleeve
    "a2": {"heel": "Flat"},
}
VOTES = {
    ("a1", "colour"): ("Red", {"Red": 5, "Blue": 2}),
    ("a1", "sleeve"): ("Short", {"Short": 7}),
    ("a2", "heel"): (None, {"Flat": 3, "High": 3}),
    ("p1", "heel"): ("Flat", {"Flat": 7}),
}
CONFIG = resolve({"evaluation": {"num_resamples": 200}})


def said(answer: str) -> dict[str, Any]:
    text = f"<reasoning>so</reasoning><answer>{answer}</answer>"
    return {"text": text, "token_ids": [1], "logprob": -1.0, "finish_reason": "stop"}


def chain_rows() -> Rows:
    rows = []
    for (listing_id, vertical, split), answers in SAID.items():
        queries = []
        for attribute, answer in answers.items():
            greedy = None if split == "pool" else said(answer)
            queries.append({"attribute": attribute, "greedy": greedy, "chains": []})
        rows.append(
            {
                "listing_id": listing_id,
                "vertical": vertical,
                "split": split,
                "policy_id": "p0",
                "queries": queries,
            }
        )
    return rows


def consensus_rows() -> Rows:
    splits = {listing_id: (vertical, split) for listing_id, vertical, split in SAID}
    rows = []
    for (listing_id, attribute), (answer, votes) in VOTES.items():
        vertical, split = splits[listing_id]
        confidence = votes.get(answer, 0) / 7
        rows.append(
            {
                "listing_id": listing_id,
                "vertical": vertical,
                "split": split,
                "attribute": attribute,
                "answer": answer,
                "confidence": confidence,
                "votes": [{"value": value, "count": count} for value, count in votes.items()],
                "num_chains": 7,
                "num_valid": sum(votes.values()),
                "num_truncated": 0,
                "num_pairs": 0,
                "gate": "kept" if confidence > 0.5 else "tie",
                "preferred": [],
            }
        )
    return rows


def commit_all(
    run: Run,
    scope: str = "sft",
    chains: Rows | None = None,
    refused: str = "",
    votes: Rows | None = None,
    truth: dict[str, dict[str, str]] = TRUE,
) -> Run:
    chains = chain_rows() if chains is None else chains
    attempt = run.artifact(f"{scope}/chains", CHAINS).attempt({})
    for row in chains:
        if row["listing_id"] != refused:
            attempt.write(CHAINS.from_rows([row]))
    if refused:
        row = {"id": refused, "stage": "sampling", "reason": "engine_error", "detail": ""}
        attempt.write(QUARANTINE.from_rows([row]), kind="quarantine")
    attempt.commit()
    attempt = run.artifact(f"{scope}/consensus", CONSENSUS).attempt({})
    attempt.write(CONSENSUS.from_rows(consensus_rows() if votes is None else votes))
    attempt.commit()
    if run.artifact("catalog/truth").commit() is None:
        attempt = run.artifact("catalog/truth", TRUTH).attempt({})
        for listing_id, answers in truth.items():
            values = [{"attribute": name, "value": value} for name, value in answers.items()]
            attempt.write(TRUTH.from_rows([{"listing_id": listing_id, "answers": values}]))
        attempt.commit()
        attempt = run.artifact("catalog/listings", LISTINGS).attempt({})
        attempt.write_json("attribute_schema.json", SCHEMA.to_json())
        attempt.commit()
    return run


@pytest.fixture
def run(tmp_path) -> Run:
    return commit_all(Run(str(tmp_path / "run")))


def evaluate(run: Run, config: Config = CONFIG, scope: str = "sft", with_consensus: bool = True):
    return evaluation.run(config, run, scope=scope, with_consensus=with_consensus)


def metrics_of(run: Run):
    return run.artifact("sft/evaluation").read_json("metrics.json")


def test_every_verified_query_is_judged_and_no_other(run):
    evaluate(run)
    rows = run.artifact("sft/evaluation", EVALUATION).read().to_pylist()
    judged = {
        (row["listing_id"], row["attribute"]): (row["answer"], row["reason"], row["correct"])
        for row in rows
    }
    assert judged == {
        ("e1", "colour"): ("Red", "ok", True),
        ("e1", "sleeve"): ("Long", "ok", False),
        ("e2", "heel"): (None, "out_of_schema", False),
        ("a1", "colour"): ("Blue", "ok", False),
        ("a2", "heel"): ("Flat", "ok", True),
    }
    texts = {row["listing_id"]: row["text"] for row in rows}
    assert texts["e2"] == "<reasoning>so</reasoning><answer>Wedge</answer>"


def test_decision_accuracy_counts_an_invalid_answer_as_wrong(run):
    evaluate(run)
    measured = metrics_of(run)["eval"]
    assert measured["accuracy"] == pytest.approx(1 / 3)
    assert measured["invalid"] == pytest.approx(1 / 3)
    assert (measured["queries"], measured["listings"]) == (3, 2)
    assert measured["macro_vertical"] == pytest.approx((1 / 2 + 0) / 2)
    assert measured["macro_attribute"] == pytest.approx((1 + 0 + 0) / 3)
    assert measured["by_vertical"]["Dress"] == {"accuracy": 0.5, "queries": 2}
    assert measured["by_attribute"]["Shoe/heel"] == {"accuracy": 0, "queries": 1}
    low, high = measured["ci95"]
    assert 0 <= low <= measured["accuracy"] <= high <= 1
    assert metrics_of(run)["anchor"]["accuracy"] == 0.5


def test_the_vote_is_measured_on_verified_anchor_queries(run):
    evaluate(run)
    vote = metrics_of(run)["vote"]
    assert vote["queries"] == 2
    assert vote["vote_accuracy"] == 0.5
    assert vote["one_chain_accuracy"] == (5 + 3) / 14
    assert vote["kept"] == 0.5
    assert (vote["consensus_accuracy_kept"], vote["greedy_accuracy_kept"]) == (1, 0)
    assert vote["headroom"] == 1
    assert [entry["votes"] for entry in vote["by_confidence"]] == [0, 5]


def test_collapse_is_measured_on_verified_anchor_queries_alone(run, tmp_path):
    evaluate(run)
    collapse = metrics_of(run)["collapse"]
    assert collapse == {
        "queries": 2,
        "entropy": None,  # one query of each attribute: nothing varies
        "entropy_error": None,
        "confidence": pytest.approx((5 + 0) / 14),
        "unanimity": 0,
        "overpredicted": [
            {
                "attribute": "Dress/colour",
                "value": "Blue",
                "share": 1,
                "truth_share": 0,
                "queries": 1,
            }
        ],
    }
    elsewhere = chain_rows()
    for row in elsewhere:
        if row["split"] == "eval":
            row["queries"] = [query | {"greedy": said("None")} for query in row["queries"]]
    other = commit_all(Run(str(tmp_path / "other")), chains=elsewhere)
    evaluate(other)
    assert metrics_of(other)["collapse"] == collapse


def commit_policy(run: Run, scope: str, answers: list[str], votes: int) -> None:
    """A policy of dresses in red and blue by turns: its greedy colours and the votes for each."""
    blank = {"split": "anchor", "vertical": "Dress"}
    chains, ballots = [], []
    for number, answer in enumerate(answers):
        here = blank | {"listing_id": f"a{number}"}
        query = {"attribute": "colour", "greedy": said(answer), "chains": []}
        chains.append(here | {"policy_id": scope, "queries": [query]})
        ballot = {"answer": answer, "votes": [{"value": answer, "count": votes}]}
        ballots.append(consensus_rows()[0] | here | ballot | {"confidence": votes / 7})
    truth = {
        f"a{number}": {"colour": ("Red", "Blue")[number % 2]} for number in range(len(answers))
    }
    commit_all(run, scope, chains, votes=ballots, truth=truth)
    evaluate(run, scope=scope)


def test_a_policy_that_improves_passes_the_alarm_and_one_that_collapses_does_not(tmp_path):
    run = Run(str(tmp_path / "run"))
    half_right = ["Red", "Blue", "Blue", "Red"] * 10
    commit_policy(run, "sft", half_right, votes=4)
    commit_policy(run, "round-1", ["Red", "Blue"] * 18 + ["Blue", "Red"] * 2, votes=7)
    commit_policy(run, "round-2", ["Blue"] * 39 + ["Red"], votes=7)
    metrics = {
        scope: Metrics.of(run.artifact(f"{scope}/evaluation"))
        for scope in ("sft", "round-1", "round-2")
    }
    measured = {
        scope: Measured(scope, found.anchor.accuracy, found.collapse)
        for scope, found in metrics.items()
    }

    def since_sft(scope: str) -> Evidence | None:
        gain = evaluation.compare(CONFIG, run, before="sft", after=scope, split="anchor")
        assert gain is not None
        return collapse(measured["sft"], measured[scope], gain_of(gain), CONFIG.rounds)

    assert [found.anchor_accuracy for found in measured.values()] == [0.5, 0.9, 0.475]
    assert since_sft("round-1") is None
    evidence = since_sft("round-2")
    assert evidence is not None
    assert evidence.unanimity == (0, 1)
    assert evidence.takeover == OverpredictedValue(
        attribute="Dress/colour", value="Blue", share=39 / 40, truth_share=0.5, queries=40
    )


def test_without_consensus_there_is_no_vote(run):
    commit = evaluate(run, with_consensus=False)
    assert metrics_of(run)["vote"] is None
    assert commit.rows == 5


def test_a_split_without_verified_queries_has_no_figures(tmp_path):
    rows = [row for row in chain_rows() if row["split"] != "anchor"]
    run = commit_all(Run(str(tmp_path / "run")), chains=rows)
    with pytest.raises(ArtifactError, match="2 rows lost"):
        evaluate(run)
    anchors = [row for row in chain_rows() if row["split"] == "anchor"]
    for row in anchors:
        row["split"] = "eval"
    run = commit_all(Run(str(tmp_path / "no anchor")), chains=rows + anchors)
    evaluate(run)
    anchor = metrics_of(run)["anchor"]
    assert (anchor["queries"], anchor["accuracy"], anchor["by_vertical"]) == (0, None, {})
    assert metrics_of(run)["vote"] is None


def test_a_listing_that_sampling_refused_is_counted(tmp_path):
    run = commit_all(Run(str(tmp_path / "run")), refused="e2")
    commit = evaluate(run)
    assert commit.counts == {"queries": 4, "refused_listings": 1}
    assert metrics_of(run)["eval"]["queries"] == 2


def test_a_second_call_finds_the_commit_and_order_does_not_matter(run, tmp_path):
    first = evaluate(run)
    assert evaluate(run).reused
    turned = chain_rows()[::-1]
    other = commit_all(Run(str(tmp_path / "other")), chains=turned)
    assert evaluate(other).digest == first.digest


def test_a_changed_setting_is_refused_by_name(run):
    evaluate(run)
    with pytest.raises(ConfigDriftError, match=r"evaluation\.num_resamples"):
        evaluate(run, resolve({"evaluation": {"num_resamples": 300}}))
    with pytest.raises(ConfigDriftError, match=r"upstream\.consensus"):
        evaluate(run, with_consensus=False)


def test_a_verified_query_without_its_chain_is_refused(tmp_path):
    without = copy.deepcopy(chain_rows())
    without[0]["queries"][0]["greedy"] = None
    with pytest.raises(ArtifactError, match="e1/colour has no greedy chain"):
        evaluate(commit_all(Run(str(tmp_path / "run")), chains=without))


def test_two_policies_are_compared_on_the_same_eval_queries(run):
    better = chain_rows()
    better[1]["queries"][0]["greedy"]["text"] = "<reasoning>.</reasoning><answer>flat</answer>"
    commit_all(run, scope="round-1", chains=better)
    evaluate(run)
    evaluate(run, scope="round-1")
    found = evaluation.compare(CONFIG, run, before="sft", after="round-1")
    assert found is not None
    assert found.difference == pytest.approx(1 / 3)
    assert (found.start, found.to, found.queries) == ("sft", "round-1", 3)
    assert found.ci95[0] <= found.difference <= found.ci95[1]
