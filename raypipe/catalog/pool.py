"""Which listings of a catalog are prepared: those that are named, and of the pool as many as are
wanted, chosen by the hashes of their ids. No process holds all ids."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt

from raypipe.catalog.distributed import CatalogReader
from raypipe.catalog.shards import SourceShard
from raypipe.runtime.tasks import run_tasks
from raypipe.seeds import derive

Rank = tuple[int, str]
NOBODY: Rank = (-1, "")
_BITS = 16
_SHIFT = 63 - _BITS


@dataclass(frozen=True)
class PoolChoice:
    """The listings to prepare.

    Args:
        named: ids of the annotated and the verified.
        run_seed: root seed of the ranks.
        last: rank of the last pool listing that is in; None for all of them.
    """

    named: frozenset[str]
    run_seed: int
    last: Rank | None = None

    def holds(self, listing_id: str) -> bool:
        """Whether a listing is to be prepared."""
        if self.last is None or listing_id in self.named:
            return True
        return self.last != NOBODY and self.rank(listing_id) <= self.last

    def rank(self, listing_id: str) -> Rank:
        return derive(self.run_seed, "pool", listing_id), listing_id


def choose_pool(
    reader: CatalogReader,
    shards: Sequence[SourceShard],
    named: Collection[str],
    count: int | None,
    run_seed: int,
) -> PoolChoice:
    """The ``count`` ids with the smallest hashes beside those that are named; all, if there are
    fewer or ``count`` is None.

    The hashes are counted in bins; then those of one bin are sorted.
    """
    everybody = PoolChoice(frozenset(named), run_seed)
    if count is None:
        return everybody
    counts = np.zeros(1 << _BITS, np.int64)
    for found in run_tasks(partial(_count, reader, everybody), shards):
        counts += found
    ends = np.cumsum(counts)
    if count >= ends[-1]:
        return everybody
    if count == 0:
        return PoolChoice(everybody.named, run_seed, NOBODY)
    number = int(np.searchsorted(ends, count))
    before = int(ends[number] - counts[number])
    ranks = [
        rank
        for found in run_tasks(partial(_ranks, reader, everybody, number), shards)
        for rank in found
    ]
    return PoolChoice(everybody.named, run_seed, sorted(ranks)[count - before - 1])


def _count(reader: CatalogReader, choice: PoolChoice, shard: SourceShard) -> npt.NDArray[np.int64]:
    """How many listings of a shard are in which bin."""
    values = [value >> _SHIFT for value, _ in _pool(reader, choice, shard)]
    return np.bincount(np.array(values, np.int64), minlength=1 << _BITS)


def _ranks(
    reader: CatalogReader, choice: PoolChoice, number: int, shard: SourceShard
) -> list[Rank]:
    """Of the listings of a shard the ranks of those in one bin."""
    return [rank for rank in _pool(reader, choice, shard) if rank[0] >> _SHIFT == number]


def _pool(reader: CatalogReader, choice: PoolChoice, shard: SourceShard) -> list[Rank]:
    names = (
        name
        for piece in shard.pieces
        for table in reader.names(piece)
        for name in table.column("listing_id").to_pylist()
    )
    return [choice.rank(name) for name in names if name not in choice.named]
