"""A pack is read as its trees and the images of their listings."""

from dataclasses import replace

import pytest

from raypipe.errors import ArtifactError
from raypipe.schemas import LISTINGS, REFERENCE
from raypipe.store.artifacts import Run
from raypipe.training.examples import Examples
from raypipe.training.pack_reader import PackReader
from raypipe.training.tree_index import TreeIndex
from raypipe.training.tree_rows import reference_row
from raypipe.training.trees import Tree, build_trees
from tests.conftest import CommitRows, MakeListing, Row
from tests.fakes import tiny_models as models
from tests.fakes.stored_trees import NAME, store_trees
from tests.unit.training.test_tree_rows import parts

REFERENCE_NAME = "round-1/reference"


@pytest.fixture(scope="module")
def examples() -> Examples:
    return models.examples(images=(2, 0, 1, 3, 1))


@pytest.fixture(scope="module")
def trees(examples: Examples) -> list[Tree]:
    """Built trees, whose examples have margins."""
    built = build_trees(examples, models.processor(), models.TOKENS_PER_IMAGE)
    return [replace(tree, weights=(0.25, 0.5, 0.75, 0.5)) for tree in built]


@pytest.fixture
def index(
    run: Run,
    examples: Examples,
    trees: list[Tree],
    commit_rows: CommitRows,
    make_listing: MakeListing,
) -> TreeIndex:
    return store_trees(run, trees[::-1], examples.images, commit_rows, make_listing)


def test_trees_come_with_the_images_of_their_listings(
    run: Run, index: TreeIndex, trees: list[Tree], examples: Examples
) -> None:
    loaded = PackReader(run, NAME)((index[3], index[0], index[1]))
    assert loaded.images == {f"listing-{at}": examples.images[f"listing-{at}"] for at in (3, 0, 1)}
    for found, wanted in zip(loaded.trees, (trees[3], trees[0], trees[1]), strict=True):
        assert parts(found) == parts(replace(wanted, weights=(1.0,) * 4))
    assert PackReader(run, NAME)(()).trees == ()


def test_of_a_part_of_a_tree_the_part_is_read(
    run: Run, index: TreeIndex, trees: list[Tree]
) -> None:
    halves = [index[2].with_examples(range(1, 4)), index[2].with_examples([2])]
    loaded = PackReader(run, NAME)((*halves, halves[0].with_examples(range(1, 2))))
    kept = [[1, 2, 3], [2], [2]]
    for found, indices in zip(loaded.trees, kept, strict=True):
        wanted = replace(trees[2].with_examples(indices), weights=(1.0,) * len(indices))
        assert parts(found) == parts(wanted)


def test_margins_become_weights_of_mean_1(run: Run, index: TreeIndex) -> None:
    assert index.mean_margin == 0.5
    [tree] = PackReader(run, NAME, index.mean_margin)((index[1],)).trees
    assert tree.weights == (0.5, 1.0, 1.5, 1.0)


def said_of(trees: list[Tree]) -> list[Row]:
    return [reference_row(tree, [-float(at) for at in range(len(tree.chains))]) for tree in trees]


def test_chains_get_what_the_reference_says_of_them(
    run: Run, index: TreeIndex, trees: list[Tree], commit_rows: CommitRows
) -> None:
    commit_rows(run, REFERENCE_NAME, REFERENCE, said_of(trees), per_file=3)
    read = PackReader(run, NAME)
    read.set_reference(run.artifact(REFERENCE_NAME, REFERENCE))
    for number, tree in enumerate(trees):
        loaded = read((index[number], index[number].with_examples([3])))
        wanted = tree.with_reference([-float(at) for at in range(len(tree.chains))])
        for found, whole in zip(loaded.trees, (wanted, wanted.with_examples([3])), strict=True):
            assert [c.reference for c in found.chains] == [c.reference for c in whole.chains]


def test_a_reference_that_lacks_a_listing_is_refused_when_its_pack_is_read(
    run: Run, index: TreeIndex, trees: list[Tree], commit_rows: CommitRows
) -> None:
    commit_rows(run, REFERENCE_NAME, REFERENCE, said_of(trees[:4]))
    read = PackReader(run, NAME)
    read.set_reference(run.artifact(REFERENCE_NAME, REFERENCE))
    read((index[3],))
    with pytest.raises(ArtifactError, match=f"{REFERENCE_NAME} holds other chains of listing-4"):
        read((index[4],))


def test_images_that_are_elsewhere_by_now_are_refused(
    run: Run,
    index: TreeIndex,
    commit_rows: CommitRows,
    make_listing: MakeListing,
) -> None:
    run.filesystem.delete_dir(run.path("catalog/listings"))
    rows = [make_listing(f"listing-{number}", "pool") for number in range(5)]
    commit_rows(run, "catalog/listings", LISTINGS, rows, per_file=2)
    with pytest.raises(ArtifactError, match="catalog/listings does not hold 'listing-0' where"):
        PackReader(run, NAME)((index[0],))
