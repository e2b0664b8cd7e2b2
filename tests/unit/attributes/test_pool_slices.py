"""Slices of the pool are nested, disjoint and whole as their bounds say."""

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raypipe.attributes.pool_slices import WHOLE, Slice, slice_of_round

LISTINGS = [f"l{number}" for number in range(400)]
bound = st.floats(0, 1, allow_nan=False)


def held(part: Slice, seed: int = 0) -> set[str]:
    return {listing for listing in LISTINGS if part.holds(listing, seed)}


@given(st.lists(bound, min_size=3, max_size=3, unique=True).map(sorted), st.integers(0, 9))
def test_parts_are_nested_and_adjacent_ones_make_the_whole(bounds: list[float], seed: int) -> None:
    low, middle, high = bounds
    outer, left, right = Slice(low, high), Slice(low, middle), Slice(middle, high)
    assert held(left, seed) | held(right, seed) == held(outer, seed)
    assert not held(left, seed) & held(right, seed)


def test_a_share_of_the_pool_is_about_that_share_and_another_seed_takes_others() -> None:
    fifth = Slice(0.0, 0.2)
    assert 50 < len(held(fifth)) < 110
    assert held(fifth) != held(fifth, seed=1)
    assert held(WHOLE) == set(LISTINGS)


def test_the_mask_says_what_holds_says() -> None:
    part = Slice(0.25, 0.5)
    ids = pa.array(LISTINGS)
    assert set(ids.filter(part.mask(ids, 3)).to_pylist()) == held(part, 3)


@pytest.mark.parametrize("bounds", [(0.5, 0.5), (0.6, 0.5), (-0.1, 0.5), (0.5, 1.1)])
def test_what_is_no_part_is_refused(bounds: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match="not a part"):
        Slice(*bounds)


def test_rounds_take_the_slices_in_turn() -> None:
    assert slice_of_round(1, 1) == WHOLE
    turns = [slice_of_round(number, 3) for number in (1, 2, 3, 4)]
    assert turns[0] == turns[3]
    assert set.union(*(held(turn) for turn in turns)) == set(LISTINGS)
    assert len({turn.low for turn in turns}) == 3
