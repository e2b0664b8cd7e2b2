"""The reference's log-probabilities: those of the stock model, the same whoever computed them."""

import io
from collections.abc import Callable
from typing import Any

import pytest
import torch
from PIL import Image

from raypipe.errors import ArtifactError
from raypipe.models.families import FAMILIES
from raypipe.schemas import REFERENCE
from raypipe.store.artifacts import Attempt, Run
from raypipe.store.data_files import DataFile
from raypipe.store.row_index import Keys, keys_of
from raypipe.training.examples import Examples
from raypipe.training.pack_reader import PackReader
from raypipe.training.reference import (
    ReferencePass,
    commit_files,
    keys_in,
    reference_logprobs,
)
from raypipe.training.shared_prefix import Collator, prepare_model
from raypipe.training.tree_rows import reference_row, with_reference
from raypipe.training.trees import Tree, build_trees
from tests.conftest import CommitRows, MakeListing, Row
from tests.fakes import tiny_models as models
from tests.fakes.stored_trees import NAME as TREES_NAME
from tests.fakes.stored_trees import store_trees
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


Passes = Callable[..., list[ReferencePass]]


@pytest.fixture
def passes(
    run: Run,
    examples: Examples,
    trees: list[Tree],
    reference: Any,
    commit_rows: CommitRows,
    make_listing: MakeListing,
) -> Passes:
    """The passes of all workers over the stored trees, or over some of them."""
    index = store_trees(run, trees, examples.images, commit_rows, make_listing)
    rope_index = reference.model.get_rope_index
    collator = Collator(models.processor(), {}, rope_index)

    def made(
        workers: int, max_tokens: int = EVERYTHING, numbers: list[int] | None = None
    ) -> list[ReferencePass]:
        read = PackReader(run, TREES_NAME)
        return [
            ReferencePass(index, read, collator, numbers, max_tokens, rank, workers)
            for rank in range(workers)
        ]

    return made


def attempt_of(run: Run) -> Attempt:
    return run.artifact(NAME, REFERENCE).attempt({"of": "pairs"})


def written(
    run: Run, passes: list[ReferencePass], model: Any, done: Keys | None = None
) -> list[DataFile]:
    """The files of all workers, each with an attempt of its own."""
    keys = keys_of([]) if done is None else done
    return [file for own in passes for file in own.write(model, attempt_of(run), keys)]


def committed(run: Run) -> dict[str, Any]:
    rows = run.artifact(NAME, REFERENCE).read().to_pylist()
    assert len({row["listing_id"] for row in rows}) == len(rows)
    return {row["listing_id"]: row["chains"] for row in rows}


@pytest.mark.parametrize("max_tokens", [1, EVERYTHING])
def test_workers_cover_every_tree_once_with_the_values_of_one(
    run: Run,
    passes: Passes,
    reference: Any,
    examples: Examples,
    trees: list[Tree],
    max_tokens: int,
) -> None:
    files = written(run, passes(3, max_tokens), reference)
    commit_files(run.artifact(NAME, REFERENCE), attempt_of(run), files, len(trees))
    shared = committed(run)
    alone = reference_logprobs(reference, trees, collator_of(reference, examples), EVERYTHING)
    assert sorted(shared) == [tree.listing_id for tree in trees]
    for tree, values in zip(trees, alone, strict=True):
        chains = shared[tree.listing_id]
        assert [chain["token_ids"] for chain in chains] == [
            chain.token_ids.tolist() for chain in tree.chains
        ]
        assert [chain["logprob"] for chain in chains] == pytest.approx(values, rel=1e-6)


def test_more_workers_than_trees_leave_some_without_files(
    run: Run, passes: Passes, reference: Any
) -> None:
    own = passes(3, EVERYTHING, [0, 3])
    assert [each.num_trees for each in own] == [2, 2, 2]
    files = [each.write(reference, attempt_of(run), keys_of([])) for each in own]
    assert sorted(map(len, files)) == [0, 1, 1]
    assert {name for part in files for file in part for name in file.ids.to_pylist()} == {
        "listing-0",
        "listing-3",
    }


def test_what_an_interrupted_pass_has_written_is_not_computed_again(
    run: Run, passes: Passes, reference: Any, trees: list[Tree]
) -> None:
    first, second = passes(2)
    begun = first.write(reference, attempt_of(run), keys_of([]))
    resumed = attempt_of(run)
    kept = resumed.salvage()
    assert [file.digest for file in kept] == [file.digest for file in begun]
    more = written(run, [first, second], reference, keys_in(kept))
    assert {name for file in more for name in file.ids.to_pylist()} == {
        tree.listing_id for tree in trees
    } - {name for file in kept for name in file.ids.to_pylist()}
    commit_files(run.artifact(NAME, REFERENCE), resumed, [*kept, *more], len(trees))
    assert sorted(committed(run)) == [tree.listing_id for tree in trees]


def test_a_reference_that_lacks_trees_is_not_committed(
    run: Run, passes: Passes, reference: Any, trees: list[Tree]
) -> None:
    files = written(run, passes(2)[:1], reference)
    artifact = run.artifact(NAME, REFERENCE)
    with pytest.raises(ArtifactError, match=r"listings came out instead of 4"):
        commit_files(artifact, attempt_of(run), files, len(trees))
    assert artifact.commit() is None


def rows_without_model(trees: list[Tree]) -> list[Row]:
    return [reference_row(tree, [-1.0] * len(tree.chains)) for tree in trees]


def known(trees: list[Tree], rows: list[Row]) -> list[Tree]:
    """The trees with what a reference of these rows says."""
    said = {row["listing_id"]: row["chains"] for row in rows}
    return [with_reference(tree, said.get(tree.listing_id, []), NAME) for tree in trees]


@pytest.mark.parametrize("changed", ["tokens", "fewer", "listing"])
def test_a_reference_of_other_chains_is_refused_by_listing(trees: list[Tree], changed: str) -> None:
    rows = rows_without_model(trees)
    chains = rows[2]["chains"]
    if changed == "tokens":
        chains[1]["token_ids"][-1] += 1
    elif changed == "fewer":
        chains.pop()
    else:
        rows.pop(2)
    with pytest.raises(ArtifactError, match=f"{NAME} holds other chains of listing-2"):
        known(trees, rows)


def test_a_reference_of_more_chains_in_any_order_serves_a_part(trees: list[Tree]) -> None:
    rows = rows_without_model(trees)
    for row in rows:
        for number, chain in enumerate(row["chains"]):
            chain["logprob"] = -float(number + 1)
        row["chains"].reverse()
    part = [tree.with_examples([len(tree.examples) - 1]) for tree in trees[:2]]
    for tree, whole in zip(known(part, rows), trees, strict=False):
        numbered = {chain.token_ids.tobytes(): at for at, chain in enumerate(whole.chains)}
        for chain in tree.chains:
            assert chain.reference == -float(numbered[chain.token_ids.tobytes()] + 1)


def test_of_two_writers_that_differ_in_the_last_digits_one_wins(
    run: Run, trees: list[Tree]
) -> None:
    first, second = rows_without_model(trees), rows_without_model(trees)
    second[0]["chains"][0]["logprob"] = -1.0000001
    artifact = run.artifact(NAME, REFERENCE)
    early, late = attempt_of(run), attempt_of(run)
    files = [late.store(REFERENCE.from_rows(second))]
    won = commit_files(artifact, early, [early.store(REFERENCE.from_rows(first))], len(trees))
    with pytest.raises(ArtifactError):
        late.commit(written=files)
    kept = commit_files(artifact, late, files, len(trees))
    assert kept.digest == won.digest == artifact.require_commit().digest
