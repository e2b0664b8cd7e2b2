"""The exact bounds against scipy's own, and what more evidence does to them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from raypipe.trust.bounds import (
    answers_needed,
    answers_needed_at_rate,
    lower_bound,
    p_value,
    upper_bound,
)

counts = st.integers(1, 3000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))
confidences = st.floats(0.5, 0.999)


@given(counts, confidences)
def test_bounds_are_those_of_scipys_binomial_test(
    count: tuple[int, int], confidence: float
) -> None:
    right, answers = count
    for alternative, bound in (("greater", lower_bound), ("less", upper_bound)):
        test = binomtest(right, answers, alternative=alternative)
        interval = test.proportion_ci(confidence, method="exact")
        theirs = interval.low if alternative == "greater" else interval.high
        assert float(bound(right, answers, confidence)) == pytest.approx(theirs, abs=1e-9)


@given(counts, st.floats(0.5, 0.99))
def test_the_p_value_is_that_of_scipys_binomial_test(
    count: tuple[int, int], precision: float
) -> None:
    theirs = binomtest(*count, precision, alternative="greater").pvalue
    assert float(p_value(*count, precision)) == pytest.approx(theirs, abs=1e-9)


@given(counts, confidences)
def test_more_evidence_never_lowers_the_bound(count: tuple[int, int], confidence: float) -> None:
    right, answers = count
    bound = lower_bound(right, answers, confidence)
    assert lower_bound(right + 1, answers + 1, confidence) >= bound
    assert lower_bound(min(right + 1, answers), answers, confidence) >= bound
    assert p_value(right + 1, answers + 1, 0.9) <= p_value(right, answers, 0.9)


def test_bounds_of_arrays_are_those_of_their_numbers() -> None:
    right, answers = np.array([0, 59, 88, 1]), np.array([0, 59, 93, 1])
    single = [float(lower_bound(*pair, 0.95)) for pair in zip(right, answers, strict=True)]
    assert lower_bound(right, answers, 0.95).tolist() == single
    assert upper_bound(right, answers, 0.95)[[0, 1, 3]].tolist() == [1, 1, 1]


@pytest.mark.parametrize(
    ("precision", "wrong", "needed"), [(0.95, 0, 59), (0.95, 1, 93), (0.9, 0, 29), (0.9, 1, 46)]
)
def test_how_many_answers_a_request_needs(precision: float, wrong: int, needed: int) -> None:
    assert answers_needed(precision, 0.95, wrong) == needed


@given(st.floats(0.6, 0.99), st.floats(0.6, 0.99), st.integers(0, 60))
def test_no_fewer_answers_suffice(precision: float, assurance: float, wrong: int) -> None:
    needed = answers_needed(precision, assurance, wrong)
    assert p_value(needed - wrong, needed, precision) <= 1 - assurance + 1e-9
    assert p_value(needed - 1 - wrong, needed - 1, precision) > 1 - assurance - 1e-9


def test_at_the_rate_seen_more_answers_are_needed_than_without_further_errors() -> None:
    assert answers_needed_at_rate(0.95, 0.95, 30, 30) == 59
    assert answers_needed_at_rate(0.95, 0.95, 80, 80) == 80
    assert answers_needed_at_rate(0.95, 0.95, 92, 93) == 93
    needed = answers_needed_at_rate(0.95, 0.95, 98, 100)
    assert needed is not None
    wrong = -(-needed * 2 // 100)
    assert lower_bound(needed - wrong, needed, 0.95) >= 0.95


def test_a_rate_below_the_request_never_suffices() -> None:
    assert answers_needed_at_rate(0.95, 0.95, 9, 10) is None
    assert answers_needed_at_rate(0.95, 0.95, 95, 100) is None
