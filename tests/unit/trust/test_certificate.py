"""What verified answers show about a request, scope by scope."""

from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raypipe.trust.certificate import (
    CERTIFIED,
    NOT_SHOWN,
    REFUTED,
    Certificate,
    PrecisionRequest,
    certify,
    certify_scope,
    plan_levels,
)
from raypipe.trust.listing_draws import VerifiedAnswer

REQUEST = PrecisionRequest(precision=0.95, assurance=0.95)
LEVELS = [votes / 7 for votes in range(7, 0, -1)]
Votes = Sequence[tuple[int, bool]]


def answers_of(
    votes: Votes, attribute: str = "color", vertical: str = "Shirt"
) -> list[VerifiedAnswer]:
    return [
        VerifiedAnswer(f"{vertical} {number}", vertical, attribute, count / 7, right)
        for number, (count, right) in enumerate(votes)
    ]


def certificate_of(votes: Votes, request: PrecisionRequest = REQUEST) -> Certificate:
    answers = answers_of(votes)
    return certify_scope("catalog", answers, request, plan_levels(answers, LEVELS, request))


def test_fifty_nine_answers_without_an_error_certify() -> None:
    found = certificate_of([(7, True)] * 59)
    assert (found.outcome, found.threshold) == (CERTIFIED, LEVELS[-1])
    assert (found.answers, found.wrong, found.missing, found.missing_at_rate) == (59, 0, 0, 0)
    assert found.bound == pytest.approx(0.9505, abs=1e-4)
    assert found.confidence == pytest.approx(0.95)


@pytest.mark.parametrize(
    ("right", "wrong", "missing"), [(40, 0, 19), (58, 1, 34), (0, 0, 59), (88, 1, 4)]
)
def test_what_is_missing_is_counted(right: int, wrong: int, missing: int) -> None:
    found = certificate_of([(7, True)] * right + [(7, False)] * wrong)
    assert (found.outcome, found.missing) == (NOT_SHOWN, missing)
    assert found.missing_at_rate is not None
    assert found.missing_at_rate >= missing
    assert found.missing_at_rate == missing or wrong


def test_at_a_rate_below_the_request_no_number_suffices() -> None:
    found = certificate_of([(7, True)] * 47 + [(7, False)] * 3)
    assert (found.outcome, found.missing_at_rate) == (NOT_SHOWN, None)
    assert found.missing > 0


def test_the_lowest_level_that_keeps_the_request_is_published() -> None:
    sure, unsure = [(7, True)] * 100 + [(6, True)] * 100, [(3, True)] * 50 + [(3, False)] * 50
    found = certificate_of(sure + unsure)
    assert (found.outcome, found.threshold) == (CERTIFIED, 4 / 7)
    assert (found.answers, found.wrong) == (200, 0)


def test_what_is_wrong_at_every_level_is_refuted() -> None:
    found = certificate_of([(7, True)] * 50 + [(7, False)] * 30 + [(4, False)] * 20)
    assert (found.outcome, found.missing_at_rate) == (REFUTED, None)
    assert found.bound < 0.95


def test_a_few_right_answers_at_the_surest_level_are_not_refuted() -> None:
    found = certificate_of([(7, True)] * 5 + [(4, True)] * 40 + [(4, False)] * 40)
    assert (found.outcome, found.missing) == (NOT_SHOWN, 54)
    assert found.threshold == 5 / 7


def test_nothing_is_shown_of_nothing() -> None:
    nothing = certify_scope("catalog", [], REQUEST, plan_levels([], [], REQUEST))
    assert (nothing.outcome, nothing.threshold, nothing.missing) == (NOT_SHOWN, None, 59)
    assert certify([], REQUEST, LEVELS, scope="attribute", seed=0) == {}


levels_and_right = st.lists(
    st.tuples(st.integers(1, 7), st.sampled_from([True] * 19 + [False])), max_size=250
)


@settings(deadline=None)
@given(levels_and_right, st.integers(1, 7), st.integers(0, 249))
def test_more_evidence_never_weakens_a_certificate(
    votes: list[tuple[int, bool]], level: int, place: int
) -> None:
    request = PrecisionRequest(precision=0.9, assurance=0.9)
    before = answers_of(votes)
    plan = plan_levels(before, LEVELS, request)
    one_more = [*before, *answers_of([(level, True)], vertical="Saree")]
    changed = [one_more]
    if any(not answer.right for answer in before):
        wrong = [answer for answer in before if not answer.right]
        other = wrong[place % len(wrong)]
        changed.append([answer for answer in before if answer is not other])
        changed.append([replace(a, right=True) if a is other else a for a in before])
    found = certify_scope("catalog", before, request, plan)
    for answers in changed:
        better = certify_scope("catalog", answers, request, plan)
        if found.outcome == CERTIFIED:
            assert better.outcome == CERTIFIED
            assert better.threshold is not None
            assert found.threshold is not None
            assert better.threshold <= found.threshold
        elif found.outcome == NOT_SHOWN:
            assert better.outcome != REFUTED


@given(levels_and_right)
def test_a_plan_does_not_depend_on_what_is_right(votes: list[tuple[int, bool]]) -> None:
    turned = [(level, not right) for level, right in votes]
    plans = [plan_levels(answers_of(each), LEVELS, REQUEST) for each in (votes, turned)]
    assert plans[0] == plans[1]


def two_attributes() -> list[VerifiedAnswer]:
    good, bad = [(7, True)] * 200, [(7, True)] * 140 + [(7, False)] * 60
    return answers_of(good, "color") + answers_of(bad, "pattern")


def test_a_bad_attribute_does_not_keep_a_good_one_back() -> None:
    found = certify(two_attributes(), REQUEST, LEVELS, scope="attribute", seed=0)
    assert {name: each.outcome for name, each in found.items()} == {
        "Shirt/color": CERTIFIED,
        "Shirt/pattern": REFUTED,
    }
    whole = certify(two_attributes(), REQUEST, LEVELS, scope="catalog", seed=0)["catalog"]
    assert whole.outcome == REFUTED


def test_a_certificate_counts_each_listing_once() -> None:
    found = certify(two_attributes(), REQUEST, LEVELS, scope="vertical", seed=0)["Shirt"]
    assert found.answers == 200


def test_a_plan_that_was_fixed_earlier_is_kept() -> None:
    answers = answers_of([(7, True)] * 59 + [(6, True)] * 150)
    plan = plan_levels(answers[:59], LEVELS, REQUEST)
    found = certify(answers, REQUEST, LEVELS, scope="catalog", seed=0, plans={"catalog": plan})[
        "catalog"
    ]
    assert found.plan == plan
