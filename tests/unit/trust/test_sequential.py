"""Evidence that may be looked at after every answer."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.stats import beta

from raypipe.trust.bounds import lower_bound
from raypipe.trust.sequential import (
    Prior,
    anytime_lower_bound,
    anytime_upper_bound,
    log_evidence_above,
    log_evidence_below,
)

counts = st.integers(1, 400).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))
priors = st.builds(Prior.around, st.floats(0.6, 0.99), st.floats(1, 200))
requests = st.floats(0.6, 0.97)


def test_the_closed_form_is_the_mean_of_likelihood_ratios() -> None:
    right, wrong, precision, prior = 57, 3, 0.9, Prior.around(0.96, 20)

    def integrand(share: float) -> float:
        ratio = (share / precision) ** right * ((1 - share) / (1 - precision)) ** wrong
        return float(ratio * beta.pdf(share, prior.right, prior.wrong))

    for log_evidence, ends in (
        (log_evidence_above, (precision, 1)),
        (log_evidence_below, (0, precision)),
    ):
        mass = np.diff(beta.cdf(ends, prior.right, prior.wrong))[0]
        expected = np.log(quad(integrand, *ends)[0] / mass)
        found = log_evidence(right, right + wrong, precision, prior)
        assert found == pytest.approx(expected, abs=1e-6)


@given(counts, requests, priors)
def test_the_expected_evidence_never_grows_where_the_request_is_missed(
    count: tuple[int, int], precision: float, prior: Prior
) -> None:
    right, answers = count
    now = np.exp(log_evidence_above(right, answers, precision, prior))
    after_right = np.exp(log_evidence_above(right + 1, answers + 1, precision, prior))
    after_wrong = np.exp(log_evidence_above(right, answers + 1, precision, prior))
    assert precision * after_right + (1 - precision) * after_wrong == pytest.approx(now, rel=1e-6)
    worse = precision - 0.05
    assert worse * after_right + (1 - worse) * after_wrong <= now * (1 + 1e-6)


@given(counts, requests, priors)
def test_a_right_answer_more_or_a_wrong_one_less_never_weakens_the_evidence(
    count: tuple[int, int], precision: float, prior: Prior
) -> None:
    right, answers = count
    now = log_evidence_above(right, answers, precision, prior) - 1e-9
    assert log_evidence_above(right + 1, answers + 1, precision, prior) >= now
    if right < answers:
        assert log_evidence_above(right + 1, answers, precision, prior) >= now
        assert log_evidence_above(right, answers - 1, precision, prior) >= now


@given(counts, st.floats(0.6, 0.99))
def test_the_anytime_bounds_lie_around_the_share(count: tuple[int, int], confidence: float) -> None:
    right, answers = count
    low = anytime_lower_bound(right, answers, confidence)
    high = anytime_upper_bound(right, answers, confidence)
    assert 0 <= low <= right / answers <= high <= 1


@pytest.mark.parametrize(("right", "answers"), [(59, 59), (98, 100), (950, 1000)])
def test_looking_after_every_answer_costs_width(right: int, answers: int) -> None:
    assert anytime_lower_bound(right, answers, 0.95) < lower_bound(right, answers, 0.95)


def test_a_bound_is_where_the_evidence_begins() -> None:
    prior = Prior.around(0.98, 30)
    low = anytime_lower_bound(195, 200, 0.95, prior)
    assert log_evidence_above(195, 200, low - 1e-6, prior) >= np.log(20)
    assert log_evidence_above(195, 200, low + 1e-6, prior) < np.log(20)


def test_the_evidence_rarely_exceeds_its_limit_when_looked_at_after_every_answer() -> None:
    right = np.random.default_rng(7).random((1000, 400)) < 0.95
    hits, answers = right.cumsum(axis=1), np.arange(1, 401)
    evidence = log_evidence_above(hits, answers, 0.95, Prior.around(0.98, 50))
    assert (evidence.max(axis=1) >= np.log(20)).mean() <= 0.05
