"""Greedy chains against verified values (paper §4). The only reader of the truth."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from raypipe import answers, seeds
from raypipe.artifacts import Artifact, Run
from raypipe.attributes import AttributeSchema
from raypipe.config import Config
from raypipe.errors import ArtifactError
from raypipe.evaluation.accuracy import QueryId, by_group, estimate, macro, paired_difference
from raypipe.evaluation.calibration import VotedQuery, vote_metrics
from raypipe.manifest import Commit, versions
from raypipe.prompts import AnswerFormat
from raypipe.schemas import CHAINS, CONSENSUS, EVALUATION, LISTINGS, TRUTH

METRICS = "metrics.json"
VERIFIED_SPLITS = ("eval", "anchor")

Row = dict[str, Any]


def run(
    config: Config, run: Run, *, scope: str, with_consensus: bool, catalog: str = "catalog"
) -> Commit:
    """Judge the greedy chains of a scope on the eval and the anchor split.

    Reads ``<scope>/chains``, ``<catalog>/truth``, the attribute schema in ``<catalog>/listings``
    and, with consensus, the anchor rows of ``<scope>/consensus``. Commits ``<scope>/evaluation``,
    a row per verified query, with ``metrics.json``::

        {"eval": {"accuracy", "ci95": [low, high], "queries", "listings", "invalid",
                  "macro_vertical", "macro_attribute",
                  "by_vertical": {vertical: {"accuracy", "queries"}},
                  "by_attribute": {"vertical/attribute": {"accuracy", "queries"}}},
         "anchor": the same,
         "vote": null without consensus, or what calibration.vote_metrics returns}

    Accuracies and shares are 0-1, and null in a split without verified queries. Queries of a
    verified listing that have no verified value are not judged.

    Raises:
        ArtifactError: an artifact is missing, or a verified query has no greedy chain, no
            consensus, or a value outside the attribute schema.
        ConfigDriftError: the artifact was committed with other settings.
    """
    chains = run.artifact(f"{scope}/chains", CHAINS)
    truth = run.artifact(f"{catalog}/truth", TRUTH)
    listings = run.artifact(f"{catalog}/listings", LISTINGS)
    consensus = run.artifact(f"{scope}/consensus", CONSENSUS) if with_consensus else None
    fingerprint = {
        "evaluation.num_resamples": config.evaluation.num_resamples,
        "model.answer_format": config.model.answer_format,
        "run.seed": config.run.seed,
        "parser": answers.PARSER_VERSION,
        "upstream.chains": chains.required().digest,
        "upstream.truth": truth.required().digest,
        "upstream.listings": listings.required().digest,
        "upstream.consensus": consensus.required().digest if consensus is not None else None,
        **versions("raypipe", "numpy"),
    }
    evaluation = run.artifact(f"{scope}/evaluation", EVALUATION)
    done = evaluation.matching(fingerprint)
    if done is not None:
        return done

    schema = AttributeSchema.from_json(listings.read_json("attribute_schema.json"))
    verified = {
        row["listing_id"]: {answer["attribute"]: answer["value"] for answer in row["answers"]}
        for row in truth.read().to_pylist()
        if row["answers"]
    }
    attempt = evaluation.attempt(fingerprint)
    rows: list[Row] = []
    for table in chains.read_files(["listing_id", "vertical", "split", "queries"]):
        judged = list(_judge(_verified(table), verified, schema, config.model.answer_format))
        if judged:
            attempt.write(EVALUATION.from_rows(judged))
        rows += [{name: row[name] for name in row if name != "text"} for row in judged]

    refused = set(chains.read(["id"], kind="quarantine").column("id").to_pylist())
    metrics: dict[str, Any] = {
        split: _split_metrics([row for row in rows if row["split"] == split], split, config)
        for split in VERIFIED_SPLITS
    }
    metrics["vote"] = _vote_metrics(rows, consensus, config) if consensus is not None else None
    attempt.write_json(METRICS, metrics)
    counts = {"queries": len(rows), "refused_listings": len(refused & set(verified))}
    return attempt.commit(expected=set(verified) - refused, counts=counts)


def compare(config: Config, run: Run, *, before: str, after: str) -> dict[str, Any] | None:
    """How much more accurate one policy is than another, on the eval queries that both answered.

    Args:
        before, after: scopes with a committed evaluation.

    Returns:
        ``{"from": before, "to": after, "difference": 0-1, "ci95": [low, high], "queries": n}``,
        or None when there is no query that both answered.

    Raises:
        ArtifactError: an evaluation is not committed.
    """
    first, second = (_right_or_wrong(run, scope) for scope in (before, after))
    queries = first.keys() & second.keys()
    if not queries:
        return None
    gain = paired_difference(
        {query: first[query] for query in queries},
        {query: second[query] for query in queries},
        config.evaluation.num_resamples,
        seeds.derive("bootstrap", config.run.seed, "comparison"),
    )
    return {
        "from": before,
        "to": after,
        "difference": gain.value,
        "ci95": [gain.low, gain.high],
        "queries": len(queries),
    }


def _right_or_wrong(run: Run, scope: str) -> dict[QueryId, bool]:
    columns = ["listing_id", "attribute", "split", "correct"]
    return {
        (row["listing_id"], row["attribute"]): row["correct"]
        for row in run.artifact(f"{scope}/evaluation", EVALUATION).read(columns).to_pylist()
        if row["split"] == "eval"
    }


def _verified(table: pa.Table) -> pa.Table:
    return table.filter(pc.is_in(table.column("split"), pa.array(VERIFIED_SPLITS)))


def _judge(
    table: pa.Table,
    verified: Mapping[str, Mapping[str, str]],
    schema: AttributeSchema,
    answer_format: AnswerFormat,
) -> Iterator[Row]:
    for listing in table.to_pylist():
        greedy = {query["attribute"]: query["greedy"] for query in listing["queries"]}
        for name, value in verified.get(listing["listing_id"], {}).items():
            place = f"{listing['listing_id']}/{name}"
            chain = greedy.get(name)
            if chain is None:
                raise ArtifactError(f"the verified query {place} has no greedy chain")
            attribute = schema.get(listing["vertical"], name)
            truth = attribute.resolve(value)
            if truth is None:
                raise ArtifactError(f"the verified value '{value}' of {place} is not allowed")
            answer = answers.parse(chain["text"], chain["finish_reason"], attribute, answer_format)
            yield {
                "listing_id": listing["listing_id"],
                "vertical": listing["vertical"],
                "split": listing["split"],
                "attribute": name,
                "truth": truth,
                "answer": answer.value,
                "reason": answer.reason,
                "correct": answer.value == truth,
                "text": chain["text"],
            }


def _split_metrics(rows: Sequence[Row], split: str, config: Config) -> dict[str, Any]:
    correct = [row["correct"] for row in rows]
    listings = [row["listing_id"] for row in rows]
    by_vertical = by_group(correct, [row["vertical"] for row in rows])
    by_attribute = by_group(correct, [f"{row['vertical']}/{row['attribute']}" for row in rows])
    metrics: dict[str, Any] = {
        "accuracy": None,
        "ci95": None,
        "queries": len(rows),
        "listings": len(set(listings)),
        "invalid": None,
        "macro_vertical": None,
        "macro_attribute": None,
        "by_vertical": by_vertical,
        "by_attribute": by_attribute,
    }
    if rows:
        seed = seeds.derive("bootstrap", config.run.seed, split)
        accuracy = estimate(correct, listings, config.evaluation.num_resamples, seed)
        metrics |= {
            "accuracy": accuracy.value,
            "ci95": [accuracy.low, accuracy.high],
            "invalid": sum(row["answer"] is None for row in rows) / len(rows),
            "macro_vertical": macro(by_vertical),
            "macro_attribute": macro(by_attribute),
        }
    return metrics


def _vote_metrics(
    rows: Sequence[Row], consensus: Artifact, config: Config
) -> dict[str, Any] | None:
    voted: dict[QueryId, Row] = {}
    columns = ["listing_id", "attribute", "split", "answer", "votes", "num_chains", "gate"]
    for table in consensus.read_files(columns):
        anchor = table.filter(pc.equal(table.column("split"), "anchor"))
        voted |= {(row["listing_id"], row["attribute"]): row for row in anchor.to_pylist()}
    queries = []
    for row in rows:
        if row["split"] != "anchor":
            continue
        vote = voted.get((row["listing_id"], row["attribute"]))
        if vote is None:
            raise ArtifactError(
                f"{consensus.name}: no vote on {row['listing_id']}/{row['attribute']}"
            )
        votes = {entry["value"]: entry["count"] for entry in vote["votes"]}
        queries.append(
            VotedQuery(
                listing_id=row["listing_id"],
                consensus_right=vote["answer"] == row["truth"],
                greedy_right=row["correct"],
                consensus_votes=votes.get(vote["answer"], 0),
                truth_votes=votes.get(row["truth"], 0),
                num_chains=vote["num_chains"],
                kept=vote["gate"] == "kept",
            )
        )
    seed = seeds.derive("bootstrap", config.run.seed, "headroom")
    return vote_metrics(queries, config.evaluation.num_resamples, seed)
