"""A seed comes from what it is for, and from nothing else."""

import subprocess
import sys

from hypothesis import example, given
from hypothesis import strategies as st

from raypipe.seeds import derive

parts = st.lists(st.text(max_size=8) | st.integers(), max_size=4)


def test_a_seed_is_what_it_was_when_runs_were_made_with_it() -> None:
    """A change here changes every chain, pair and split of every run: be sure."""
    assert derive(0, "round", 1, "listing-1", "colour") == 4826092913493496828
    assert derive("pair", "listing-1", "colour", 3) == 2500259515050256140


def test_a_seed_is_the_same_in_another_process() -> None:
    code = "from raypipe.seeds import derive; print(derive(0, 'pool', 'x'))"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(ran.stdout) == derive(0, "pool", "x")


@given(parts)
def test_a_seed_fits_in_63_bits(identity: list[str | int]) -> None:
    assert 0 <= derive(*identity) < 1 << 63


@given(parts, parts)
@example(["1"], [1])
@example(["a", "b"], ["ab"])
@example(["a", "b"], ["b", "a"])
@example(["a", ""], ["a"])
@example(["a\x1fstr:b"], ["a", "b"])
@example(["a\x1f", "b"], ["a", "\x1fb"])
def test_other_parts_give_another_seed(one: list[str | int], other: list[str | int]) -> None:
    assert (derive(*one) == derive(*other)) == (one == other)


def test_seeds_are_spread_evenly() -> None:
    lower_half = sum(derive("listing", number) < 1 << 62 for number in range(4000))
    assert 1800 < lower_half < 2200
