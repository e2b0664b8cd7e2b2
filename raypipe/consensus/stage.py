"""Chains in, consensus and preference pairs out (paper §4).

The vote is a map over files of chains: a task reads some, votes, and writes what comes out. The
driver holds the ids and sums the counts.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raypipe.attributes.parser import OK, PARSER_VERSION
from raypipe.attributes.pool_slices import Slice
from raypipe.attributes.schema import AttributeSchema
from raypipe.config import Config
from raypipe.consensus.funnel import FunnelCounter
from raypipe.consensus.query_outcome import ConsensusRules, QueryOutcome
from raypipe.consensus.voting import (
    CHAIN_COLUMNS,
    Questions,
    Voter,
    consensus_table,
    listing_key,
    pairs_table,
    sorted_keys,
)
from raypipe.runtime import metrics, stream
from raypipe.runtime.progress import reported
from raypipe.runtime.tasks import run_tasks
from raypipe.schemas import CHAINS, CONSENSUS, LISTINGS, PAIRS
from raypipe.store.artifacts import Artifact, Attempt, Run
from raypipe.store.data_files import DataFile
from raypipe.store.lease import lease
from raypipe.store.manifest import Commit, File, versions
from raypipe.store.paths import ATTRIBUTE_SCHEMA, CATALOG, Paths
from raypipe.summaries import Funnel

_LISTINGS_PER_FILE = 2048
_QUESTION_COLUMNS = ["listing_id", "vertical", "split", "queries.attribute", "queries.prompt"]


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
    done = consensus.find_commit(fingerprint)
    if done is not None and pairs.find_commit(fingerprint) is not None:
        return done
    with lease(run, consensus.name):
        done, paired = consensus.find_commit(fingerprint), pairs.find_commit(fingerprint)
        if done is not None and paired is not None:
            return done
        asked = _asked(listings, _sampled_slice(chains), rules.seed)
        task = _VoteTask(
            voter=_voter(listings, asked, rules, chains.name),
            chains=chains,
            policy_id=chains.require_commit().fingerprint.get("policy_id", ""),
            consensus=consensus.attempt(fingerprint),
            pairs=pairs.attempt(fingerprint) if paired is None else None,
        )
        return _vote(task, asked.ids)


def _vote(task: "_VoteTask", asked: pa.Array) -> Commit:
    funnel = FunnelCounter()
    written: list[DataFile] = []
    pair_files: list[DataFile] = []
    groups = _groups(task.chains.files())
    with reported(lambda: f"voted on {len(written):,} of {len(groups):,} parts of the chains"):
        for voted in run_tasks(task, groups):
            funnel.merge(voted.funnel)
            written += voted.consensus
            pair_files += voted.pairs
    refused = task.chains.read(["id"], kind="quarantine").column("id")
    return _commit(task, funnel.funnel(), written, pair_files, _but(asked, refused))


@dataclass(frozen=True)
class _AskedListings:
    """The sampled listings of pool and anchor: their ids, and what they are asked."""

    ids: pa.Array
    keys: list[int]
    questions: tuple[Questions, ...]


@dataclass(frozen=True)
class _Voted:
    consensus: list[DataFile]
    pairs: list[DataFile]
    funnel: FunnelCounter


@dataclass(frozen=True)
class _VoteTask:
    """Votes on files of chains, on any node; without ``pairs`` those are committed already."""

    voter: Voter
    chains: Artifact
    policy_id: str
    consensus: Attempt
    pairs: Attempt | None

    def __call__(self, files: Sequence[File]) -> _Voted:
        consensus, pairs, funnel = [], [], FunnelCounter()
        meter = metrics.Meter.of(self.consensus.artifact, self.policy_id)
        # File by file, so that few objects live long: the garbage collector looks at all of them.
        for file in files:
            rows = self.chains.rows_of(file, CHAIN_COLUMNS)
            queries = list(self.voter.vote(_sampled(rows)))
            pool: dict[tuple[str, str], list[QueryOutcome]] = {}
            for query in queries:
                if query.split == "pool":
                    pool.setdefault((query.vertical, query.attribute), []).append(query.outcome)
            for (vertical, attribute), outcomes in pool.items():
                funnel.add(vertical, attribute, *outcomes)
            _count(meter, list(chain.from_iterable(pool.values())))
            consensus.append(consensus_table(queries))
            pairs.append(pairs_table(queries))
        return _Voted(_stored(self.consensus, consensus), _stored(self.pairs, pairs), funnel)


def _stored(attempt: Attempt | None, tables: Sequence[pa.Table]) -> list[DataFile]:
    if attempt is None or not any(map(len, tables)):
        return []
    return [attempt.store(pa.concat_tables(tables).combine_chunks())]


def _commit(
    task: _VoteTask,
    funnel: Funnel,
    written: Sequence[DataFile],
    pair_files: Sequence[DataFile],
    expected: pa.Array,
) -> Commit:
    queries, num_pairs = funnel.total.queries, funnel.total.pairs
    if task.pairs is not None:
        task.pairs.commit(written=pair_files, counts={"pairs": num_pairs})
    task.consensus.write_json(Funnel.FILE, funnel.to_json())
    counts = {"queries": queries.asked, "kept": queries.kept, "pairs": num_pairs}
    return task.consensus.commit(expected=expected, written=written, counts=counts)


def _groups(files: Sequence[File]) -> list[list[File]]:
    """Files of chains for one task each."""
    groups: list[list[File]] = []
    rows = _LISTINGS_PER_FILE
    for file in files:
        if rows >= _LISTINGS_PER_FILE:
            groups.append([])
            rows = 0
        groups[-1].append(file)
        rows += file.rows or 0
    return groups


def _but(ids: pa.Array, refused: pa.ChunkedArray) -> pa.Array:
    return ids.filter(pc.invert(pc.is_in(ids, refused.combine_chunks())))


def _count(meter: metrics.Meter, outcomes: Sequence[QueryOutcome]) -> None:
    """The vote on queries of the pool, as its commit counts it."""
    reasons = Counter[str](chain.from_iterable([outcome.reasons for outcome in outcomes]))
    del reasons[OK]
    meter.count(metrics.QUERIES, len(outcomes))
    meter.count_by(metrics.INVALID_CHAINS, reasons)
    meter.count_by(metrics.GATED, Counter(outcome.gate for outcome in outcomes))
    meter.count(metrics.PAIRS, sum(len(outcome.pairs) for outcome in outcomes))
    meter.observe(metrics.CONFIDENCE, (outcome.vote.confidence for outcome in outcomes))


def _sampled_slice(chains: Artifact) -> Slice:
    """The part of the pool that was sampled."""
    return Slice(*chains.require_commit().fingerprint.get("pool", ()))


def _asked(listings: Artifact, pool: Slice, seed: int) -> _AskedListings:
    """What every sampled pool listing and the anchor are asked; images are not read."""
    ids: list[pa.Array] = [stream.NO_IDS]
    keys: list[int] = []
    numbers: dict[Questions, int] = {}
    for table in listings.read_files(_QUESTION_COLUMNS):
        table = _of_slice(_sampled(table), pool, seed)
        table = table.filter(pc.greater(pc.list_value_length(table.column("queries")), 0))
        known = table.column("listing_id").combine_chunks()
        ids.append(known)
        keys.extend(map(listing_key, known.to_pylist(), _numbered(table, numbers)))
    return _AskedListings(pa.concat_arrays(ids), keys, tuple(numbers))


def _of_slice(table: pa.Table, pool: Slice, seed: int) -> pa.Table:
    if pool.whole:
        return table
    inside = pool.mask(table.column("listing_id"), seed)
    return table.filter(pc.or_(pc.not_equal(table.column("split"), "pool"), inside))


def _numbered(table: pa.Table, numbers: dict[Questions, int]) -> Iterator[int]:
    """The number of every row's questions; new ones get the next."""
    queries = table.column("queries").combine_chunks()
    flat = queries.flatten()
    attributes, prompts = (flat.field(name).dictionary_encode() for name in ("attribute", "prompt"))
    codes = np.stack([attributes.indices, prompts.indices], axis=1)
    content, width = codes.tobytes(), codes.strides[0]
    columns = (table.column(name).to_pylist() for name in ("vertical", "split"))
    ends = np.cumsum(queries.value_lengths()).tolist()
    seen: dict[tuple[str, str, bytes], int] = {}
    for vertical, split, start, end in zip(*columns, [0, *ends[:-1]], ends, strict=True):
        key = vertical, split, content[start * width : end * width]
        if key not in seen:
            asked = (column[start:end].to_pylist() for column in (attributes, prompts))
            questions = Questions(vertical, split, tuple(zip(*asked, strict=True)))
            seen[key] = numbers.setdefault(questions, len(numbers))
        yield seen[key]


def _voter(listings: Artifact, asked: _AskedListings, rules: ConsensusRules, name: str) -> Voter:
    schema = AttributeSchema.from_json(listings.read_json(ATTRIBUTE_SCHEMA))
    attributes = {(entry.vertical, entry.name): entry for entry in schema.entries}
    return Voter(attributes, asked.questions, sorted_keys(asked.keys), rules, name)


def _sampled(table: pa.Table) -> pa.Table:
    inside = pc.is_in(table.column("split"), pa.array(["pool", "anchor"]))
    return table if pc.all(inside).as_py() else table.filter(inside)
