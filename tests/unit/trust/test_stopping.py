"""Stopping rules against every way in which the remaining chains may answer."""

from collections.abc import Sequence
from itertools import combinations_with_replacement

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raypipe.attributes.vote import count_votes
from raypipe.trust.stopping import (
    beta,
    cannot_be_kept,
    chains_asked,
    exact,
    is_decided,
    probability_stays,
)

VALUES = ("Blue", "Green", "Red")
answers_so_far = st.lists(st.sampled_from([*VALUES, None]), max_size=6)
some_levels = st.sets(st.integers(1, 9), min_size=1, max_size=4).map(sorted)


def result(answers: Sequence[str | None], levels: Sequence[int]) -> tuple[str, int] | None:
    """The consensus and how many levels its votes reach."""
    vote = count_votes(answers, max(1, len(answers)))
    reached = sum(vote.consensus_votes >= level for level in levels)
    return (vote.consensus, reached) if vote.consensus and reached else None


def completions(answers: Sequence[str | None], remaining: int) -> list[list[str | None]]:
    more = combinations_with_replacement([*VALUES, "a value of its own", None], remaining)
    return [[*answers, *each] for each in more]


def votes_of(answers: Sequence[str | None]) -> list[int]:
    return [count for _, count in count_votes(answers, max(1, len(answers))).votes]


@settings(max_examples=300, deadline=None)
@given(answers_so_far, st.integers(0, 4), some_levels)
def test_a_query_is_decided_exactly_where_no_completion_changes_it(
    answers: list[str | None], remaining: int, levels: list[int]
) -> None:
    results = {result(each, levels) for each in completions(answers, remaining)}
    assert is_decided(votes_of(answers), remaining, levels) == (len(results) == 1)


@settings(deadline=None)
@given(answers_so_far, st.integers(0, 4), st.integers(1, 7))
def test_a_query_cannot_be_kept_exactly_where_no_completion_keeps_it(
    answers: list[str | None], remaining: int, fewest: int
) -> None:
    kept = any(result(each, [fewest]) for each in completions(answers, remaining))
    decided_against = cannot_be_kept(votes_of(answers), remaining, fewest)
    assert not (decided_against and kept)
    if remaining:
        assert decided_against == (not kept)


@given(st.lists(st.sampled_from([*VALUES, None]), min_size=1, max_size=9), some_levels)
def test_the_exact_rule_gives_the_result_of_all_chains(
    answers: list[str | None], levels: list[int]
) -> None:
    asked = chains_asked(answers, exact(levels))
    whole = result(answers, levels)
    assert result([*answers[:asked], *[None] * (len(answers) - asked)], levels) == whole


@given(answers_so_far, st.integers(0, 12))
def test_the_leader_surely_stays_where_it_is_decided(
    answers: list[str | None], remaining: int
) -> None:
    probability = probability_stays(votes_of(answers), remaining)
    consensus = count_votes(answers, max(1, len(answers))).consensus
    if consensus is None:
        assert probability == 0
    else:
        assert (probability == pytest.approx(1)) == is_decided(votes_of(answers), remaining)


@pytest.mark.parametrize(
    ("votes", "remaining", "probability"),
    [((1,), 1, 2 / 3), ((2,), 3, 19 / 20), ((1,), 2, 5 / 6), ((3, 1), 3, 13 / 14), ((2, 2), 1, 0)],
)
def test_the_probability_that_the_leader_stays(
    votes: tuple[int, ...], remaining: int, probability: float
) -> None:
    assert probability_stays(votes, remaining) == pytest.approx(probability)


def test_the_beta_rule_asks_for_fewer_chains_the_larger_its_error() -> None:
    answers = ["Blue"] * 5 + ["Green"] * 2
    asked = [chains_asked(answers, beta(error)) for error in (0.0, 0.05, 0.2)]
    assert asked == sorted(asked, reverse=True)
    assert asked[0] == chains_asked(answers, exact()) == 4
    assert asked[-1] < 4


def test_chains_are_asked_in_their_order() -> None:
    assert chains_asked(["Blue"] * 7, exact()) == 4
    assert chains_asked(["Blue"] * 7, exact((6,))) == 6
    assert chains_asked(["Blue"] * 7, exact(range(1, 8))) == 7
    assert chains_asked(["Blue", "Green", "Red", None, None, "Blue", "Blue"], exact((6,))) == 3
    assert chains_asked([None] * 7, exact()) == 7
    assert chains_asked([], exact()) == 0
