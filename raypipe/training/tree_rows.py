"""Trees as rows of the trees table and of the reference table, and back."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate
from typing import Any

import numpy as np
import pyarrow as pa

from raypipe.errors import ArtifactError
from raypipe.schemas import TREES
from raypipe.store.row_index import RowPlace
from raypipe.training.trees import ChainNode, Stem, Tokens, Tree


def to_table(trees: Sequence[Tree], images: Sequence[RowPlace]) -> pa.Table:
    """Trees as rows; the weights of their examples are margins.

    Args:
        images: where the images of each tree are among the prepared listings.
    """
    columns: dict[str, list[object]] = {name: [] for name in TREES.schema.names}
    for tree, place in zip(trees, images, strict=True):
        stems = [stem.token_ids for stem in tree.stems]
        chains = [chain.token_ids for chain in tree.chains]
        values: dict[str, object] = {
            "listing_id": tree.listing_id,
            "image_file": place.file,
            "image_row": place.row,
            "token_ids": np.concatenate([tree.trunk, *stems, *chains]),
            "trunk_tokens": len(tree.trunk),
            "attributes": [stem.attribute for stem in tree.stems],
            "stem_tokens": [len(ids) for ids in stems],
            "chain_stems": [chain.stem for chain in tree.chains],
            "chain_tokens": [len(ids) for ids in chains],
            "examples": [list(example) for example in tree.examples],
            "margins": list(tree.weights),
        }
        for name, value in values.items():
            columns[name].append(value)
    arrays = [pa.array(columns[field.name], field.type) for field in TREES.schema]
    return TREES.conform(pa.Table.from_arrays(arrays, schema=TREES.schema))


def to_tree(row: pa.Table) -> tuple[Tree, RowPlace]:
    """The tree of a table of one row, and where its images are."""
    token_ids: Tokens = np.array(row.column("token_ids")[0].values, np.int32)
    [values] = row.drop_columns("token_ids").to_pylist()
    sizes = [values["trunk_tokens"], *values["stem_tokens"], *values["chain_tokens"]]
    ends = accumulate(sizes)
    parts = [token_ids[end - size : end] for end, size in zip(ends, sizes, strict=True)]
    first_chain = 1 + len(values["attributes"])
    tree = Tree(
        values["listing_id"],
        parts[0],
        tuple(map(Stem, values["attributes"], parts[1:first_chain])),
        tuple(map(ChainNode, values["chain_stems"], parts[first_chain:])),
        tuple(map(tuple, values["examples"])),
        tuple(values["margins"]),
    )
    return tree, RowPlace(values["image_file"], values["image_row"])


def reference_row(tree: Tree, logprobs: Iterable[float]) -> dict[str, object]:
    """A row of the reference table: the chains of a tree with their log-probabilities (nats)."""
    chains = [
        {
            "attribute": tree.stems[chain.stem].attribute,
            "token_ids": chain.token_ids.tolist(),
            "logprob": value,
        }
        for chain, value in zip(tree.chains, logprobs, strict=True)
    ]
    return {"listing_id": tree.listing_id, "chains": chains}


def with_reference(tree: Tree, chains: Sequence[Mapping[str, Any]], name: str) -> Tree:
    """The tree with what a reference says of its chains.

    Args:
        chains: of the listing's row in the reference; of others too, maybe, in any order.
        name: of the reference, for messages.

    Raises:
        ArtifactError: the reference says nothing of one of the tree's chains.
    """
    said = {(chain["attribute"], tuple(chain["token_ids"])): chain["logprob"] for chain in chains}
    own = [(tree.stems[c.stem].attribute, tuple(c.token_ids.tolist())) for c in tree.chains]
    if not said.keys() >= set(own):
        raise ArtifactError(f"{name} holds other chains of {tree.listing_id} than the pairs")
    return tree.with_reference([said[chain] for chain in own])
