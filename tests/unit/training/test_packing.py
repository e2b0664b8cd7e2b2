"""Who trains what and when: steps are the same wherever they run, and no worker waits for long."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from raypipe.training.packing import (
    Pack,
    PackingPlan,
    Step,
    balance_by_tokens,
    in_order,
    plan_packs,
)
from raypipe.training.trees import Tree
from tests.fakes import tiny_models as models

Example = tuple[Any, ...]


@dataclass(frozen=True)
class Setting:
    """How a training is laid out; a budget of a token gives every example a pack of its own."""

    batch_size: int
    epochs: int
    num_workers: int
    max_tokens: int
    seed: int

    def plan(self, forest: list[Tree], **changed: int) -> PackingPlan[Tree]:
        return plan_packs(forest, **(vars(self) | changed))


SETTINGS = st.builds(
    Setting,
    batch_size=st.integers(1, 12),
    epochs=st.integers(1, 3),
    num_workers=st.integers(1, 4),
    max_tokens=st.one_of(st.integers(1, 60), st.just(1 << 30)),
    seed=st.integers(0, 1 << 31),
)
FORESTS = models.forests()


@given(FORESTS, SETTINGS, st.integers(1, 40))
@settings(max_examples=50)
def test_a_training_of_so_many_steps_begins_like_any_other_and_goes_on_in_epochs(
    forest: list[Tree], setting: Setting, max_steps: int
) -> None:
    found = setting.plan(forest, max_steps=max_steps).steps
    assert len(found) == max_steps
    epochs = 1 + max_steps // len(setting.plan(forest, epochs=1).steps)
    longer = setting.plan(forest, epochs=epochs).steps
    assert [step.num_examples for step in found] == [
        step.num_examples for step in longer[:max_steps]
    ]
    for step, other in zip(found, longer, strict=False):
        assert all_of(trees_of(step)) == all_of(trees_of(other))


def named(tree: Tree) -> list[Example]:
    """Each example by all that is trained on: query, tokens, reference, and weight."""
    found: list[Example] = []
    for query, example, weight in zip(tree.queries, tree.examples, tree.weights, strict=True):
        chains = [tree.chains[index] for index in example]
        stem = tuple(tree.stems[chains[0].stem].token_ids.tolist())
        said = tuple((tuple(chain.token_ids.tolist()), chain.reference) for chain in chains)
        found.append((query, weight, tuple(tree.trunk.tolist()), stem, said))
    return found


def all_of(trees: Iterable[Tree]) -> Counter[Example]:
    return Counter(example for tree in trees for example in named(tree))


def trees_of(step: Step[Tree]) -> list[Tree]:
    return [tree for packs in step.packs for pack in packs for tree in pack]


def queries_of(step: Step[Tree]) -> list[str]:
    return [query for tree in trees_of(step) for query in tree.queries]


def size(pack: Pack[Tree]) -> int:
    return sum(tree.num_tokens for tree in pack)


def epochs_of(laid_out: PackingPlan[Tree], epochs: int) -> list[tuple[Step[Tree], ...]]:
    count, left_over = divmod(len(laid_out.steps), epochs)
    assert left_over == 0
    return [laid_out.steps[at * count : (at + 1) * count] for at in range(epochs)]


@given(FORESTS, SETTINGS)
@settings(deadline=None)
def test_every_epoch_trains_every_example_once(forest: list[Tree], setting: Setting) -> None:
    for steps in epochs_of(setting.plan(forest), setting.epochs):
        assert all_of(tree for step in steps for tree in trees_of(step)) == all_of(forest)


@given(FORESTS, SETTINGS)
@settings(deadline=None)
def test_every_step_but_an_epochs_last_is_a_full_batch(
    forest: list[Tree], setting: Setting
) -> None:
    for *full, last in epochs_of(setting.plan(forest), setting.epochs):
        assert [step.num_examples for step in full] == [setting.batch_size] * len(full)
        assert 0 < last.num_examples <= setting.batch_size
        for step in (*full, last):
            assert sum(len(tree.examples) for tree in trees_of(step)) == step.num_examples
            assert len(queries_of(step)) == step.num_examples


@given(FORESTS, SETTINGS, st.integers(1, 5), st.integers(1, 200))
@settings(deadline=None)
def test_what_a_step_learns_does_not_depend_on_workers_or_memory(
    forest: list[Tree], setting: Setting, num_workers: int, max_tokens: int
) -> None:
    here = setting.plan(forest).steps
    there = setting.plan(forest, num_workers=num_workers, max_tokens=max_tokens).steps
    assert [all_of(trees_of(step)) for step in here] == [all_of(trees_of(step)) for step in there]
    for one, other in zip(here, there, strict=True):
        assert (one.num_examples, one.num_scored) == (other.num_examples, other.num_scored)
        assert sorted(queries_of(one)) == sorted(queries_of(other))


@given(FORESTS, SETTINGS)
@settings(deadline=None)
def test_a_pack_is_within_the_budget_or_a_single_example(
    forest: list[Tree], setting: Setting
) -> None:
    for step in setting.plan(forest).steps:
        for pack in (pack for packs in step.packs for pack in packs):
            alone = [len(tree.examples) for tree in pack] == [1]
            assert size(pack) <= setting.max_tokens or alone


@given(FORESTS, SETTINGS)
@settings(deadline=None)
def test_every_worker_accumulates_equally_often(forest: list[Tree], setting: Setting) -> None:
    laid_out = setting.plan(forest)
    for rank in range(setting.num_workers):
        dealt = list(laid_out.packs_of(rank))
        counts = Counter(index for index, _ in dealt)
        assert counts == dict.fromkeys(range(len(laid_out.steps)), laid_out.packs_per_step)
        assert [index for index, _ in dealt] == sorted(index for index, _ in dealt)
        for index, step in enumerate(laid_out.steps):
            packs = [pack for at, pack in dealt if at == index]
            own = len(step.packs[rank])
            assert tuple(packs[:own]) == step.packs[rank]
            assert packs[own:] == [()] * (laid_out.packs_per_step - own)


@given(FORESTS, SETTINGS)
@settings(deadline=None)
def test_loads_of_workers_differ_by_no_more_than_the_largest_tree(
    forest: list[Tree], setting: Setting
) -> None:
    for step in setting.plan(forest).steps:
        assert len(step.packs) == setting.num_workers
        loads = [sum(map(size, packs)) for packs in step.packs]
        assert max(loads) - min(loads) <= max(tree.num_tokens for tree in trees_of(step))


@given(FORESTS, st.integers(1, 5))
@settings(deadline=None)
def test_trees_are_spread_without_loss_and_evenly(forest: list[Tree], num_workers: int) -> None:
    shares = balance_by_tokens(forest, num_workers)
    assert len(shares) == num_workers
    assert sorted(tree.listing_id for share in shares for tree in share) == sorted(
        tree.listing_id for tree in forest
    )
    loads = [size(tuple(share)) for share in shares]
    assert max(loads) - min(loads) <= max(tree.num_tokens for tree in forest)


@given(FORESTS, SETTINGS)
@settings(deadline=None)
def test_what_is_scored_is_the_sum_over_examples(forest: list[Tree], setting: Setting) -> None:
    for step in setting.plan(forest).steps:
        examples = all_of(trees_of(step)).elements()
        lengths = [len(token_ids) for *_, chains in examples for token_ids, _ in chains]
        assert step.num_scored == sum(lengths)


def outline(laid_out: PackingPlan[Tree]) -> list[list[list[list[list[Example]]]]]:
    return [
        [[[named(tree) for tree in pack] for pack in packs] for packs in step.packs]
        for step in laid_out.steps
    ]


@given(FORESTS, SETTINGS)
@settings(deadline=None)
def test_the_same_seed_gives_the_same_plan(forest: list[Tree], setting: Setting) -> None:
    assert outline(setting.plan(forest)) == outline(setting.plan(forest))


@given(models.forests(fewest=6, most=6), st.integers(0, 1 << 31))
@settings(deadline=None, max_examples=20)
def test_other_seeds_and_other_epochs_have_other_orders(forest: list[Tree], seed: int) -> None:
    def order(steps: Iterable[Step[Tree]]) -> tuple[str, ...]:
        return tuple(query for step in steps for query in queries_of(step))

    setting = Setting(1, 8, 1, 1 << 30, seed)
    laid_out = setting.plan(forest)
    assert len({order(steps) for steps in epochs_of(laid_out, 8)}) > 1
    others = [setting.plan(forest, seed=seed + index) for index in range(8)]
    assert len({order(other.steps) for other in others}) > 1


@given(FORESTS, st.integers(1, 60))
@settings(deadline=None)
def test_packs_in_order_keep_order_and_budget(forest: list[Tree], max_tokens: int) -> None:
    packs = list(in_order(forest, max_tokens))
    listings = [tree.listing_id for pack in packs for tree in pack]
    assert listings == [tree.listing_id for tree in forest]
    assert all(len(pack) == 1 or size(pack) <= max_tokens for pack in packs)
    for pack, following in pairwise(packs):
        assert size(pack) + following[0].num_tokens > max_tokens


def test_nothing_is_no_pack() -> None:
    assert list(in_order([], 10)) == []
