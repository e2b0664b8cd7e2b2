"""An audit that may stop after any answer, and the number of answers it announces."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raypipe.trust.audit import AuditPlan
from raypipe.trust.certificate import CERTIFIED, NOT_SHOWN, REFUTED, PrecisionRequest

REQUEST = PrecisionRequest(precision=0.95, assurance=0.95)
PLAN = AuditPlan.to_decide(REQUEST, 0.98)


def ends(plan: AuditPlan, rate: float, audits: int, seed: int) -> list[tuple[str | None, int]]:
    draws = np.random.default_rng(seed)
    return [plan.end(draws.random(plan.limit) < rate) for _ in range(audits)]


@pytest.mark.parametrize(("precision", "rate"), [(0.95, 0.98), (0.9, 0.96)])
def test_the_announced_number_is_the_mean_of_audits(precision: float, rate: float) -> None:
    plan = AuditPlan.to_decide(PrecisionRequest(precision, 0.95), rate)
    found = ends(plan, rate, audits=200, seed=15)
    mean = np.mean([count for _, count in found])
    assert mean == pytest.approx(plan.expected_answers(), rel=0.1)
    assert sum(outcome == CERTIFIED for outcome, _ in found) >= 190


@pytest.mark.parametrize("rate", [0.92, 0.95, 0.995])
def test_the_number_for_another_rate_is_exact_too(rate: float) -> None:
    found = ends(PLAN, rate, audits=2000, seed=16)
    counts = np.array([count for _, count in found])
    error = counts.std() / len(counts) ** 0.5
    assert counts.mean() == pytest.approx(PLAN.expected_answers(rate), abs=4 * error)


def test_what_is_below_the_request_is_rarely_certified() -> None:
    outcomes = [outcome for outcome, _ in ends(PLAN, 0.95 - 1e-6, audits=2000, seed=17)]
    assert outcomes.count(CERTIFIED) <= 0.05 * len(outcomes)
    assert outcomes.count(NOT_SHOWN) > 0.5 * len(outcomes)


def test_what_is_above_the_request_is_rarely_refuted() -> None:
    outcomes = [outcome for outcome, _ in ends(PLAN, 0.95, audits=2000, seed=18)]
    assert outcomes.count(REFUTED) <= 0.05 * len(outcomes)


def test_an_audit_ends_with_the_first_answer_that_suffices() -> None:
    status = PLAN.status([True] * 200)
    assert status.outcome == CERTIFIED
    assert 59 < status.answers < 100
    assert status.lower >= 0.95
    before = PLAN.status([True] * (status.answers - 1))
    assert (before.outcome, before.answers) == (None, status.answers - 1)
    assert before.lower < 0.95


def test_an_audit_of_wrong_answers_ends_at_once() -> None:
    status = PLAN.status([False] * 20)
    assert status.outcome == REFUTED
    assert status.answers < 8
    assert status.upper < 0.95


def test_nothing_is_known_before_the_first_answer() -> None:
    status = PLAN.status([])
    assert (status.outcome, status.answers, status.lower, status.upper) == (None, 0, 0.0, 1.0)


def test_an_audit_ends_at_its_limit() -> None:
    plan = AuditPlan(REQUEST, rate=0.98, limit=40)
    assert plan.end([True] * 39) == (None, 39)
    assert plan.end([True] * 60) == (NOT_SHOWN, 40)
    assert plan.expected_answers() == pytest.approx(40, abs=0.1)


@settings(deadline=None)
@given(st.lists(st.sampled_from([True] * 30 + [False]), max_size=300), st.integers(0, 299))
def test_more_evidence_never_weakens_an_audit(answers: list[bool], place: int) -> None:
    outcome, count = PLAN.end(answers)
    better = answers.copy()
    if better:
        better[place % len(better)] = True
    without = [*answers]
    if False in without:
        without.remove(False)
    for others in (better, without, [True, *answers]):
        found, ended = PLAN.end(others)
        if outcome == CERTIFIED:
            assert found == CERTIFIED
            assert ended <= count + (len(others) > len(answers))
        elif outcome is None:
            assert found in (None, CERTIFIED)
