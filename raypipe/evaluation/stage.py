"""Greedy chains against verified values (paper §4). The only reader of the truth."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from raypipe import answers, seeds
from raypipe.artifacts import Artifact, Run
from raypipe.attributes import Attribute, AttributeSchema
from raypipe.config import Config
from raypipe.errors import ArtifactError
from raypipe.evaluation.accuracy import QueryId, by_group, estimate, macro, paired_difference
from raypipe.evaluation.calibration import VotedQuery, vote_metrics
from raypipe.evaluation.signs import Examined, vital_signs
from raypipe.manifest import Commit, versions
from raypipe.prompts import AnswerFormat
from raypipe.schemas import CHAINS, CONSENSUS, EVALUATION, LISTINGS, TRUTH
from raypipe.vote import count_votes

METRICS = "metrics.json"
VERIFIED_SPLITS = ("eval", "anchor")

Row = dict[str, Any]
Said = tuple[str | None, str, str]
"""An answer or none, why there is none ("ok" when there is), and the text that says it."""
Say = Callable[[Row, Attribute, str], Said]
"""What a policy says to a query, given the row of its chains, and where to find it."""


def run(
    config: Config,
    run: Run,
    *,
    scope: str,
    with_consensus: bool,
    consensus_of: str | None = None,
    vote_of: str | None = None,
    catalog: str = "catalog",
) -> Commit:
    """Judge the greedy chains of a scope on the eval and the anchor split.

    Reads ``<scope>/chains``, ``<catalog>/truth``, the attribute schema in ``<catalog>/listings``
    and, with consensus, the anchor rows of ``<scope>/consensus``. Commits ``<scope>/evaluation``,
    a row per verified query, with ``metrics.json`` (see :func:`_metrics`). Queries of a verified
    listing that have no verified value are not judged.

    Args:
        with_consensus: whether the anchor was voted on.
        consensus_of: scope of that consensus; None is the scope itself.
        vote_of: judge the vote over the sampled chains of this scope, instead of greedy chains.

    Raises:
        ArtifactError: an artifact is missing, or a verified query has no greedy chain, no
            consensus, or a value outside the attribute schema.
        ConfigDriftError: the artifact was committed with other settings.
    """
    chains = run.artifact(f"{vote_of or scope}/chains", CHAINS)
    truth = run.artifact(f"{catalog}/truth", TRUTH)
    listings = run.artifact(f"{catalog}/listings", LISTINGS)
    voted = consensus_of or scope
    consensus = run.artifact(f"{voted}/consensus", CONSENSUS) if with_consensus else None
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
    if vote_of is not None:
        fingerprint["vote"] = config.sampling.num_chains
    evaluation = run.artifact(f"{scope}/evaluation", EVALUATION)
    done = evaluation.matching(fingerprint)
    if done is not None:
        return done

    schema = AttributeSchema.from_json(listings.read_json("attribute_schema.json"))
    verified, say = _values(truth), _speaker(config, by_vote=vote_of is not None)
    attempt = evaluation.attempt(fingerprint)
    rows: list[Row] = []
    for table in chains.read_files(["listing_id", "vertical", "split", "queries"]):
        judged = list(_judge(_verified(table), verified, schema, say))
        if judged:
            attempt.write(EVALUATION.from_rows(judged))
        rows += [{name: row[name] for name in row if name != "text"} for row in judged]

    refused = set(chains.read(["id"], kind="quarantine").column("id").to_pylist())
    attempt.write_json(METRICS, _metrics(rows, consensus, config))
    counts = {"queries": len(rows), "refused_listings": len(refused & set(verified))}
    return attempt.commit(expected=set(verified) - refused, counts=counts)


def _values(truth: Artifact) -> dict[str, dict[str, str]]:
    """The verified values of every listing that has any, by attribute."""
    return {
        row["listing_id"]: {answer["attribute"]: answer["value"] for answer in row["answers"]}
        for row in truth.read().to_pylist()
        if row["answers"]
    }


def _metrics(rows: Sequence[Row], consensus: Artifact | None, config: Config) -> dict[str, Any]:
    """What ``metrics.json`` holds::

        {"eval": {"accuracy", "ci95": [low, high], "queries", "listings", "invalid",
                  "macro_vertical", "macro_attribute",
                  "by_vertical": {vertical: {"accuracy", "queries"}},
                  "by_attribute": {"vertical/attribute": {"accuracy", "queries"}}},
         "anchor": the same,
         "vote": null without consensus, or what calibration.vote_metrics returns,
         "signs": null without verified anchor queries, or what signs.Signs.to_json returns}

    Accuracies and shares are 0-1, and null in a split without verified queries.
    """
    metrics: dict[str, Any] = {
        split: _split_metrics([row for row in rows if row["split"] == split], split, config)
        for split in VERIFIED_SPLITS
    }
    anchor = [row for row in rows if row["split"] == "anchor"]
    votes = None if consensus is None else _voted(anchor, consensus)
    metrics["vote"] = None if votes is None else _vote_metrics(votes, config)
    metrics["signs"] = _signs(anchor, votes)
    return metrics


def answered(run: Run, scope: str, split: str = "eval") -> dict[QueryId, bool]:
    """Whether each query of a split was answered right, by (listing_id, attribute).

    Raises:
        ArtifactError: the scope's evaluation is not committed.
    """
    columns = ["listing_id", "attribute", "split", "correct"]
    return {
        (row["listing_id"], row["attribute"]): row["correct"]
        for row in run.artifact(f"{scope}/evaluation", EVALUATION).read(columns).to_pylist()
        if row["split"] == split
    }


def compare(
    config: Config, run: Run, *, before: str, after: str, split: str = "eval"
) -> dict[str, Any] | None:
    """How much more accurate one policy is than another, on the queries that both answered.

    Args:
        before, after: scopes with a committed evaluation.
        split: whose queries: "eval" or "anchor".

    Returns:
        ``{"from": before, "to": after, "difference": 0-1, "ci95": [low, high], "queries": n}``,
        or None when there is no query that both answered.

    Raises:
        ArtifactError: an evaluation is not committed.
    """
    first, second = (answered(run, scope, split) for scope in (before, after))
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


def _verified(table: pa.Table) -> pa.Table:
    return table.filter(pc.is_in(table.column("split"), pa.array(VERIFIED_SPLITS)))


def _judge(
    table: pa.Table,
    verified: Mapping[str, Mapping[str, str]],
    schema: AttributeSchema,
    say: Say,
) -> Iterator[Row]:
    for listing in table.to_pylist():
        queries = {query["attribute"]: query for query in listing["queries"]}
        for name, value in verified.get(listing["listing_id"], {}).items():
            place = f"{listing['listing_id']}/{name}"
            attribute = schema.get(listing["vertical"], name)
            truth = attribute.resolve(value)
            if truth is None:
                raise ArtifactError(f"the verified value '{value}' of {place} is not allowed")
            answer, reason, text = say(queries.get(name, {}), attribute, place)
            yield {
                "listing_id": listing["listing_id"],
                "vertical": listing["vertical"],
                "split": listing["split"],
                "attribute": name,
                "truth": truth,
                "answer": answer,
                "reason": reason,
                "correct": answer == truth,
                "text": text,
            }


def _speaker(config: Config, *, by_vote: bool) -> Say:
    answer_format, num_chains = config.model.answer_format, config.sampling.num_chains
    if by_vote:
        return partial(_elected, answer_format=answer_format, num_chains=num_chains)
    return partial(_greedy, answer_format=answer_format)


def _greedy(query: Row, attribute: Attribute, place: str, *, answer_format: AnswerFormat) -> Said:
    chain = query.get("greedy")
    if chain is None:
        raise ArtifactError(f"the verified query {place} has no greedy chain")
    answer = answers.parse(chain["text"], chain["finish_reason"], attribute, answer_format)
    return answer.value, answer.reason, chain["text"]


def _elected(
    query: Row, attribute: Attribute, place: str, *, answer_format: AnswerFormat, num_chains: int
) -> Said:
    chains = query.get("chains")
    if not chains:
        raise ArtifactError(f"the verified query {place} has no sampled chains")
    said = [
        answers.parse(chain["text"], chain["finish_reason"], attribute, answer_format).value
        for chain in chains
    ]
    vote = count_votes(said, num_chains)
    if vote.consensus is None:
        return None, "tie" if vote.votes else "no_valid_chain", chains[0]["text"]
    return vote.consensus, "ok", chains[said.index(vote.consensus)]["text"]


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


def _voted(anchor: Sequence[Row], consensus: Artifact) -> list[VotedQuery]:
    """The vote on each judged anchor query, in their order."""
    votes_on: dict[QueryId, Row] = {}
    columns = ["listing_id", "attribute", "split", "answer", "votes", "num_chains", "gate"]
    for table in consensus.read_files(columns):
        found = table.filter(pc.equal(table.column("split"), "anchor"))
        votes_on |= {(row["listing_id"], row["attribute"]): row for row in found.to_pylist()}
    queries = []
    for row in anchor:
        vote = votes_on.get((row["listing_id"], row["attribute"]))
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
    return queries


def _vote_metrics(voted: Sequence[VotedQuery], config: Config) -> dict[str, Any] | None:
    seed = seeds.derive("bootstrap", config.run.seed, "headroom")
    return vote_metrics(voted, config.evaluation.num_resamples, seed)


def _signs(anchor: Sequence[Row], voted: Sequence[VotedQuery] | None) -> dict[str, Any] | None:
    confidences = [None] * len(anchor) if voted is None else [vote.confidence for vote in voted]
    signs = vital_signs(
        [
            Examined(
                listing_id=row["listing_id"],
                vertical=row["vertical"],
                attribute=row["attribute"],
                truth=row["truth"],
                answer=row["answer"],
                confidence=confidence,
            )
            for row, confidence in zip(anchor, confidences, strict=True)
        ]
    )
    return None if signs is None else signs.to_json()
