"""Greedy chains against verified values (paper §4). The only reader of the truth."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from raypipe import seeds
from raypipe.attributes import parser
from raypipe.attributes.schema import Attribute, AttributeSchema
from raypipe.attributes.vote import KEPT, count_votes, gate_query
from raypipe.config import Config
from raypipe.config.models import AnswerFormat
from raypipe.errors import ArtifactError, Reason
from raypipe.evaluation.accuracy import QueryId, by_group, estimate, macro, paired_difference
from raypipe.evaluation.calibration import VotedQuery, vote_metrics
from raypipe.evaluation.collapse import AnchorAnswer, collapse_metrics
from raypipe.schemas import CHAINS, CONSENSUS, EVALUATION, LISTINGS, TRUTH
from raypipe.store.artifacts import Artifact, Run
from raypipe.store.manifest import Commit, versions
from raypipe.store.paths import ATTRIBUTE_SCHEMA, Paths
from raypipe.summaries import CollapseMetrics, Comparison, Metrics, SplitMetrics, VoteMetrics

VERIFIED_SPLITS = ("eval", "anchor")

Row = dict[str, Any]
Prediction = tuple[str | None, Reason, str]
"""An answer or None, the reason, and the chain's text."""
Predictor = Callable[[Row, Attribute, str], Prediction]
"""A policy's answer to a query, from the row of its chains; the last argument names the query."""


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
    """Measure the greedy chains of a scope on the eval and the anchor split.

    Reads ``<scope>/chains``, ``<catalog>/truth``, the attribute schema in ``<catalog>/listings``
    and, with consensus, the anchor rows of ``<scope>/consensus``. Commits ``<scope>/evaluation``,
    a row per verified query, with ``metrics.json``. Queries of a verified
    listing that have no verified value are left out.

    Args:
        with_consensus: whether the anchor was voted on.
        consensus_of: scope of that consensus; None is the scope itself.
        vote_of: measure the vote over the sampled chains of this scope, instead of greedy chains.

    Raises:
        ArtifactError: an artifact is missing, or a verified query has no greedy chain, no
            consensus, or a value outside the attribute schema.
        ConfigDriftError: the artifact was committed with other settings.
    """
    chains = run.artifact(Paths(vote_of or scope).chains, CHAINS)
    truth = run.artifact(Paths(catalog).truth, TRUTH)
    listings = run.artifact(Paths(catalog).listings, LISTINGS)
    voted = consensus_of or scope
    consensus = run.artifact(Paths(voted).consensus, CONSENSUS) if with_consensus else None
    fingerprint = {
        **config.fingerprint_keys("evaluation"),
        **(config.fingerprint_keys("vote") if vote_of is not None else {}),
        "parser": parser.PARSER_VERSION,
        "upstream.chains": chains.require_commit().digest,
        "upstream.truth": truth.require_commit().digest,
        "upstream.listings": listings.require_commit().digest,
        "upstream.consensus": consensus.require_commit().digest if consensus is not None else None,
        **versions("raypipe", "numpy"),
    }
    evaluation = run.artifact(Paths(scope).evaluation, EVALUATION)
    done = evaluation.find_commit(fingerprint)
    if done is not None:
        return done

    schema = AttributeSchema.from_json(listings.read_json(ATTRIBUTE_SCHEMA))
    verified, predict = _values(truth), _predictor(config, by_vote=vote_of is not None)
    attempt = evaluation.attempt(fingerprint)
    rows: list[Row] = []
    for table in chains.read_files(["listing_id", "vertical", "split", "queries"]):
        compared = list(_rows(_verified(table), verified, schema, predict))
        if compared:
            attempt.write(EVALUATION.from_rows(compared))
        rows += [{name: row[name] for name in row if name != "text"} for row in compared]

    refused = set(chains.read(["id"], kind="quarantine").column("id").to_pylist())
    attempt.write_json(Metrics.FILE, _metrics(rows, consensus, config).to_json())
    counts = {"queries": len(rows), "refused_listings": len(refused & set(verified))}
    return attempt.commit(expected=set(verified) - refused, counts=counts)


def _values(truth: Artifact) -> dict[str, dict[str, str]]:
    """The verified values of every listing that has any, by attribute."""
    return {
        row["listing_id"]: {answer["attribute"]: answer["value"] for answer in row["answers"]}
        for row in truth.read().to_pylist()
        if row["answers"]
    }


def _metrics(rows: Sequence[Row], consensus: Artifact | None, config: Config) -> Metrics:
    anchor = [row for row in rows if row["split"] == "anchor"]
    votes = None if consensus is None else _voted(anchor, consensus)
    splits = {
        split: _split_metrics([row for row in rows if row["split"] == split], split, config)
        for split in VERIFIED_SPLITS
    }
    return Metrics(
        eval=splits["eval"],
        anchor=splits["anchor"],
        vote=None if votes is None else _vote_metrics(votes, config),
        collapse=_collapse_metrics(anchor, votes),
    )


def answered(run: Run, scope: str, split: str = "eval") -> dict[QueryId, bool]:
    """Whether each query of a split was answered right, by (listing_id, attribute).

    Raises:
        ArtifactError: the scope's evaluation is not committed.
    """
    columns = ["listing_id", "attribute", "split", "correct"]
    return {
        (row["listing_id"], row["attribute"]): row["correct"]
        for row in run.artifact(Paths(scope).evaluation, EVALUATION).read(columns).to_pylist()
        if row["split"] == split
    }


def compare(
    config: Config, run: Run, *, before: str, after: str, split: str = "eval"
) -> Comparison | None:
    """How much more accurate one policy is than another, on the queries that both answered.

    Args:
        before, after: scopes with a committed evaluation.
        split: whose queries: "eval" or "anchor".

    Returns:
        None when there is no query that both answered.

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
    return Comparison(
        start=before, to=after, difference=gain.value, ci95=gain.ci95, queries=len(queries)
    )


def _verified(table: pa.Table) -> pa.Table:
    return table.filter(pc.is_in(table.column("split"), pa.array(VERIFIED_SPLITS)))


def _rows(
    table: pa.Table,
    verified: Mapping[str, Mapping[str, str]],
    schema: AttributeSchema,
    predict: Predictor,
) -> Iterator[Row]:
    for listing in table.to_pylist():
        queries = {query["attribute"]: query for query in listing["queries"]}
        for name, value in verified.get(listing["listing_id"], {}).items():
            place = f"{listing['listing_id']}/{name}"
            attribute = schema.get(listing["vertical"], name)
            truth = attribute.resolve(value)
            if truth is None:
                raise ArtifactError(f"the verified value '{value}' of {place} is not allowed")
            answer, reason, text = predict(queries.get(name, {}), attribute, place)
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


def _predictor(config: Config, *, by_vote: bool) -> Predictor:
    answer_format, num_chains = config.model.answer_format, config.sampling.num_chains
    if by_vote:
        return partial(_vote_predictor, answer_format=answer_format, num_chains=num_chains)
    return partial(_greedy_predictor, answer_format=answer_format)


def _greedy_predictor(
    query: Row, attribute: Attribute, place: str, *, answer_format: AnswerFormat
) -> Prediction:
    chain = query.get("greedy")
    if chain is None:
        raise ArtifactError(f"the verified query {place} has no greedy chain")
    answer = parser.parse(chain["text"], chain["finish_reason"], attribute, answer_format)
    return answer.value, answer.reason, chain["text"]


def _vote_predictor(
    query: Row, attribute: Attribute, place: str, *, answer_format: AnswerFormat, num_chains: int
) -> Prediction:
    chains = query.get("chains")
    if not chains:
        raise ArtifactError(f"the verified query {place} has no sampled chains")
    answers = [
        parser.parse(chain["text"], chain["finish_reason"], attribute, answer_format).value
        for chain in chains
    ]
    vote = count_votes(answers, num_chains)
    if vote.consensus is None:
        return None, gate_query(vote, 1), chains[0]["text"]
    return vote.consensus, parser.OK, chains[answers.index(vote.consensus)]["text"]


def _split_metrics(rows: Sequence[Row], split: str, config: Config) -> SplitMetrics:
    correct = [row["correct"] for row in rows]
    listings = [row["listing_id"] for row in rows]
    by_vertical = by_group(correct, [row["vertical"] for row in rows])
    by_attribute = by_group(correct, [f"{row['vertical']}/{row['attribute']}" for row in rows])
    accuracy = None
    if rows:
        seed = seeds.derive("bootstrap", config.run.seed, split)
        accuracy = estimate(correct, listings, config.evaluation.num_resamples, seed)
    return SplitMetrics(
        accuracy=accuracy.value if accuracy else None,
        ci95=accuracy.ci95 if accuracy else None,
        queries=len(rows),
        listings=len(set(listings)),
        invalid=sum(row["answer"] is None for row in rows) / len(rows) if rows else None,
        macro_vertical=macro(by_vertical) if rows else None,
        macro_attribute=macro(by_attribute) if rows else None,
        by_vertical=by_vertical,
        by_attribute=by_attribute,
    )


def _voted(anchor: Sequence[Row], consensus: Artifact) -> list[VotedQuery]:
    """The vote on each verified anchor query, in their order."""
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
                kept=vote["gate"] == KEPT,
            )
        )
    return queries


def _vote_metrics(voted: Sequence[VotedQuery], config: Config) -> VoteMetrics | None:
    seed = seeds.derive("bootstrap", config.run.seed, "headroom")
    return vote_metrics(voted, config.evaluation.num_resamples, seed)


def _collapse_metrics(
    anchor: Sequence[Row], voted: Sequence[VotedQuery] | None
) -> CollapseMetrics | None:
    confidences = [None] * len(anchor) if voted is None else [vote.confidence for vote in voted]
    return collapse_metrics(
        [
            AnchorAnswer(
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
