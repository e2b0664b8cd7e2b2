"""A part of what a vote gave: the pairs that one arm of an experiment learns from.

A vote is taken once for each policy and threshold; arms that see fewer listings, fewer pairs or
other queries take their part of it, so that what they share is the same to the letter.
"""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from raypipe import seeds
from raypipe.attributes.pool_slices import WHOLE, Slice
from raypipe.attributes.vote import KEPT
from raypipe.config import Config
from raypipe.schemas import CONSENSUS, PAIRS
from raypipe.store.artifacts import Run
from raypipe.store.manifest import Commit, versions
from raypipe.store.paths import Paths

Row = dict[str, Any]


@dataclass(frozen=True)
class Subset:
    """Which part of a vote is taken.

    Args:
        pool: the listings.
        max_pairs: at most so many pairs, drawn at random over the whole of what is left.
        paired_only: only queries with a pair are kept, so that self-learning sees what DPO sees.
        shuffled: chosen and rejected trade places by the toss of a coin: pairs that say nothing.
    """

    pool: Slice = WHOLE
    max_pairs: int | None = None
    paired_only: bool = False
    shuffled: bool = False


def select(config: Config, run: Run, *, scope: str, source: str, selection: Subset) -> Commit:
    """Commit ``<scope>/consensus`` and ``<scope>/pairs``: the pool's part of those of ``source``.

    Returns:
        The commit of the consensus. Its counts are of the pool: ``listings`` with a query that is
        kept, ``queries``, ``kept``, ``unanimous``, ``paired`` and ``pairs``.

    Raises:
        ArtifactError: the source is not committed.
        ConfigDriftError: the scope was committed with another selection.
    """
    voted = run.artifact(Paths(source).consensus, CONSENSUS)
    paired = run.artifact(Paths(source).pairs, PAIRS)
    fingerprint = {
        **asdict(selection),
        **config.fingerprint_keys("subset"),
        "upstream.consensus": voted.require_commit().digest,
        "upstream.pairs": paired.require_commit().digest,
        **versions("raypipe"),
    }
    consensus = run.artifact(Paths(scope).consensus, CONSENSUS)
    pairs = run.artifact(Paths(scope).pairs, PAIRS)
    done, selected = consensus.find_commit(fingerprint), pairs.find_commit(fingerprint)
    if done is not None and selected is not None:
        return done
    seed = config.run.seed
    kept = _pairs(_of_slice(paired.read_files(), selection.pool, seed), selection, seed)
    if selected is None:
        attempt = pairs.attempt(fingerprint)
        if kept:
            attempt.write(PAIRS.from_rows(kept))
        attempt.commit(expected={row["listing_id"] for row in kept})
    with_pairs = {(row["listing_id"], row["attribute"]): len(row["pairs"]) for row in kept}
    rows = _queries(_of_slice(voted.read_files(), selection.pool, seed), with_pairs, selection)
    made = consensus.attempt(fingerprint)
    if rows:
        made.write(CONSENSUS.from_rows(rows))
    return made.commit(expected={row["listing_id"] for row in rows}, counts=_counts(rows))


def _of_slice(tables: Iterable[pa.Table], pool: Slice, seed: int) -> list[Row]:
    rows: list[Row] = []
    for table in tables:
        if "split" in table.column_names:
            table = table.filter(pc.equal(table.column("split"), "pool"))
        if not pool.whole:
            table = table.filter(pool.mask(table.column("listing_id"), seed))
        rows += table.to_pylist()
    return rows


def _pairs(rows: list[Row], selection: Subset, seed: int) -> list[Row]:
    if selection.max_pairs is not None:
        rows = _fewer(rows, selection.max_pairs, seed)
    return [_shuffled(row, seed) for row in rows] if selection.shuffled else rows


def _fewer(rows: list[Row], max_pairs: int, seed: int) -> list[Row]:
    """So many pairs by the lot of each, whatever the order of rows; queries without any go."""
    lots = {
        _identity(row, pair): seeds.derive("fewer pairs", seed, *_identity(row, pair))
        for row in rows
        for pair in row["pairs"]
    }
    drawn = set(sorted(lots, key=lambda pair: lots[pair])[:max_pairs])
    left = (
        row | {"pairs": [pair for pair in row["pairs"] if _identity(row, pair) in drawn]}
        for row in rows
    )
    return [row for row in left if row["pairs"]]


def _shuffled(row: Row, seed: int) -> Row:
    return row | {
        "pairs": [
            _swapped(pair) if seeds.derive("shuffle", seed, *_identity(row, pair)) % 2 else pair
            for pair in row["pairs"]
        ]
    }


def _swapped(pair: Row) -> Row:
    return {
        "chosen": pair["rejected"],
        "rejected": pair["chosen"],
        "chosen_index": pair["rejected_index"],
        "rejected_index": pair["chosen_index"],
    }


def _identity(row: Mapping[str, Any], pair: Mapping[str, Any]) -> tuple[str, str, int]:
    return row["listing_id"], row["attribute"], pair["rejected_index"]


def _queries(
    rows: list[Row], with_pairs: Mapping[tuple[str, str], int], selection: Subset
) -> list[Row]:
    counted = [
        row | {"num_pairs": with_pairs.get((row["listing_id"], row["attribute"]), 0)}
        for row in rows
    ]
    return [row for row in counted if row["num_pairs"]] if selection.paired_only else counted


def _counts(rows: list[Row]) -> dict[str, int]:
    kept = [row for row in rows if row["gate"] == KEPT]
    return {
        "listings": len({row["listing_id"] for row in kept}),
        "queries": len(rows),
        "kept": len(kept),
        "unanimous": sum(len(row["preferred"]) == row["num_chains"] for row in kept),
        "paired": sum(row["num_pairs"] > 0 for row in kept),
        "pairs": sum(row["num_pairs"] for row in kept),
    }
