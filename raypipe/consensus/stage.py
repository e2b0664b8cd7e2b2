"""Chains in, consensus and preference pairs out (paper §4)."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby, islice
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from raypipe.attributes.parser import OK, PARSER_VERSION, TRUNCATED
from raypipe.attributes.pool_slices import Slice
from raypipe.attributes.prompts import without_control_tokens
from raypipe.attributes.schema import Attribute, AttributeSchema
from raypipe.config import Config
from raypipe.consensus.funnel import FunnelCounter
from raypipe.consensus.query_outcome import ConsensusRules, QueryOutcome, decide_query
from raypipe.errors import ArtifactError
from raypipe.runtime import metrics
from raypipe.schemas import CHAINS, CONSENSUS, LISTINGS, PAIRS
from raypipe.store.artifacts import Artifact, Attempt, Run
from raypipe.store.manifest import Commit, versions
from raypipe.store.paths import ATTRIBUTE_SCHEMA, CATALOG, Paths
from raypipe.summaries import Funnel

_QUERIES_PER_FILE = 50_000


def run(
    config: Config, run: Run, *, scope: str, round_index: int, chains_of: str | None = None
) -> Commit:
    """Vote on the sampled chains of a scope, gate the queries and draw the pairs.

    Reads ``<chains_of>/chains``, of the scope itself when that is None, and ``catalog/listings``.
    Commits ``<scope>/pairs`` (kept pool queries
    with at least one pair) and then ``<scope>/consensus`` (every pool and anchor query), which
    holds the funnel of the pool as ``funnel.json``. What comes out depends on the chains alone,
    not on the order of rows or the number of files.

    Returns:
        The commit of ``<scope>/consensus``; its counts are of the pool.

    Raises:
        ArtifactError: an artifact is missing, or the chains are not those of the catalog's pool
            and anchor queries.
        ConfigDriftError: the artifacts were committed with other settings.
    """
    chains = run.artifact(Paths(chains_of or scope).chains, CHAINS)
    listings = run.artifact(CATALOG.listings, LISTINGS)
    rules = ConsensusRules.of(config, round_index)
    fingerprint = {
        **config.fingerprint_keys("consensus"),
        "round_index": round_index,
        "parser": PARSER_VERSION,
        "upstream.chains": chains.require_commit().digest,
        "upstream.listings": listings.require_commit().digest,
        **versions("raypipe"),
    }
    consensus = run.artifact(Paths(scope).consensus, CONSENSUS)
    pairs = run.artifact(Paths(scope).pairs, PAIRS)
    done, paired = consensus.find_commit(fingerprint), pairs.find_commit(fingerprint)
    if done is not None and paired is not None:
        return done

    asked = _queries_by_listing(listings, _sampled_slice(chains), rules.seed)
    gated = _gate_queries(chains, asked, _attributes(listings), rules)
    refused = set(chains.read(["id"], kind="quarantine").column("id").to_pylist())
    consensus_attempt = consensus.attempt(fingerprint)
    pairs_attempt = pairs.attempt(fingerprint) if paired is None else None
    policy_id = chains.require_commit().fingerprint.get("policy_id", "")
    meter = metrics.Meter.of(consensus, policy_id)
    funnel, with_pairs = _write(gated, consensus_attempt, pairs_attempt, meter)
    queries, num_pairs = funnel.total.queries, funnel.total.pairs
    counts = {"queries": queries.asked, "kept": queries.kept, "pairs": num_pairs}
    if pairs_attempt is not None:
        pairs_attempt.commit(expected=with_pairs, counts={"pairs": num_pairs})
    consensus_attempt.write_json(Funnel.FILE, funnel.to_json())
    return consensus_attempt.commit(expected=set(asked) - refused, counts=counts)


@dataclass(frozen=True)
class _Questions:
    """What a listing is asked; listings of one vertical and split share one of these."""

    vertical: str
    split: str
    prompts: tuple[tuple[str, str], ...]

    def match(self, vertical: str, split: str, attributes: list[str]) -> bool:
        """Whether chains of these attributes, sorted, answer exactly these questions."""
        asked = sorted(attribute for attribute, _ in self.prompts)
        return (vertical, split, attributes) == (self.vertical, self.split, asked)


@dataclass(frozen=True, slots=True)
class _GatedQuery:
    listing_id: str
    vertical: str
    split: str
    attribute: str
    prompt: str
    texts: list[str]
    outcome: QueryOutcome

    @property
    def paired(self) -> bool:
        """Whether it makes rows of the pairs table: the anchor guards and never teaches."""
        return self.split == "pool" and bool(self.outcome.pairs)

    def consensus_row(self) -> dict[str, object]:
        outcome, vote = self.outcome, self.outcome.vote
        return {
            "listing_id": self.listing_id,
            "vertical": self.vertical,
            "split": self.split,
            "attribute": self.attribute,
            "answer": vote.consensus,
            "confidence": vote.confidence,
            "votes": [{"value": value, "count": count} for value, count in vote.votes],
            "num_chains": vote.num_chains,
            "num_valid": vote.num_valid,
            "num_truncated": outcome.reasons.count(TRUNCATED),
            "num_pairs": len(outcome.pairs) if self.paired else 0,
            "gate": outcome.gate,
            "preferred": list(outcome.preferred),
        }

    def pairs_row(self) -> dict[str, object]:
        return {
            "listing_id": self.listing_id,
            "attribute": self.attribute,
            "prompt": self.prompt,
            "margin": self.outcome.vote.margin,
            "pairs": [
                {
                    "chosen": without_control_tokens(self.texts[pair.chosen_index]),
                    "rejected": without_control_tokens(self.texts[pair.rejected_index]),
                    "chosen_index": pair.chosen_index,
                    "rejected_index": pair.rejected_index,
                }
                for pair in self.outcome.pairs
            ],
        }


def _write(
    gated: Iterator[_GatedQuery],
    consensus: Attempt,
    pairs: Attempt | None,
    meter: metrics.Meter,
) -> tuple[Funnel, set[str]]:
    """Write every query, and its pairs unless they are committed; the pool's funnel, and the
    listings that have pairs."""
    funnel = FunnelCounter()
    with_pairs: set[str] = set()
    for batch in _batches(gated):
        for query in batch:
            if query.split == "pool":
                funnel.add(query.vertical, query.attribute, query.outcome)
        consensus.write(CONSENSUS.from_rows([query.consensus_row() for query in batch]))
        paired = [query for query in batch if query.paired]
        if paired and pairs is not None:
            pairs.write(PAIRS.from_rows([query.pairs_row() for query in paired]))
            with_pairs.update(query.listing_id for query in paired)
        _count(meter, [query.outcome for query in batch if query.split == "pool"])
    return funnel.funnel(), with_pairs


def _count(meter: metrics.Meter, outcomes: Sequence[QueryOutcome]) -> None:
    """The vote on queries of the pool, as its commit counts it."""
    reasons = Counter[str](reason for outcome in outcomes for reason in outcome.reasons)
    del reasons[OK]
    meter.count(metrics.QUERIES, len(outcomes))
    meter.count_by(metrics.INVALID_CHAINS, reasons)
    meter.count_by(metrics.GATED, Counter(outcome.gate for outcome in outcomes))
    meter.count(metrics.PAIRS, sum(len(outcome.pairs) for outcome in outcomes))
    meter.observe(metrics.CONFIDENCE, (outcome.vote.confidence for outcome in outcomes))


def _batches(gated: Iterator[_GatedQuery]) -> Iterator[list[_GatedQuery]]:
    """So many queries for a file, and never a listing's in two."""
    batch: list[_GatedQuery] = []
    for _, queries in groupby(gated, key=lambda query: query.listing_id):
        batch += queries
        if len(batch) >= _QUERIES_PER_FILE:
            yield batch
            batch = []
    if batch:
        yield batch


def _sampled_slice(chains: Artifact) -> Slice:
    """The part of the pool that was sampled."""
    return Slice(*chains.require_commit().fingerprint.get("pool", ()))


def _queries_by_listing(listings: Artifact, pool: Slice, seed: int) -> dict[str, _Questions]:
    """The questions of every sampled pool listing and of the anchor, by listing_id; images are
    not read."""
    shared: dict[_Questions, _Questions] = {}
    asked: dict[str, _Questions] = {}
    for table in listings.read_files(["listing_id", "vertical", "split", "queries"]):
        table = _sampled(table)
        queries = table.column("queries").combine_chunks()
        flat = queries.flatten()
        prompts = zip(
            flat.field("attribute").to_pylist(), flat.field("prompt").to_pylist(), strict=True
        )
        columns = (table.column(name).to_pylist() for name in ("listing_id", "vertical", "split"))
        lengths = queries.value_lengths().to_pylist()
        for listing_id, vertical, split, length in zip(*columns, lengths, strict=True):
            questions = _Questions(vertical, split, tuple(islice(prompts, length)))
            if split == "pool" and not pool.holds(listing_id, seed):
                continue
            if questions.prompts:
                asked[listing_id] = shared.setdefault(questions, questions)
    return asked


def _attributes(listings: Artifact) -> dict[tuple[str, str], Attribute]:
    schema = AttributeSchema.from_json(listings.read_json(ATTRIBUTE_SCHEMA))
    return {(entry.vertical, entry.name): entry for entry in schema.entries}


def _sampled(table: pa.Table) -> pa.Table:
    return table.filter(pc.is_in(table.column("split"), pa.array(["pool", "anchor"])))


def _gate_queries(
    chains: Artifact,
    asked: Mapping[str, _Questions],
    attributes: Mapping[tuple[str, str], Attribute],
    rules: ConsensusRules,
) -> Iterator[_GatedQuery]:
    for table in chains.read_files(["listing_id", "vertical", "split", "queries"]):
        for listing_id, vertical, split, queries in _chain_rows(_sampled(table)):
            names = sorted(attribute for attribute, _, _ in queries)
            questions = asked.get(listing_id)
            if questions is None or not questions.match(vertical, split, names):
                raise ArtifactError(
                    f"{chains.name}: the chains of listing '{listing_id}' are not those of its "
                    f"queries in {CATALOG.listings}"
                )
            prompts = dict(questions.prompts)
            for name, texts, finish_reasons in queries:
                attribute = attributes[vertical, name]
                try:
                    outcome = decide_query(texts, finish_reasons, attribute, listing_id, rules)
                except ValueError as error:
                    raise ArtifactError(
                        f"{chains.name}: listing '{listing_id}', {name}: {error}"
                    ) from error
                yield _GatedQuery(listing_id, vertical, split, name, prompts[name], texts, outcome)


def _chain_rows(
    table: pa.Table,
) -> Iterator[tuple[str, str, str, list[tuple[str, list[str], list[str]]]]]:
    """Listings of a chains table with, per query, the chains' texts and finish reasons.

    The nested column is taken apart in Arrow: turning whole chains into Python, token ids
    included, would take longer than everything else here.
    """
    queries = table.column("queries").combine_chunks()
    flat = queries.flatten()
    lists = flat.field("chains")
    chain = lists.flatten()
    texts = iter(chain.field("text").to_pylist())
    finish_reasons = iter(chain.field("finish_reason").to_pylist())
    per_query = zip(
        flat.field("attribute").to_pylist(), lists.value_lengths().to_pylist(), strict=True
    )
    columns: list[list[Any]] = [
        table.column(name).to_pylist() for name in ("listing_id", "vertical", "split")
    ]
    num_queries = queries.value_lengths().to_pylist()
    for listing_id, vertical, split, count in zip(*columns, num_queries, strict=True):
        yield (
            listing_id,
            vertical,
            split,
            [
                (attribute, list(islice(texts, num)), list(islice(finish_reasons, num)))
                for attribute, num in islice(per_query, count)
            ],
        )
