"""Trees hold the tokens that TRL trains on, and what examples share once."""

import copy
from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from trl.trainer.dpo_trainer import DataCollatorForVisionPreference
from trl.trainer.sft_trainer import DataCollatorForVisionLanguageModeling

from raypipe.errors import InputError
from raypipe.training.examples import Examples
from raypipe.training.trees import Tree, build_trees
from tests.fakes import tiny_models as models
from tests.fakes.tiny_models import TOKENS_PER_IMAGE


def grown(examples: Examples) -> list[Tree]:
    return build_trees(examples, models.processor(), TOKENS_PER_IMAGE)


def branch(tree: Tree, index: int) -> list[int]:
    """The tokens of trunk, stem and chain in a row."""
    chain = tree.chains[index]
    parts = (tree.trunk, tree.stems[chain.stem].token_ids, chain.token_ids)
    return list(np.concatenate(parts).tolist())


def contents(tree: Tree) -> list[list[list[int]]]:
    """The rows that each example would be without sharing."""
    return [[branch(tree, index) for index in example] for example in tree.examples]


def rows_of_trl(examples: Examples) -> list[list[list[int]]]:
    """What TRL's own collators make of each example, padding left out."""
    processor, dataset, found = models.processor(), examples.dataset(), []
    for index in range(len(dataset)):
        row = dataset[index]
        if "chosen" in row:
            collated = DataCollatorForVisionPreference(processor)([row])
        else:
            collated = DataCollatorForVisionLanguageModeling(processor)([row])
        pairs = zip(collated["input_ids"], collated["attention_mask"], strict=True)
        found.append([ids[mask.bool()].tolist() for ids, mask in pairs])
    return found


@pytest.mark.parametrize("kind", ["pair", "target"])
@pytest.mark.parametrize("queries", [1, 3])
@pytest.mark.parametrize("images", [(0,), (1,), (5,), (2, 0, 1)], ids=str)
def test_branches_are_the_rows_of_trl(
    images: tuple[int, ...], queries: int, kind: Literal["pair", "target"]
) -> None:
    examples = models.examples(images=images, queries=queries, kind=kind)
    trees = grown(examples)
    assert [tree.listing_id for tree in trees] == sorted(examples.images)
    assert [row for tree in trees for row in contents(tree)] == rows_of_trl(examples)


@pytest.mark.parametrize("images", [0, 1, 5])
@pytest.mark.parametrize("queries", [1, 3])
def test_a_chain_is_what_trl_scores(images: int, queries: int) -> None:
    examples = models.examples(images=(images,), queries=queries)
    [tree] = grown(examples)
    dataset, collator = examples.dataset(), DataCollatorForVisionPreference(models.processor())
    for index, example in enumerate(tree.examples):
        collated = collator([dataset[index]])
        masks = collated["completion_mask"].bool()
        scored = [
            ids[mask].tolist() for ids, mask in zip(collated["input_ids"], masks, strict=True)
        ]
        assert [tree.chains[at].token_ids.tolist() for at in example] == scored


@pytest.mark.parametrize("queries", [1, 3])
def test_the_trunk_holds_every_image_and_a_stem_keeps_a_token(queries: int) -> None:
    trees = grown(models.examples(images=(5, 0, 1), queries=queries))
    image = models.processor().image_token_id
    assert [int((tree.trunk == image).sum()) for tree in trees] == [
        count * TOKENS_PER_IMAGE for count in (5, 0, 1)
    ]
    for tree in trees:
        assert len(tree.stems) == queries
        assert all(len(stem.token_ids) >= 1 for stem in tree.stems)
        assert not any((stem.token_ids == image).any() for stem in tree.stems)


def test_stems_begin_where_prompts_first_differ_or_one_has_ended() -> None:
    [tree] = grown(models.examples(images=(1,), queries=3))
    assert len({int(stem.token_ids[0]) for stem in tree.stems}) > 1
    [alone] = grown(models.examples(images=(1,), queries=1))
    assert len(alone.stems[0].token_ids) == 1


def answer(text: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": text}]


def pair(attribute: str, chosen: str, rejected: str) -> dict[str, Any]:
    return {
        "listing_id": "listing",
        "attribute": attribute,
        "prompt": [{"role": "user", "content": f"what is the {attribute}?"}],
        "chosen": answer(chosen),
        "rejected": answer(rejected),
    }


def test_equal_chains_are_one_within_a_query_and_two_across_queries() -> None:
    rows = [
        pair("heel", "red", "blue"),
        pair("heel", "plain", "red"),
        pair("heel", "red", "blue"),
        pair("sole", "red", "blue"),
    ]
    [tree] = grown(Examples(rows, {"listing": []}))
    assert tree.examples == ((0, 1), (2, 0), (0, 1), (3, 4))
    assert [chain.stem for chain in tree.chains] == [0, 0, 0, 1, 1]
    assert [stem.attribute for stem in tree.stems] == ["heel", "sole"]
    assert tree.queries == ["listing/heel"] * 3 + ["listing/sole"]
    assert tree.chains[0].token_ids.tolist() == tree.chains[3].token_ids.tolist()


def test_tokens_are_counted_once_where_they_are_shared_and_scored_as_often_as_named() -> None:
    [tree] = grown(models.examples(images=(2,), queries=2, per_query=3))
    stems = sum(len(stem.token_ids) for stem in tree.stems)
    chains = sum(len(chain.token_ids) - 1 for chain in tree.chains)
    assert tree.num_tokens == len(tree.trunk) + stems + chains
    named = [tree.chains[index].token_ids for example in tree.examples for index in example]
    assert len(named) == 12 > len(tree.chains)
    assert tree.num_scored == sum(map(len, named))


@given(models.forests(most=1), st.data())
@settings(deadline=None)
def test_a_part_keeps_its_examples_and_only_what_they_need(
    forest: list[Tree], data: st.DataObject
) -> None:
    [tree] = forest
    indices = st.integers(0, len(tree.examples) - 1)
    wanted = data.draw(st.lists(indices, min_size=1, max_size=4))
    part = tree.with_examples(wanted)
    assert contents(part) == [contents(tree)[index] for index in wanted]
    assert part.queries == [tree.queries[index] for index in wanted]
    assert part.weights == tuple(tree.weights[index] for index in wanted)
    assert {at for example in part.examples for at in example} == set(range(len(part.chains)))
    assert {chain.stem for chain in part.chains} == set(range(len(part.stems)))
    references = [[tree.chains[at].reference for at in tree.examples[index]] for index in wanted]
    assert [[part.chains[at].reference for at in e] for e in part.examples] == references


def test_a_reference_is_given_chain_by_chain() -> None:
    [tree] = grown(models.examples(images=(1,)))
    assert np.isnan([chain.reference for chain in tree.chains]).all()
    values = [-float(index) for index in range(len(tree.chains))]
    known = tree.with_reference(values)
    assert [chain.reference for chain in known.chains] == values
    assert contents(known) == contents(tree)
    assert known.examples == tree.examples
    with pytest.raises(ValueError, match="zip"):
        tree.with_reference(values[1:])


def test_a_tree_takes_the_weights_of_its_rows_and_1_where_there_is_none() -> None:
    rows = [
        pair("heel", "red", "blue") | {"weight": 0.25},
        pair("heel", "red", "sole") | {"weight": 1.75},
        pair("heel", "red", "plain"),
    ]
    [tree] = grown(Examples(rows, {"listing": []}))
    assert tree.weights == (0.25, 1.75, 1.0)


def test_an_empty_answer_is_still_the_end_of_a_turn() -> None:
    examples = Examples([pair("heel", "red", "")], {"listing": []})
    [tree] = grown(examples)
    assert models.processor().tokenizer.decode(tree.chains[1].token_ids) == "<|im_end|>\n"
    assert contents(tree) == rows_of_trl(examples)


def test_a_completion_without_a_token_is_refused_where_the_template_ends_no_turn() -> None:
    processor = copy.copy(models.processor())
    processor.chat_template = "{% for m in messages %}{{ m.content[0].text }}{% endfor %}"
    with pytest.raises(InputError, match="listing: an example has an empty completion"):
        build_trees(
            Examples([pair("heel", "red", "")], {"listing": []}), processor, TOKENS_PER_IMAGE
        )
