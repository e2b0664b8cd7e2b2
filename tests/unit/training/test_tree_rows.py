"""Trees come back from their rows as they were."""

from hypothesis import given, settings

from raypipe.store.row_index import RowPlace
from raypipe.training.tree_rows import to_table, to_tree
from raypipe.training.trees import Tree, build_trees
from tests.fakes import tiny_models as models


def parts(tree: Tree) -> tuple[object, ...]:
    """A tree in values that can be compared."""
    stems = [(stem.attribute, stem.token_ids.tolist()) for stem in tree.stems]
    chains = [(chain.stem, chain.token_ids.tolist()) for chain in tree.chains]
    ids = (tree.listing_id, tree.trunk.tolist())
    return (*ids, stems, chains, tree.examples, tree.weights)


@given(models.forests())
@settings(deadline=None)
def test_trees_and_the_places_of_their_images_are_what_was_written(forest: list[Tree]) -> None:
    places = [RowPlace(number, 7 * number) for number in range(len(forest))]
    table = to_table(forest, places)
    for number, tree in enumerate(forest):
        found, place = to_tree(table.slice(number, 1))
        assert parts(found) == parts(tree)
        assert place == places[number]
        assert all(chain.token_ids.dtype == tree.trunk.dtype for chain in found.chains)


def test_targets_have_examples_of_one_chain() -> None:
    examples = models.examples(kind="target")
    trees = build_trees(examples, models.processor(), models.TOKENS_PER_IMAGE)
    table = to_table(trees, [RowPlace(0, 0)] * len(trees))
    found, _ = to_tree(table.slice(1, 1))
    assert found.examples == trees[1].examples
    assert {len(example) for example in found.examples} == {1}


def test_no_trees_are_a_table_without_rows() -> None:
    assert len(to_table([], [])) == 0
