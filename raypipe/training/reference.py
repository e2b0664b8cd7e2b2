"""Log-probabilities of chains under DPO's reference policy: computed once per pair set, and kept.

The reference never changes while a round trains, so its pass goes over every distinct chain once,
sharing prefixes as training does, and what it gives is committed beside the pairs.
"""

from collections.abc import Sequence
from typing import Any

import torch

from raypipe.errors import ArtifactError
from raypipe.schemas import REFERENCE
from raypipe.store.artifacts import Artifact, Attempt, get_or_commit
from raypipe.store.manifest import Commit, Fingerprint
from raypipe.training.packing import balance_by_tokens, in_order
from raypipe.training.shared_prefix import Collator, chain_logprobs
from raypipe.training.trees import Tree

Row = dict[str, object]


def reference_logprobs(
    model: Any, trees: Sequence[Tree], collator: Collator, max_tokens: int
) -> list[list[float]]:
    """Per tree, the log-probability (nats) of each of its chains under the model as it stands.

    Args:
        model: the conditional-generation model after ``prepare``, with the adapter set that is
            to be asked.
        max_tokens: of the trees that go through the model together.
    """
    found: list[list[float]] = []
    was_training = model.training
    model.eval()
    with torch.no_grad():
        for pack in in_order(trees, max_tokens):
            batch = collator(pack)
            values = iter(chain_logprobs(model, batch).tolist() if batch else ())
            found += [[next(values) for _ in tree.chains] for tree in pack]
    model.train(was_training)
    return found


def reference_rows(
    model: Any, trees: Sequence[Tree], collator: Collator, max_tokens: int, rank: int, workers: int
) -> list[Row]:
    """The rows of the reference table for one worker's share of the trees, balanced by tokens."""
    share = balance_by_tokens(trees, workers)[rank]
    logprobs = reference_logprobs(model, share, collator, max_tokens)
    return [_row(tree, values) for tree, values in zip(share, logprobs, strict=True)]


def _row(tree: Tree, logprobs: list[float]) -> Row:
    chains = [
        {
            "attribute": tree.stems[chain.stem].attribute,
            "token_ids": chain.token_ids.tolist(),
            "logprob": value,
        }
        for chain, value in zip(tree.chains, logprobs, strict=True)
    ]
    return {"listing_id": tree.listing_id, "chains": chains}


def commit_rows(artifact: Artifact, fingerprint: Fingerprint, rows: list[Row]) -> Commit:
    """Commit the reference of a pair set; of two writers one wins.

    Trainings that share a reference may compute it at once, and differ in the last digits.
    """

    def make(attempt: Attempt) -> Commit:
        attempt.write(REFERENCE.from_rows(sorted(rows, key=lambda row: str(row["listing_id"]))))
        return attempt.commit(counts={"listings": len(rows)})

    try:
        return get_or_commit(artifact, fingerprint, make)
    except ArtifactError:
        other = artifact.find_commit(fingerprint)
        if other is None:
            raise
        return other


def with_reference(trees: Sequence[Tree], reference: Artifact) -> list[Tree]:
    """The trees with what the committed reference says of their chains, and of others maybe.

    Raises:
        ArtifactError: the reference says nothing of one of these chains.
    """
    rows = {row["listing_id"]: row["chains"] for row in reference.read().to_pylist()}
    known = []
    for tree in trees:
        said = {
            (chain["attribute"], tuple(chain["token_ids"])): chain["logprob"]
            for chain in rows.get(tree.listing_id, [])
        }
        own = [(tree.stems[c.stem].attribute, tuple(c.token_ids.tolist())) for c in tree.chains]
        if not said.keys() >= set(own):
            raise ArtifactError(
                f"{reference.name} holds other chains of {tree.listing_id} than the pairs"
            )
        known.append(tree.with_reference([said[chain] for chain in own]))
    return known
