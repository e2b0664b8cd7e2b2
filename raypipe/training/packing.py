"""Which examples make a step, and which worker puts which trees through the model together.

A step is the configured number of examples, whatever the number of workers: what is learned does
not depend on where. Within a step trees are spread by tokens, so that no worker waits for another.
"""

import heapq
import random
from array import array
from collections.abc import Iterable, Iterator, Sequence, Sized
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, Generic, Protocol, Self, TypeVar, overload

import numpy as np
from numpy.typing import NDArray

from raypipe.seeds import derive

_STEPS_KEPT = 32
_EPOCHS_KEPT = 2


class PackItem(Protocol):
    """Examples of one listing, as far as a plan knows them: a tree, or its entry in an index."""

    @property
    def examples(self) -> Sized: ...

    @property
    def num_tokens(self) -> int: ...

    @property
    def num_scored(self) -> int: ...

    def with_examples(self, indices: Sequence[int]) -> Self: ...


P = TypeVar("P", bound=PackItem)
Pack = tuple[P, ...]


@dataclass(frozen=True)
class Step(Generic[P]):
    """One optimizer step: its size over all workers, and the packs of each worker."""

    num_examples: int
    num_scored: int
    packs: tuple[tuple[Pack[P], ...], ...]
    """Of each worker; a worker without work in this step has an empty tuple."""


class PackingPlan(Generic[P]):
    """A whole training, epoch after epoch. A step is laid out when it is asked for, so that a plan
    takes 16 bytes a tree however many steps there are.

    Args:
        trees: what is trained on; only those of a step are looked up for it.
        num_steps: of the whole training.
    """

    def __init__(
        self,
        trees: Sequence[P],
        *,
        batch_size: int,
        num_steps: int,
        num_workers: int,
        max_tokens: int,
        seed: int,
    ) -> None:
        self._trees = trees
        self.batch_size = batch_size
        self._num_steps = num_steps
        self._num_workers = num_workers
        self._max_tokens = max_tokens
        self._seed = seed
        self._counts = _num_examples(trees)
        self._step = lru_cache(_STEPS_KEPT)(self._laid_out)
        self._epoch = lru_cache(_EPOCHS_KEPT)(self._shuffled)

    @property
    def steps(self) -> "Steps[P]":
        return Steps(self._num_steps, self._step)

    @cached_property
    def packs_per_step(self) -> int:
        """The most that any worker has in any step: all workers must accumulate equally often."""
        steps = map(self._laid_out, range(self._num_steps))
        return max(len(packs) for step in steps for packs in step.packs)

    @property
    def num_packs(self) -> int:
        """Of each worker, empty ones included."""
        return self._num_steps * self.packs_per_step

    def pack(self, rank: int, number: int) -> tuple[int, Pack[P]]:
        """One of the packs of a worker, with its step; a step is filled up with empty ones."""
        step, place = divmod(number, self.packs_per_step)
        packs = self._step(step).packs[rank]
        return step, packs[place] if place < len(packs) else ()

    def packs_of(self, rank: int) -> Iterator[tuple[int, Pack[P]]]:
        """The packs of a worker in order, as (step, pack)."""
        return (self.pack(rank, number) for number in range(self.num_packs))

    def _laid_out(self, number: int) -> Step[P]:
        trees = list(self._batch(number))
        pieces = [piece for tree in trees for piece in _split(tree, self._max_tokens)]
        shares = balance_by_tokens(pieces, self._num_workers)
        return Step(
            sum(len(tree.examples) for tree in trees),
            sum(tree.num_scored for tree in trees),
            tuple(_packed(share, self._max_tokens) for share in shares),
        )

    def _batch(self, number: int) -> Iterator[P]:
        """The trees of a step, each with only those of its examples that are in it."""
        total = int(self._counts.sum())
        epoch, batch = divmod(number, -(-total // self.batch_size))
        order, ends = self._epoch(epoch)
        first = batch * self.batch_size
        last = min(first + self.batch_size, total)
        at = int(np.searchsorted(ends, first, side="right"))
        while first < last:
            tree, end = int(order[at]), int(ends[at])
            begin, stop = end - int(self._counts[tree]), min(last, end)
            if first < stop:
                yield self._trees[tree].with_examples(range(first - begin, stop - begin))
            first, at = stop, at + 1

    def _shuffled(self, epoch: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The order of the trees in an epoch, and how many examples there are up to each."""
        numbers = array("q", range(len(self._trees)))
        random.Random(derive(self._seed, "order", epoch)).shuffle(numbers)
        order = np.frombuffer(numbers, np.int64)
        return order, np.cumsum(self._counts[order], dtype=np.int64)


class Steps(Sequence[Step[P]]):
    """The steps of a plan, each laid out when it is looked up."""

    def __init__(self, number: int, lay_out: Any) -> None:
        self._numbers = range(number)
        self._lay_out = lay_out

    def __len__(self) -> int:
        return len(self._numbers)

    @overload
    def __getitem__(self, index: int) -> Step[P]: ...

    @overload
    def __getitem__(self, index: slice) -> tuple[Step[P], ...]: ...

    def __getitem__(self, index: int | slice) -> Step[P] | tuple[Step[P], ...]:
        if isinstance(index, slice):
            return tuple(map(self._lay_out, self._numbers[index]))
        step: Step[P] = self._lay_out(self._numbers[index])
        return step


def plan_packs(
    trees: Sequence[P],
    *,
    batch_size: int,
    epochs: int,
    num_workers: int,
    max_tokens: int,
    seed: int,
    max_steps: int | None = None,
) -> PackingPlan[P]:
    """Lay out a training.

    Args:
        batch_size: examples of a step over all workers; the last step of an epoch may be smaller.
        max_steps: so many steps in place of ``epochs``, through the trees as often as it takes.
        max_tokens: of a pack, unless a single example has more.
        seed: of the order of listings, drawn anew each epoch.
    """
    an_epoch = -(-int(_num_examples(trees).sum()) // batch_size)
    return PackingPlan(
        trees,
        batch_size=batch_size,
        num_steps=min(an_epoch, 1) * max_steps if max_steps is not None else epochs * an_epoch,
        num_workers=num_workers,
        max_tokens=max_tokens,
        seed=seed,
    )


def _num_examples(trees: Sequence[PackItem]) -> NDArray[np.int64]:
    return np.fromiter((len(tree.examples) for tree in trees), np.int64, len(trees))


def _split(tree: P, max_tokens: int) -> list[P]:
    """The tree, or parts of it that repeat its trunk, where it is too large for one pack."""
    if tree.num_tokens <= max_tokens or len(tree.examples) == 1:
        return [tree]
    middle = len(tree.examples) // 2
    halves = (range(middle), range(middle, len(tree.examples)))
    return [part for half in halves for part in _split(tree.with_examples(half), max_tokens)]


def balance_by_tokens(trees: Sequence[P], num_workers: int) -> list[list[P]]:
    """The trees of each worker, the largest first."""
    shares: list[list[P]] = [[] for _ in range(num_workers)]
    for number, rank in assign_workers([tree.num_tokens for tree in trees], num_workers):
        shares[rank].append(trees[number])
    return shares


def assign_workers(
    num_tokens: Sequence[int] | NDArray[Any], num_workers: int
) -> Iterator[tuple[int, int]]:
    """(number of the tree, worker): the largest tree first, each to the worker with the fewest
    tokens so far."""
    sizes = np.asarray(num_tokens, np.int64)
    loads = [(0, rank) for rank in range(num_workers)]
    for number in np.argsort(-sizes, kind="stable"):
        load, rank = loads[0]
        heapq.heapreplace(loads, (load + int(sizes[number]), rank))
        yield int(number), rank


def in_order(trees: Iterable[P], max_tokens: int) -> Iterator[Pack[P]]:
    """Packs of neighbours, whole trees in the order given."""
    pack: list[P] = []
    size = 0
    for tree in trees:
        if pack and size + tree.num_tokens > max_tokens:
            yield tuple(pack)
            pack.clear()
            size = 0
        pack.append(tree)
        size += tree.num_tokens
    if pack:
        yield tuple(pack)


def _packed(trees: Sequence[P], max_tokens: int) -> tuple[Pack[P], ...]:
    """First fit of trees that come largest first."""
    packs: list[list[P]] = []
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
