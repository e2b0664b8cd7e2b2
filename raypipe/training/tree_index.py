"""What a plan needs to know of every tree of a training: where it is, and how many tokens its parts
have.

The token ids stay in the files. For a listing of five queries with two pairs each the index takes
about 120 bytes.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cached_property
from itertools import islice
from typing import Any, Self, overload

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from raypipe.store.artifacts import Artifact

_COLUMNS = (
    "listing_id",
    "trunk_tokens",
    "stem_tokens",
    "chain_stems",
    "chain_tokens",
    "examples",
    "margins",
)
Ints = NDArray[Any]


@dataclass(frozen=True)
class Shape:
    """The parts of a tree by their numbers of tokens."""

    trunk: int
    stems: tuple[int, ...]
    chains: tuple[int, ...]
    chain_stems: tuple[int, ...]
    examples: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class IndexedTree:
    """A tree, or some of its examples, by its number in an index: a piece of a plan."""

    index: "TreeIndex" = field(repr=False)
    number: int
    examples: Sequence[int]
    """Of the examples of the whole tree."""

    @cached_property
    def num_tokens(self) -> int:
        """As of :attr:`raypipe.training.trees.Tree.num_tokens`."""
        if len(self.examples) == self.index.num_examples[self.number]:
            return int(self.index.num_tokens[self.number])
        shape = self.index.shape(self.number)
        chains = {chain for number in self.examples for chain in shape.examples[number]}
        stems = {shape.chain_stems[chain] for chain in chains}
        scored = sum(shape.chains[chain] - 1 for chain in chains)
        return shape.trunk + sum(shape.stems[stem] for stem in stems) + scored

    @cached_property
    def num_scored(self) -> int:
        """As of :attr:`raypipe.training.trees.Tree.num_scored`."""
        shape = self.index.shape(self.number)
        return sum(shape.chains[chain] for at in self.examples for chain in shape.examples[at])

    def with_examples(self, indices: Sequence[int]) -> "IndexedTree":
        """The tree with only these of its examples."""
        kept = [self.examples[index] for index in indices]
        return IndexedTree(self.index, self.number, kept)

    @property
    def place(self) -> tuple[int, int]:
        """The numbers of its file among those of the artifact, and of its row in it."""
        return self.index.place(self.number)


@dataclass(frozen=True)
class _Lists:
    """Of every tree a list of small numbers, one after the other."""

    values: Ints
    lengths: Ints

    @classmethod
    def side_by_side(cls, parts: Sequence["_Lists"]) -> Self:
        """Of every tree its lists in these parts, one after the other."""
        lengths = np.sum([part.lengths for part in parts], axis=0)
        first = np.cumsum(lengths) - lengths
        values = np.empty(int(lengths.sum()), np.int64)
        for part in parts:
            within = np.arange(len(part.values)) - np.repeat(
                np.cumsum(part.lengths) - part.lengths, part.lengths
            )
            values[np.repeat(first, part.lengths) + within] = part.values
            first = first + part.lengths
        return cls(_narrow(values), _narrow(lengths))

    @classmethod
    def end_to_end(cls, parts: Sequence["_Lists"]) -> Self:
        return cls(
            _joined([part.values for part in parts]), _joined([part.lengths for part in parts])
        )

    @cached_property
    def firsts(self) -> Ints:
        ends = np.cumsum(self.lengths, dtype=np.int64)
        return _narrow(ends - self.lengths)

    def of(self, number: int) -> Ints:
        first = int(self.firsts[number])
        return self.values[first : first + int(self.lengths[number])]


class TreeIndex(Sequence[IndexedTree]):
    """All trees of a committed artifact, in the order of the listings' ids.

    Args:
        parts: of the artifact's files, in their order.
    """

    def __init__(self, parts: Sequence["IndexedFile"]) -> None:
        ids = pa.chunked_array([part.ids for part in parts], pa.string())
        order = _narrow(np.asarray(pc.sort_indices(ids)))
        self._order = order
        self._files = _joined([np.full(len(part.ids), number) for number, part in enumerate(parts)])
        self._rows = _joined([np.arange(len(part.ids)) for part in parts])
        self._sizes = _Lists.end_to_end([part.sizes for part in parts])
        self._links = _Lists.end_to_end([part.links for part in parts])
        self._num_stems = _joined([part.num_stems for part in parts])
        self._num_chains = _joined([part.num_chains for part in parts])
        self._width = max((part.width for part in parts), default=1)
        self.num_tokens = _joined([part.num_tokens for part in parts])[order]
        """(trees,): what goes through the model of the whole tree."""
        self.num_examples = _joined([part.num_examples for part in parts])[order]
        """(trees,)"""
        self.mean_margin = _mean([part.margins for part in parts])
        """Over all examples; NaN without any."""

    @classmethod
    def of(cls, trees: Artifact) -> Self:
        """The index of a committed artifact. Raises ArtifactError on a corrupt file."""
        return cls([IndexedFile.of(table) for table in trees.read_files(_COLUMNS)])

    def __len__(self) -> int:
        return len(self._order)

    @overload
    def __getitem__(self, index: int) -> IndexedTree: ...

    @overload
    def __getitem__(self, index: slice) -> list[IndexedTree]: ...

    def __getitem__(self, index: int | slice) -> IndexedTree | list[IndexedTree]:
        numbers = range(len(self))[index]
        if isinstance(numbers, range):
            return [self[number] for number in numbers]
        return IndexedTree(self, numbers, range(int(self.num_examples[numbers])))

    def place(self, number: int) -> tuple[int, int]:
        """File and row of a tree."""
        at = self._order[number]
        return int(self._files[at]), int(self._rows[at])

    def shape(self, number: int) -> Shape:
        """The parts of a tree."""
        at = int(self._order[number])
        sizes, links = self._sizes.of(at).tolist(), iter(self._links.of(at).tolist())
        num_stems, num_chains = int(self._num_stems[at]), int(self._num_chains[at])
        chain_stems = tuple(islice(links, num_chains))
        examples = zip(*[links] * self._width, strict=True)
        stems, chains = tuple(sizes[1 : 1 + num_stems]), tuple(sizes[1 + num_stems :])
        return Shape(sizes[0], stems, chains, chain_stems, tuple(examples))

    @property
    def num_bytes(self) -> int:
        """Memory of the index."""
        lists = (self._sizes, self._links)
        arrays = [array for each in lists for array in (each.values, each.lengths, each.firsts)]
        arrays += [self._order, self._files, self._rows, self._num_stems, self._num_chains]
        return sum(array.nbytes for array in (*arrays, self.num_tokens, self.num_examples))


@dataclass(frozen=True)
class IndexedFile:
    """The trees of one file, in the order of its rows."""

    ids: pa.Array
    sizes: _Lists  # trunk, stems, chains
    links: _Lists  # of every chain its stem, then of every example its chains
    num_stems: Ints
    num_chains: Ints
    num_examples: Ints
    num_tokens: Ints
    width: int  # chains of an example
    margins: Counter[float]

    @classmethod
    def of(cls, table: pa.Table) -> "IndexedFile":
        columns = {name: table.column(name).combine_chunks() for name in table.column_names}
        trunk = np.asarray(columns["trunk_tokens"])
        stems, chains = _lists(columns["stem_tokens"]), _lists(columns["chain_tokens"])
        outer = columns["examples"]
        links = outer.flatten()
        width = len(links.flatten()) // max(len(links), 1)
        num_examples = np.asarray(pc.list_value_length(outer))
        examples = _Lists(np.asarray(links.flatten()), num_examples * width)
        num_tokens = trunk + _sums(stems) + _sums(chains) - chains.lengths
        return cls(
            columns["listing_id"],
            _Lists.side_by_side([_Lists(trunk, np.ones(len(table), np.int64)), stems, chains]),
            _Lists.side_by_side([_lists(columns["chain_stems"]), examples]),
            _narrow(stems.lengths),
            _narrow(chains.lengths),
            _narrow(num_examples),
            _narrow(num_tokens),
            width,
            Counter(columns["margins"].flatten().to_pylist()),
        )


def _lists(column: pa.Array) -> _Lists:
    return _Lists(np.asarray(column.flatten()), np.asarray(pc.list_value_length(column)))


def _sums(lists: _Lists) -> Ints:
    totals = np.concatenate([[0], np.cumsum(lists.values, dtype=np.int64)])
    ends = np.cumsum(lists.lengths, dtype=np.int64)
    sums: Ints = totals[ends] - totals[ends - lists.lengths]
    return sums


def _narrow(values: Ints) -> Ints:
    """The same numbers, none of them negative, in the smallest type that holds them."""
    largest = int(values.max(initial=0))
    return np.asarray(values, np.min_scalar_type(largest))


def _joined(parts: Sequence[Ints]) -> Ints:
    return _narrow(np.concatenate([np.zeros(0, np.uint8), *map(_narrow, parts)]))


def _mean(margins: Sequence[Counter[float]]) -> float:
    """Exact until it is rounded, so that it does not depend on the order of files."""
    counted = sum(margins, Counter[float]())
    total = sum((Fraction(value) * count for value, count in counted.items()), Fraction())
    number = counted.total()
    return float(total) / number if number else float("nan")
