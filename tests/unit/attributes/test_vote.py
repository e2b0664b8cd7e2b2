from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raypipe.attributes.vote import count_votes

VALUES = st.lists(st.sampled_from(["red", "blue", "None", "0", None]), max_size=9)


@given(VALUES, st.integers(0, 3), st.randoms(use_true_random=False))
def test_the_order_of_chains_does_not_matter(values, missing, random):
    num_chains = max(1, len(values) + missing)
    shuffled = random.sample(values, len(values))
    assert count_votes(shuffled, num_chains) == count_votes(values, num_chains)


@given(VALUES, st.integers(0, 3))
def test_a_vote_against_the_plain_count(values, missing):
    num_chains = max(1, len(values) + missing)
    vote = count_votes(values, num_chains)
    counts = Counter(value for value in values if value is not None)
    first = [value for value, count in counts.items() if count == max(counts.values())]
    assert dict(vote.votes) == counts
    assert vote.num_valid == len(values) - values.count(None)
    assert vote.tied == (len(first) > 1)
    assert vote.consensus == (first[0] if len(first) == 1 else None)


@given(VALUES, st.integers(0, 3))
def test_confidence_is_a_share_of_the_chains_requested(values, missing):
    num_chains = max(1, len(values) + missing)
    vote = count_votes(values, num_chains)
    assert vote.confidence * num_chains == pytest.approx(vote.consensus_votes)
    assert vote.confidence in [k / num_chains for k in range(num_chains + 1)]


@given(VALUES, st.integers(0, 3))
def test_a_margin_is_what_the_consensus_has_beyond_any_other_value(values, missing):
    num_chains = max(1, len(values) + missing)
    vote = count_votes(values, num_chains)
    others = [count for value, count in vote.votes if value != vote.consensus]
    lead = vote.consensus_votes - max(others, default=0) if vote.consensus else 0
    assert vote.margin == lead / num_chains
    assert (vote.margin > 0) == (vote.consensus is not None)


@pytest.mark.parametrize(
    ("values", "margin"),
    [
        (["red"] * 5 + ["blue", "None"], 4 / 7),
        (["red"] * 4 + ["blue"] * 3, 1 / 7),
        (["red"] * 4, 4 / 7),
        (["red"] * 7, 1),
        (["red"] * 3 + ["blue"] * 3 + ["None"], 0),
        ([None] * 7, 0),
        ([], 0),
    ],
)
def test_decision_a_margin_is_over_the_chains_requested(values, margin):
    assert count_votes(values, 7).margin == margin


def test_decision_denominator_is_the_chains_requested():
    assert count_votes(["red", "red", "red", None, None, None, None], 7).confidence == 3 / 7
    assert count_votes(["red", "red", "red"], 7).confidence == 3 / 7


@pytest.mark.parametrize(
    "counts", [(3, 3, 1), (2, 2, 2, 1), (2, 2, 1, 1, 1), (1, 1, 1, 1, 1, 1, 1)]
)
def test_decision_tie_for_first_is_no_consensus(counts):
    values = [f"value {i}" for i, count in enumerate(counts) for _ in range(count)]
    vote = count_votes(values, 7)
    assert vote.tied
    assert (vote.consensus, vote.confidence) == (None, 0)


def test_decision_none_and_zero_vote_like_any_value():
    assert count_votes(["None", "None", "0"], 3).consensus == "None"
    assert count_votes([None, None, "0"], 3).consensus == "0"


def test_more_chains_than_requested_are_refused():
    with pytest.raises(ValueError, match="8 chains where 7 were requested"):
        count_votes(["red"] * 8, 7)
