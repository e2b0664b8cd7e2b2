"""An index knows of trees, and of every part of them, what a plan asks."""

import math
from dataclasses import replace
from statistics import fmean

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raypipe.store.artifacts import Run
from raypipe.store.row_index import RowPlace
from raypipe.training.packing import plan_packs
from raypipe.training.tree_index import IndexedFile, TreeIndex
from raypipe.training.tree_rows import to_table
from raypipe.training.trees import Tree, build_trees
from tests.conftest import CommitRows, MakeListing
from tests.fakes import tiny_models as models
from tests.fakes.stored_trees import NAME, store_trees


def index_of(forest: list[Tree], per_file: int = 2) -> TreeIndex:
    """As of a committed artifact, without files."""
    table = to_table(forest, [RowPlace(0, 0)] * len(forest))
    parts = range(0, len(forest), per_file)
    return TreeIndex([IndexedFile.of(table.slice(first, per_file)) for first in parts])


def used(forest: list[Tree]) -> list[Tree]:
    """The trees as they are built: without chains that no example names."""
    return [tree.with_examples(range(len(tree.examples))) for tree in forest]


FORESTS = models.forests().map(used)


@given(FORESTS, st.data())
@settings(deadline=None)
def test_a_part_of_a_tree_counts_as_the_tree_does(forest: list[Tree], data: st.DataObject) -> None:
    index = index_of(forest)
    assert len(index) == len(forest)
    for tree, known in zip(forest, index, strict=True):
        assert (known.num_tokens, known.num_scored) == (tree.num_tokens, tree.num_scored)
        first = data.draw(st.integers(0, len(tree.examples) - 1))
        last = data.draw(st.integers(first + 1, len(tree.examples)))
        part, known = (
            tree.with_examples(range(first, last)),
            known.with_examples(range(first, last)),
        )
        assert len(known.examples) == len(part.examples)
        assert (known.num_tokens, known.num_scored) == (part.num_tokens, part.num_scored)
        half = range(len(part.examples) // 2, len(part.examples))
        part, known = part.with_examples(half), known.with_examples(half)
        assert (known.num_tokens, known.num_scored) == (part.num_tokens, part.num_scored)


@given(FORESTS, st.integers(1, 9), st.integers(1, 4), st.integers(1, 60), st.integers(0, 99))
@settings(deadline=None)
def test_the_plan_of_an_index_is_the_plan_of_its_trees(
    forest: list[Tree], batch_size: int, num_workers: int, max_tokens: int, seed: int
) -> None:
    how = {"batch_size": batch_size, "num_workers": num_workers, "max_tokens": max_tokens}
    wanted = plan_packs(forest, epochs=2, seed=seed, **how)
    found = plan_packs(index_of(forest), epochs=2, seed=seed, **how)
    assert len(found.steps) == len(wanted.steps)
    for step, other in zip(found.steps, wanted.steps, strict=True):
        assert (step.num_examples, step.num_scored) == (other.num_examples, other.num_scored)
        assert [
            [[(forest[one.number].listing_id, one.num_tokens) for one in pack] for pack in packs]
            for packs in step.packs
        ] == [
            [[(tree.listing_id, tree.num_tokens) for tree in pack] for pack in packs]
            for packs in other.packs
        ]


def test_trees_are_in_the_order_of_their_listings_and_known_by_their_rows(
    run: Run, commit_rows: CommitRows, make_listing: MakeListing
) -> None:
    examples = models.examples(images=(1, 0, 2, 1, 1))
    trees = build_trees(examples, models.processor(), models.TOKENS_PER_IMAGE)
    mixed = [trees[at] for at in (3, 0, 4, 2, 1)]
    index = store_trees(run, mixed, examples.images, commit_rows, make_listing)
    assert [tree.place for tree in index] == [(0, 1), (2, 0), (1, 1), (0, 0), (1, 0)]
    assert [tree.num_tokens for tree in index] == [tree.num_tokens for tree in trees]
    assert [tree.number for tree in index[1:3]] == [1, 2]
    assert NAME == "round-1/trees"


def weighted(tree: Tree, weights: tuple[float, ...]) -> Tree:
    return replace(tree.with_examples(range(len(weights))), weights=weights)


@pytest.mark.parametrize("per_file", [1, 2, 10])
def test_the_mean_margin_does_not_depend_on_files(per_file: int) -> None:
    trees = build_trees(
        models.examples(images=(0, 0, 0)), models.processor(), models.TOKENS_PER_IMAGE
    )
    margins = [(1 / 7, 3 / 7), (3 / 7,), (5 / 7, 5 / 7, 1 / 7)]
    forest = list(map(weighted, trees, margins))
    assert index_of(forest, per_file).mean_margin == fmean([m for each in margins for m in each])


def test_an_index_of_nothing_plans_nothing() -> None:
    index = TreeIndex([])
    assert (len(index), list(index)) == (0, [])
    assert math.isnan(index.mean_margin)
    plan = plan_packs(index, batch_size=4, epochs=3, num_workers=2, max_tokens=9, seed=0)
    assert len(plan.steps) == 0


def test_the_index_takes_a_few_bytes_a_part() -> None:
    examples = models.examples(images=(1,) * 40, queries=5, per_query=2)
    index = index_of(build_trees(examples, models.processor(), models.TOKENS_PER_IMAGE), 40)
    assert index.num_bytes / len(index) < 150
