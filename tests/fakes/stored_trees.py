"""Trees and their images in a run, as a training finds them."""

from collections.abc import Mapping, Sequence

from raypipe.schemas import LISTINGS, TREES
from raypipe.store.artifacts import Run
from raypipe.store.row_index import RowIndex
from raypipe.training.tree_index import TreeIndex
from raypipe.training.tree_rows import to_table
from raypipe.training.trees import Tree
from tests.conftest import CommitRows, MakeListing

NAME = "round-1/trees"


def store_trees(
    run: Run,
    trees: Sequence[Tree],
    images: Mapping[str, Sequence[bytes]],
    commit_rows: CommitRows,
    make_listing: MakeListing,
    *,
    per_file: int = 2,
) -> TreeIndex:
    """Commit the trees in the order given, and listings with these images in another order."""
    listings = [
        make_listing(name, "pool")
        | {"images": list(images[name]), "image_hashes": [f"{name}-{at}" for at in range(len(own))]}
        for name, own in sorted(images.items(), reverse=True)
    ]
    commit_rows(run, "catalog/listings", LISTINGS, listings, per_file=per_file)
    index = RowIndex.of(run.artifact("catalog/listings", LISTINGS))
    places = [index.find(tree.listing_id) for tree in trees]
    rows = to_table(trees, [place for place in places if place is not None]).to_pylist()
    commit_rows(run, NAME, TREES, rows, per_file=per_file)
    return TreeIndex.of(run.artifact(NAME, TREES))
