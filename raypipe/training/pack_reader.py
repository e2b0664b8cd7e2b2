"""The trees and images of a pack, read from the run's files when its turn comes."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from raypipe.schemas import LISTINGS, TREES
from raypipe.store.artifacts import Artifact, Run
from raypipe.store.paths import CATALOG
from raypipe.store.row_index import RowIndex
from raypipe.store.row_reader import RowReader
from raypipe.training.tree_index import IndexedTree
from raypipe.training.tree_rows import to_tree, with_reference
from raypipe.training.trees import Tree

_TREE_BYTES, _IMAGE_BYTES, _REFERENCE_BYTES = 32 << 20, 128 << 20, 32 << 20


@dataclass(frozen=True)
class LoadedPack:
    """The trees of a pack, and the encoded images of their listings; without ``images`` whoever
    collates the pack has them."""

    trees: tuple[Tree, ...]
    images: Mapping[str, Sequence[bytes]] | None = None


class PackReader:
    """Reads packs of indexed trees; what it keeps in memory does not grow with the training.

    Args:
        trees: name of the committed trees artifact that the index was made from.
        mean_margin: by which margins are divided to weights; None weights every example 1.
    """

    def __init__(self, run: Run, trees: str, mean_margin: float | None = None) -> None:
        listings = run.artifact(CATALOG.listings, LISTINGS)
        self._trees = RowReader(run.artifact(trees, TREES), TREES.schema.names, _TREE_BYTES)
        self._images = RowReader(listings, ["listing_id", "images"], _IMAGE_BYTES)
        self._mean_margin = mean_margin
        self._reference: _CommittedReference | None = None

    def set_reference(self, reference: Artifact) -> None:
        """Give the chains of all packs from now on the reference's log-probabilities."""
        self._reference = _CommittedReference(reference)

    def __call__(self, pack: Iterable[IndexedTree]) -> LoadedPack:
        """Raises ArtifactError when a row is missing, corrupt or of another listing."""
        trees, images = [], {}
        for piece in pack:
            tree, place = to_tree(self._trees.row(*piece.place))
            weights = [self._weight(margin) for margin in tree.weights]
            tree = replace(tree, weights=tuple(weights))
            if self._reference is not None:
                tree = self._reference.added_to(tree)
            trees.append(tree.with_examples(piece.examples))
            row = self._images.row(place.file, place.row, tree.listing_id)
            images[tree.listing_id] = row.column("images")[0].as_py()
        return LoadedPack(tuple(trees), images)

    def listing_id(self, piece: IndexedTree) -> str:
        """The listing of a tree."""
        found: str = self._trees.row(*piece.place).column("listing_id")[0].as_py()
        return found

    def _weight(self, margin: float) -> float:
        return 1.0 if self._mean_margin is None else margin / self._mean_margin


class _CommittedReference:
    """The rows of a committed reference, by listing."""

    def __init__(self, artifact: Artifact) -> None:
        self._name = artifact.name
        self._index = RowIndex.of(artifact)
        self._reader = RowReader(artifact, ["listing_id", "chains"], _REFERENCE_BYTES)

    def added_to(self, tree: Tree) -> Tree:
        place = self._index.find(tree.listing_id)
        chains: list[Any] = []
        if place is not None:
            row = self._reader.row(place.file, place.row, tree.listing_id)
            chains = row.column("chains")[0].as_py()
        return with_reference(tree, chains, self._name)
