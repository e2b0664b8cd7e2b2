"""Packs come in the order of the plan, some of them read before their turn."""

import threading
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raypipe.errors import ArtifactError
from raypipe.training.pack_reader import LoadedPack
from raypipe.training.packing import Pack, PackingPlan, plan_packs
from raypipe.training.read_ahead import ReadAhead, ReadPacks
from raypipe.training.trees import Tree, build_trees
from tests.fakes import tiny_models as models


def plan_of(forest: list[Tree]) -> PackingPlan[Tree]:
    return plan_packs(forest, batch_size=3, epochs=2, num_workers=2, max_tokens=20, seed=1)


@given(models.forests(), st.integers(0, 1), st.integers(1, 4), st.integers(0, 9))
@settings(deadline=None, max_examples=25)
def test_a_worker_gets_its_packs_in_order_but_for_those_that_are_done(
    forest: list[Tree], rank: int, depth: int, done: int
) -> None:
    plan, asked = plan_of(forest), []

    def read(pack: Pack[Tree]) -> LoadedPack:
        asked.append(pack)
        return LoadedPack(pack)

    ahead = ReadAhead(plan, rank, read, depth=depth, num_done=lambda: done)
    wanted = [(step, LoadedPack(pack)) for step, pack in plan.packs_of(rank)]
    found = [one for [one] in ahead]
    assert len(found) == len(ahead) == len(ReadPacks(plan.num_packs)) == len(wanted)
    assert found[done:] == wanted[done:]
    assert asked == [loaded.trees for _, loaded in wanted[done:]]
    assert ReadPacks(plan.num_packs)[found[0]] is found[0]


def test_no_more_is_read_than_the_depth_allows() -> None:
    asked, ready = [], threading.Semaphore(0)

    def read(pack: Pack[Any]) -> LoadedPack:
        asked.append(pack)
        ready.release()
        return LoadedPack(pack)

    examples = models.examples(images=(0,) * 12)
    trees = build_trees(examples, models.processor(), models.TOKENS_PER_IMAGE)
    plan = plan_packs(trees, batch_size=1, epochs=1, num_workers=1, max_tokens=9, seed=0)
    batches = iter(ReadAhead(plan, 0, read, depth=3, num_done=lambda: 0))
    next(batches)
    for _ in range(4):
        assert ready.acquire(timeout=10)
    assert not ready.acquire(timeout=0.1)
    assert len(asked) == 4


def test_an_error_of_reading_comes_at_the_turn_of_its_pack() -> None:
    trees = build_trees(
        models.examples(images=(0,) * 4), models.processor(), models.TOKENS_PER_IMAGE
    )
    plan = plan_packs(trees, batch_size=4, epochs=1, num_workers=1, max_tokens=9, seed=0)
    asked = []

    def read(pack: Pack[Tree]) -> LoadedPack:
        asked.append(pack)
        if len(asked) == 3:
            raise ArtifactError("a file is gone")
        return LoadedPack(pack)

    batches = iter(ReadAhead(plan, 0, read, depth=2, num_done=lambda: 0))
    assert [[step for step, _ in next(batches)] for _ in range(2)] == [[0], [0]]
    with pytest.raises(ArtifactError, match="a file is gone"):
        next(batches)
