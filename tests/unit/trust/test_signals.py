"""Signals that rank the answers of queries."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression

from raypipe.trust.signals import (
    NO_ANSWER,
    ChainAnswer,
    QueryChains,
    ScoredAnswer,
    coverage_at,
    features,
    fit_signal,
    score,
)


def query(*answers: tuple[str | None, float], greedy: ChainAnswer | None = None) -> QueryChains:
    chains = tuple(ChainAnswer(value, weight, weight / 2) for value, weight in answers)
    return QueryChains("listing", "Shirt", "color", chains, greedy)


TIED = query(("Blue", 0.9), ("Green", 0.4), ("Green", 0.4), ("Blue", 0.6), (None, 1.0))
GREEN = ChainAnswer("Green", 0.95, 0.6)


def test_a_tied_vote_has_no_answer_and_weights_resolve_it() -> None:
    assert score(TIED, "vote") == NO_ANSWER
    assert score(TIED, "weighted") == ScoredAnswer("Blue", pytest.approx(1.5 / 5))
    assert score(TIED, "weighted", "chain").score == pytest.approx(0.75 / 5)


def test_the_vote_is_the_consensus_and_its_share() -> None:
    voted = query(("Blue", 0.1), ("Blue", 0.1), ("Green", 0.9), (None, 0.5))
    assert score(voted, "vote") == ScoredAnswer("Blue", 0.5)
    assert score(voted, "weighted").value == "Green"
    assert score(voted.first(1), "vote") == ScoredAnswer("Blue", 1.0)


def test_the_greedy_chain_is_a_signal_and_a_voice() -> None:
    with_greedy = query(("Blue", 0.5), ("Green", 0.4), greedy=GREEN)
    assert score(with_greedy, "greedy") == ScoredAnswer("Green", 0.95)
    assert score(with_greedy, "weighted_greedy") == ScoredAnswer(
        "Green", pytest.approx((0.4 + 0.95) / 3)
    )
    assert score(with_greedy, "weighted").value == "Blue"


def test_without_valid_chains_there_is_no_answer() -> None:
    invalid = query((None, 0.9), greedy=ChainAnswer(None, 0.9, 0.9))
    for signal in ("vote", "weighted", "greedy", "weighted_greedy"):
        assert score(invalid, signal) == NO_ANSWER
        assert score(query(), signal) == NO_ANSWER
    assert features(invalid, None).tolist() == [0, 0, 0, 0, 0]


def test_features_say_what_speaks_for_an_answer() -> None:
    voted = query(("Blue", 0.5), ("Blue", 0.7), ("Green", 0.4), (None, 1.0), greedy=GREEN)
    expected = [0.5, 0.25, 0.3, 0.2, -0.95]
    assert features(voted, "Blue").tolist() == pytest.approx(expected)
    assert features(voted, "Green")[-1] == pytest.approx(0.95)


def test_the_fit_is_scikit_learns_ridge_with_an_offset_per_attribute() -> None:
    draws = np.random.default_rng(0)
    rows = draws.normal(size=(300, 3))
    names = [("Shirt", ("color", "fit", "neck")[place]) for place in draws.integers(0, 3, 300)]
    logits = rows[:, 0] - 0.5 * rows[:, 1] + np.array([name[1] == "fit" for name in names])
    right = draws.random(300) < 1 / (1 + np.exp(-logits))
    fitted = fit_signal(rows, names, right, shrinkage=2.0)
    scaled = (rows - rows.mean(axis=0)) / rows.std(axis=0)
    columns = np.hstack(
        [scaled, [[name[1] == each for each in ("color", "fit", "neck")] for name in names]]
    )
    theirs = LogisticRegression(C=0.5, tol=1e-8, max_iter=1000).fit(columns, right)
    assert fitted.probabilities(rows, names) == pytest.approx(
        theirs.predict_proba(columns)[:, 1], abs=1e-3
    )
    assert fitted.offsets[("Shirt", "fit")] > fitted.offsets[("Shirt", "color")]


def test_an_attribute_with_few_answers_stays_near_the_others() -> None:
    names = [("Shirt", "color")] * 100 + [("Shirt", "fit")] * 2
    right = [True] * 60 + [False] * 40 + [False] * 2
    fitted = fit_signal(np.zeros((102, 1)), names, right, shrinkage=8.0)
    few, unknown = fitted.probabilities(np.zeros((2, 1)), [("Shirt", "fit"), ("Mug", "size")])
    assert 0.4 < few < unknown < 0.65


scored = st.lists(
    st.tuples(st.sampled_from([0.0, 0.2, 0.5, 0.9, 1.0]), st.booleans()), min_size=1, max_size=40
)


@given(scored, st.floats(0.5, 1))
def test_coverage_is_the_largest_share_that_keeps_the_precision(
    answers: list[tuple[float, bool]], precision: float
) -> None:
    scores = np.array([level for level, _ in answers])
    right = np.array([hit and level > 0 for level, hit in answers])
    expected = 0.0
    for level in {level for level in scores if level > 0}:
        published = scores >= level
        if right[published].mean() >= precision - 1e-9:
            expected = max(expected, published.mean())
    assert coverage_at(precision, scores, right) == pytest.approx(expected)
