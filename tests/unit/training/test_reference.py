"""The reference's log-probabilities: those of the stock model, the same whoever computed them."""

import io
from typing import Any

import pytest
import torch
from PIL import Image

from raypipe.errors import ArtifactError
from raypipe.models.families import FAMILIES
from raypipe.schemas import REFERENCE
from raypipe.store.artifacts import Run
from raypipe.training.examples import Examples
from raypipe.training.reference import commit_rows as commit_rows_of_reference
from raypipe.training.reference import reference_logprobs, reference_rows, with_reference
from raypipe.training.shared_prefix import Collator, prepare_model
from raypipe.training.trees import Tree, build_trees
from tests.conftest import CommitRows, Row
from tests.fakes import tiny_models as models
from tests.fakes.tiny_models import Family

NAME = "round-1/reference"
EVERYTHING = 1 << 30


@pytest.fixture(scope="module")
def examples() -> Examples:
    return models.examples(images=(2, 0, 1, 3))


@pytest.fixture(scope="module")
def trees(examples: Examples) -> list[Tree]:
    return build_trees(examples, models.processor(), models.TOKENS_PER_IMAGE)


def prepared(family: Family = "qwen2_5_vl") -> Any:
    base = models.with_adapter(models.model(family)).get_base_model()
    prepare_model(base, checkpointing=False)
    return base


@pytest.fixture(scope="module")
def reference() -> Any:
    return prepared()


def collator_of(base: Any, examples: Examples) -> Collator:
    own = models.processor(base.config.model_type)
    return Collator(own, examples.images, base.model.get_rope_index)


def stock_logprob(base: Any, tree: Tree, index: int, images: list[bytes]) -> float:
    """Of one chain, as a row of its own through the model as transformers has it."""
    chain = tree.chains[index]
    ids = [*tree.trunk, *tree.stems[chain.stem].token_ids, *chain.token_ids]
    row = torch.tensor([ids], dtype=torch.int64)
    seen: dict[str, Any] = {}
    if images:
        decoded = [Image.open(io.BytesIO(content)) for content in images]
        own = models.processor(base.config.model_type)
        seen = dict(own.image_processor(images=decoded, return_tensors="pt"))
        seen["mm_token_type_ids"] = (row == own.image_token_id).int()
    with torch.no_grad():
        logits = base(input_ids=row, use_cache=False, **seen).logits[0].log_softmax(-1)
    first = len(ids) - len(chain.token_ids)
    return sum(logits[at - 1, ids[at]].item() for at in range(first, len(ids)))


@pytest.mark.parametrize("max_tokens", [1, 200, EVERYTHING])
@pytest.mark.parametrize("family", FAMILIES)
def test_chains_have_the_log_probabilities_of_the_stock_model(
    examples: Examples, trees: list[Tree], family: Family, max_tokens: int
) -> None:
    stock = models.with_adapter(models.model(family)).get_base_model()
    base = prepared(family)
    found = reference_logprobs(base, trees, collator_of(base, examples), max_tokens)
    for tree, values in zip(trees, found, strict=True):
        images = examples.images[tree.listing_id]
        wanted = [stock_logprob(stock, tree, at, images) for at in range(len(tree.chains))]
        assert values == pytest.approx(wanted, rel=1e-6)


def test_the_pass_keeps_no_graph_and_leaves_the_model_training(
    examples: Examples, trees: list[Tree]
) -> None:
    base = prepared()
    modes: list[tuple[bool, bool]] = []
    base.lm_head.register_forward_hook(
        lambda module, _, out: modes.append((module.training, out.requires_grad))
    )
    base.train()
    reference_logprobs(base, trees, collator_of(base, examples), EVERYTHING)
    assert modes == [(False, False)]
    assert base.training
    base.eval()
    reference_logprobs(base, trees[:1], collator_of(base, examples), EVERYTHING)
    assert not base.training


def rows_of(
    reference: Any, examples: Examples, trees: list[Tree], *, workers: int, max_tokens: int
) -> list[Row]:
    collator = collator_of(reference, examples)
    return [
        row
        for rank in range(workers)
        for row in reference_rows(reference, trees, collator, max_tokens, rank, workers)
    ]


@pytest.mark.parametrize("max_tokens", [1, EVERYTHING])
def test_workers_cover_every_tree_once_with_the_values_of_one(
    reference: Any, examples: Examples, trees: list[Tree], max_tokens: int
) -> None:
    [alone, shared] = [
        {
            row["listing_id"]: row["chains"]
            for row in rows_of(reference, examples, trees, workers=workers, max_tokens=budget)
        }
        for workers, budget in ((1, EVERYTHING), (3, max_tokens))
    ]
    assert sorted(shared) == sorted(alone) == [tree.listing_id for tree in trees]
    for listing, chains in alone.items():
        assert len(shared[listing]) == len(chains)
        for one, other in zip(chains, shared[listing], strict=True):
            assert one | {"logprob": 0} == other | {"logprob": 0}
            assert one["logprob"] == pytest.approx(other["logprob"], rel=1e-6)


def test_more_workers_than_trees_leave_some_without_rows(
    reference: Any, examples: Examples, trees: list[Tree]
) -> None:
    collator = collator_of(reference, examples)
    rows = [
        reference_rows(reference, trees[:2], collator, EVERYTHING, rank, 3) for rank in range(3)
    ]
    assert sorted(map(len, rows)) == [0, 1, 1]


def test_the_committed_values_come_back_to_their_chains(
    run: Run,
    commit_rows: CommitRows,
    reference: Any,
    examples: Examples,
    trees: list[Tree],
) -> None:
    rows = rows_of(reference, examples, trees, workers=3, max_tokens=EVERYTHING)
    commit_rows(run, NAME, REFERENCE, rows, per_file=2)
    said = {row["listing_id"]: [chain["logprob"] for chain in row["chains"]] for row in rows}
    known = with_reference(trees, run.artifact(NAME, REFERENCE))
    for tree, bare in zip(known, trees, strict=True):
        assert [chain.reference for chain in tree.chains] == said[tree.listing_id]
        assert tree.examples == bare.examples
        for chain, other in zip(tree.chains, bare.chains, strict=True):
            assert (chain.stem, chain.token_ids.tolist()) == (other.stem, other.token_ids.tolist())


def rows_without_model(trees: list[Tree]) -> list[Row]:
    return [
        {
            "listing_id": tree.listing_id,
            "chains": [
                {
                    "attribute": tree.stems[chain.stem].attribute,
                    "token_ids": chain.token_ids.tolist(),
                    "logprob": -1.0,
                }
                for chain in tree.chains
            ],
        }
        for tree in trees
    ]


@pytest.mark.parametrize("changed", ["tokens", "fewer", "listing"])
def test_a_reference_of_other_chains_is_refused_by_listing(
    run: Run, commit_rows: CommitRows, trees: list[Tree], changed: str
) -> None:
    rows = rows_without_model(trees)
    chains = rows[2]["chains"]
    if changed == "tokens":
        chains[1]["token_ids"][-1] += 1
    elif changed == "fewer":
        chains.pop()
    else:
        rows.pop(2)
    commit_rows(run, NAME, REFERENCE, rows)
    with pytest.raises(ArtifactError, match=f"{NAME} holds other chains of listing-2"):
        with_reference(trees, run.artifact(NAME, REFERENCE))


def test_a_reference_of_more_chains_in_any_order_serves_a_part(
    run: Run, commit_rows: CommitRows, trees: list[Tree]
) -> None:
    rows = rows_without_model(trees)
    for row in rows:
        for number, chain in enumerate(row["chains"]):
            chain["logprob"] = -float(number + 1)
        row["chains"].reverse()
    commit_rows(run, NAME, REFERENCE, rows)
    part = [tree.with_examples([len(tree.examples) - 1]) for tree in trees[:2]]
    known = with_reference(part, run.artifact(NAME, REFERENCE))
    for tree, whole in zip(known, trees, strict=False):
        numbered = {chain.token_ids.tobytes(): at for at, chain in enumerate(whole.chains)}
        for chain in tree.chains:
            assert chain.reference == -float(numbered[chain.token_ids.tobytes()] + 1)


def test_of_two_writers_that_differ_in_the_last_digits_one_wins(
    run: Run, trees: list[Tree]
) -> None:
    first, second = rows_without_model(trees), rows_without_model(trees)
    second[0]["chains"][0]["logprob"] = -1.0000001
    artifact = run.artifact(NAME, REFERENCE)
    late = artifact.attempt({"of": "pairs"})
    commit_rows_of_reference(artifact, {"of": "pairs"}, first)
    late.write(REFERENCE.from_rows(second))
    with pytest.raises(ArtifactError):
        late.commit()
    kept = commit_rows_of_reference(artifact, {"of": "pairs"}, second)
    assert kept.digest == artifact.require_commit().digest
