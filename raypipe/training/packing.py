"""Which examples make a step, and which worker puts which trees through the model together.

A step is the configured number of examples, whatever the number of workers: what is learned does
not depend on where. Within a step trees are spread by tokens, so that no worker waits for another.
"""

import heapq
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, count, islice

from raypipe.seeds import derive
from raypipe.training.trees import Tree

Pack = tuple[Tree, ...]


@dataclass(frozen=True)
class Step:
    """One optimizer step: its size over all workers, and the packs of each worker."""

    num_examples: int
    num_scored: int
    packs: tuple[tuple[Pack, ...], ...]
    """Of each worker; a worker without work in this step has an empty tuple."""

    @property
    def queries(self) -> list[str]:
        """The query of each example, as listing/attribute."""
        packs = (pack for share in self.packs for pack in share)
        return [query for pack in packs for tree in pack for query in tree.queries]


@dataclass(frozen=True)
class PackingPlan:
    """A whole training, epoch after epoch."""

    steps: tuple[Step, ...]

    @property
    def packs_per_step(self) -> int:
        """The most that any worker has in any step: all workers must accumulate equally often."""
        return max(len(packs) for step in self.steps for packs in step.packs)

    def packs_of(self, rank: int) -> Iterator[tuple[int, Pack]]:
        """The packs of a worker in order, as (step, pack); a step is filled up with empty ones."""
        for index, step in enumerate(self.steps):
            packs = step.packs[rank]
            for pack in (*packs, *[()] * (self.packs_per_step - len(packs))):
                yield index, pack


def plan_packs(
    trees: Sequence[Tree],
    *,
    batch_size: int,
    epochs: int,
    num_workers: int,
    max_tokens: int,
    seed: int,
    max_steps: int | None = None,
) -> PackingPlan:
    """Lay out a training.

    Args:
        batch_size: examples of a step over all workers; the last step of an epoch may be smaller.
        max_steps: so many steps in place of ``epochs``, through the trees as often as it takes.
        max_tokens: of a pack, unless a single example has more.
        seed: of the order of listings, drawn anew each epoch.
    """
    is_endless = max_steps is not None and any(tree.examples for tree in trees)
    passes = _epochs(trees, batch_size, seed)
    batches = chain.from_iterable(passes if is_endless else islice(passes, epochs))
    wanted = islice(batches, max_steps)
    return PackingPlan(tuple(_step(parts, num_workers, max_tokens) for parts in wanted))


def _epochs(trees: Sequence[Tree], batch_size: int, seed: int) -> Iterator[Iterator[list[Tree]]]:
    """The batches of one epoch after the other, without an end."""
    for epoch in count():
        order = list(trees)
        random.Random(derive(seed, "order", epoch)).shuffle(order)
        yield _batches(order, batch_size)


def _batches(trees: Sequence[Tree], batch_size: int) -> Iterator[list[Tree]]:
    """Cut the trees' examples, one after the other, into batches of exactly ``batch_size``."""
    batch: list[Tree] = []
    room = batch_size
    for tree in trees:
        first = 0
        while first < len(tree.examples):
            last = min(first + room, len(tree.examples))
            batch.append(tree.with_examples(range(first, last)))
            room -= last - first
            first = last
            if room == 0:
                yield batch
                batch, room = [], batch_size
    if batch:
        yield batch


def _step(trees: Sequence[Tree], num_workers: int, max_tokens: int) -> Step:
    pieces = [piece for tree in trees for piece in _split(tree, max_tokens)]
    shares = balance_by_tokens(pieces, num_workers)
    return Step(
        sum(len(tree.examples) for tree in trees),
        sum(tree.num_scored for tree in trees),
        tuple(_packed(share, max_tokens) for share in shares),
    )


def _split(tree: Tree, max_tokens: int) -> list[Tree]:
    """The tree, or parts of it that repeat its trunk, where it is too large for one pack."""
    if tree.num_tokens <= max_tokens or len(tree.examples) == 1:
        return [tree]
    middle = len(tree.examples) // 2
    halves = (range(middle), range(middle, len(tree.examples)))
    return [part for half in halves for part in _split(tree.with_examples(half), max_tokens)]


def balance_by_tokens(trees: Sequence[Tree], num_workers: int) -> list[list[Tree]]:
    """The largest tree first, each to the worker with the fewest tokens so far."""
    shares: list[list[Tree]] = [[] for _ in range(num_workers)]
    loads = [(0, rank) for rank in range(num_workers)]
    for tree in sorted(trees, key=lambda tree: tree.num_tokens, reverse=True):
        load, rank = heapq.heappop(loads)
        shares[rank].append(tree)
        heapq.heappush(loads, (load + tree.num_tokens, rank))
    return shares


def in_order(trees: Sequence[Tree], max_tokens: int) -> Iterator[Pack]:
    """Packs of neighbours, whole trees in the order given."""
    pack: list[Tree] = []
    size = 0
    for tree in trees:
        if pack and size + tree.num_tokens > max_tokens:
            yield tuple(pack)
            pack, size = [], 0
        pack.append(tree)
        size += tree.num_tokens
    if pack:
        yield tuple(pack)


def _packed(trees: Sequence[Tree], max_tokens: int) -> tuple[Pack, ...]:
    """First fit of trees that come largest first."""
    packs: list[list[Tree]] = []
    room: list[int] = []
    for tree in trees:
        fitting = [index for index, left in enumerate(room) if left >= tree.num_tokens]
        if not fitting:
            packs.append([])
            room.append(max_tokens)
        index = fitting[0] if fitting else len(packs) - 1
        packs[index].append(tree)
        room[index] -= tree.num_tokens
    return tuple(tuple(pack) for pack in packs)
