"""Several levels tested on the same answers."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from raypipe.trust.bounds import lower_bound
from raypipe.trust.levels import (
    at_or_above,
    check_levels,
    lowest_passed,
    signal_levels,
    starting_shares,
)


def test_the_levels_of_a_vote_are_its_values_from_the_surest_down() -> None:
    assert signal_levels([0.0, 3 / 7, 1.0, 3 / 7, 5 / 7]).tolist() == [1.0, 5 / 7, 3 / 7]
    assert signal_levels([]).tolist() == []


def test_a_signal_of_many_values_has_twenty_levels_of_equal_shares() -> None:
    signals = np.random.default_rng(0).random(4000)
    levels = signal_levels(signals)
    assert len(levels) == 20
    counts = at_or_above(signals, levels).sum(axis=1)
    assert counts.tolist() == pytest.approx(list(range(200, 4001, 200)), abs=1)


@pytest.mark.parametrize(
    ("answers", "starts"),
    [
        ([20, 40, 58], []),
        ([20, 59, 100], [1]),
        ([59, 100, 177], [0, 2]),
        ([60, 180, 540], [0, 1, 2]),
        ([600, 700, 800], [0]),
    ],
)
def test_tests_start_where_the_number_of_answers_suffices(
    answers: list[int], starts: list[int]
) -> None:
    shares = starting_shares(answers, 0.95, 0.95)
    assert np.flatnonzero(shares).tolist() == starts
    assert shares.sum() == pytest.approx(0.05 if starts else 0)


def test_a_level_that_passes_hands_its_error_on_and_one_that_fails_does_not() -> None:
    answers = np.array([60, 90, 120, 150])
    shares = starting_shares(answers, 0.95, 0.95)
    passed, errors = check_levels(answers - [0, 0, 9, 9], answers, 0.95, shares)
    assert passed.tolist() == [True, True, False, False]
    assert errors == pytest.approx([0.05, 0.05, 0.05, 0.0])
    assert lowest_passed(passed) == 1
    assert lowest_passed(np.zeros((2, 3), bool)).tolist() == [-1, -1]


@given(st.lists(st.tuples(st.integers(0, 300), st.floats(0.7, 1)), min_size=1, max_size=8))
def test_at_a_level_that_passes_the_exact_bound_reaches_the_request(
    parts: list[tuple[int, float]],
) -> None:
    answers = np.cumsum([count for count, _ in parts])
    right = np.cumsum([round(count * share) for count, share in parts])
    passed, errors = check_levels(right, answers, 0.9, starting_shares(answers, 0.9, 0.95))
    bounds = lower_bound(right[passed], answers[passed], 1 - errors[passed])
    assert (bounds >= 0.9 - 1e-9).all()
    assert (errors <= 0.05 + 1e-12).all()


@pytest.mark.parametrize("size", [60, 300, 1500])
def test_where_every_level_misses_the_request_one_passes_as_rarely_as_permitted(size: int) -> None:
    shares_of_levels, replays = np.array([0.1, 0.2, 0.2, 0.3, 0.2]), 4000
    draws = np.random.default_rng(size)
    counts = draws.multinomial(size, shares_of_levels, replays)
    right = draws.binomial(counts, 0.9 - 1e-6).cumsum(axis=1)
    answers = counts.cumsum(axis=1)
    passed, _ = check_levels(right, answers, 0.9, starting_shares(answers, 0.9, 0.95))
    wrong = int(passed.any(axis=1).sum())
    assert binomtest(wrong, replays, 0.05, alternative="greater").pvalue > 0.01
