"""The gate of a vote: how many chains must agree, and what is dropped with which reason."""

from fractions import Fraction

import pytest

from raypipe.attributes.vote import count_votes, gate_query, min_votes


def test_decision_threshold_is_strict_on_every_lattice():
    """min_votes equals the comparison in exact arithmetic, for thresholds as they are written."""
    for hundredths in range(100):
        exact = Fraction(hundredths, 100)
        for num_chains in range(1, 65):
            kept = [k for k in range(num_chains + 1) if Fraction(k, num_chains) > exact]
            assert min_votes(hundredths / 100, num_chains) == kept[0]


@pytest.mark.parametrize(
    ("threshold", "fewest"), [(0.3, 3), (0.5, 4), (0.6, 5), (0.7, 5), (0.8, 6), (0.0, 1)]
)
def test_decision_threshold_at_seven_chains(threshold, fewest):
    assert min_votes(threshold, 7) == fewest


def test_decision_threshold_of_0_6_and_0_7_are_one_setting_at_seven_chains():
    assert min_votes(0.6, 7) == min_votes(0.7, 7)


def test_a_share_that_equals_the_threshold_does_not_exceed_it():
    assert min_votes(0.5, 8) == 5
    assert min_votes(0.29, 100) == 30  # 0.29 * 100 is 28.999999999999996


@pytest.mark.parametrize(("threshold", "num_chains"), [(1.0, 7), (-0.1, 7), (0.5, 0)])
def test_a_threshold_that_nothing_exceeds_is_refused(threshold, num_chains):
    with pytest.raises(ValueError, match="no vote"):
        min_votes(threshold, num_chains)


@pytest.mark.parametrize(
    ("values", "gate"),
    [
        (["red"] * 4 + ["blue"] * 3, "kept"),
        (["red"] * 3 + ["blue"] * 2 + [None] * 2, "below_threshold"),
        (["red"] * 3 + ["blue"] * 3 + [None], "tie"),
        ([None] * 7, "no_valid_chain"),
        ([], "no_valid_chain"),
    ],
)
def test_a_query_is_kept_or_dropped_with_a_reason(values, gate):
    assert gate_query(count_votes(values, 7), min_votes(0.5, 7)) == gate


def test_decision_tie_for_first_is_dropped_even_where_the_threshold_is_met():
    assert (
        gate_query(count_votes(["red"] * 3 + ["blue"] * 3 + ["green"], 7), min_votes(0.3, 7))
        == "tie"
    )
