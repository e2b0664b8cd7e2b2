"""The collapse alarm on constructed policies: who collapsed, and who only looks like it."""

import random
from collections.abc import Iterator
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raypipe.config import RoundsConfig
from raypipe.evaluation.accuracy import paired_difference
from raypipe.evaluation.collapse import (
    AnchorAnswer,
    collapse_metrics,
)
from raypipe.rounds.alarm import Measured, collapse, gain_of
from raypipe.summaries import CollapseMetrics, Comparison, Evidence, Gain, OverpredictedValue

LIMITS = RoundsConfig()
VALUES = ("Red", "Blue", "Green", "Black")
ATTRIBUTES = ("colour", "trim", "lining", "pattern")
LISTINGS_PER_VERTICAL = 8
VERTICALS = 12
Policy = list[AnchorAnswer]


def questions() -> Iterator[tuple[str, str, str, str]]:
    """An anchor split of usual size: listing, vertical, attribute, truth of 384 queries."""
    truths = random.Random(1)
    for vertical in range(VERTICALS):
        for number in range(LISTINGS_PER_VERTICAL):
            for attribute in ATTRIBUTES:
                yield f"{vertical}-{number}", f"V{vertical}", attribute, truths.choice(VALUES)


def policy(skill: float, sureness: float, luck: int = 0) -> Policy:
    """Right with probability ``skill``, else any other value; each of seven chains joins the
    consensus with probability ``sureness``."""
    rng = random.Random(luck)
    return [
        AnchorAnswer(
            listing_id,
            vertical,
            attribute,
            truth,
            truth if rng.random() < skill else rng.choice([v for v in VALUES if v != truth]),
            sum(rng.random() < sureness for _ in range(7)) / 7,
        )
        for listing_id, vertical, attribute, truth in questions()
    ]


def say(told: Policy, value: str, share: float = 1.0, attribute: str = "") -> Policy:
    """The same policy when it gives one value, to a share of the queries of an attribute."""
    rng = random.Random(2)
    return [
        replace(query, answer=value)
        if query.attribute in (attribute or ATTRIBUTES) and rng.random() < share
        else query
        for query in told
    ]


def surer(told: Policy, sureness: float, luck: int = 3) -> Policy:
    """The same answers, on which more chains agree."""
    votes = policy(1, sureness, luck)
    return [
        replace(query, confidence=vote.confidence) for query, vote in zip(told, votes, strict=True)
    ]


def unvoted(told: Policy) -> Policy:
    return [replace(query, confidence=None) for query in told]


def accuracy(told: Policy) -> float:
    return sum(query.answer == query.truth for query in told) / len(told)


def measured_anchor(
    queries: int, entropy: float, error: float, confidence: float, unanimity: float
) -> CollapseMetrics:
    return CollapseMetrics(
        queries=queries,
        entropy=entropy,
        entropy_error=error,
        confidence=confidence,
        unanimity=unanimity,
    )


def alarm(before: Policy, after: Policy, limits: RoundsConfig = LIMITS) -> Evidence | None:
    measured = []
    for name, told in (("sft", before), ("round-1", after)):
        signs = collapse_metrics(told)
        assert signs is not None
        measured.append(Measured(name, accuracy(told), signs))
    right = [
        {(query.listing_id, query.attribute): query.answer == query.truth for query in told}
        for told in (before, after)
    ]
    gain = paired_difference(right[0], right[1], 200, seed=4)
    comparison = Comparison(
        start=measured[0].policy,
        to=measured[1].policy,
        difference=gain.value,
        ci95=gain.ci95,
        queries=1,
    )
    return collapse(*measured, gain_of(comparison), limits)


START = policy(0.6, 0.7)


def test_a_policy_that_improves_is_surer_and_more_often_right() -> None:
    after = policy(0.75, 0.9, luck=1)
    assert accuracy(after) > accuracy(START)
    assert alarm(START, after) is None


def test_a_policy_that_improves_and_narrows_is_not_held_up() -> None:
    wrong = [query.answer != query.truth for query in START]
    half = iter(range(len(START)))
    narrowed = [
        replace(query, answer=VALUES[0] if next(half) % 2 else query.truth) if bad else query
        for query, bad in zip(START, wrong, strict=True)
    ]
    assert alarm(START, surer(narrowed, 0.95)) is None


def test_a_policy_that_says_one_value_everywhere_has_collapsed() -> None:
    after = surer(say(START, "Black", share=0.7), 0.97)
    evidence = alarm(START, after)
    assert evidence is not None
    assert (evidence.since, evidence.policy) == ("sft", "round-1")
    assert evidence.anchor_accuracy == (accuracy(START), accuracy(after))
    for change in (evidence.confidence, evidence.unanimity):
        assert change is not None
        assert change[1] > change[0] + 0.05
    assert evidence.entropy is not None
    assert evidence.entropy[1] < evidence.entropy[0] - 0.1
    assert evidence.takeover is not None
    assert evidence.takeover.value == "Black"


def test_a_collapse_without_loss_of_accuracy_is_one_too() -> None:
    """Wrong answers become one wrong answer: surer, as often right, less varied."""
    favoured = {"colour": 0, "trim": 1, "lining": 2, "pattern": 3}
    after = [
        replace(query, answer=VALUES[favoured[query.attribute]])
        if query.answer != query.truth
        else query
        for query in policy(0.3, 0.7)
    ]
    before = policy(accuracy(after), 0.7, luck=5)
    assert alarm(before, surer(after, 0.95)) is not None


def test_one_value_that_takes_over_one_attribute_is_named() -> None:
    after = surer(say(START, "Black", 0.7, "trim"), 0.9)
    evidence = alarm(START, after)
    assert evidence is not None
    assert evidence.takeover is not None
    assert (evidence.takeover.attribute, evidence.takeover.value) == ("trim", "Black")
    assert "'Black' is 72% of the answers for trim and" in evidence.reason


def test_a_value_that_had_taken_over_before_is_no_news() -> None:
    before = say(START, "Black", attribute="trim")
    assert alarm(before, surer(before, 0.95)) is None


def test_a_policy_that_only_got_noisy_has_not_collapsed() -> None:
    after = policy(0.4, 0.5, luck=6)
    assert accuracy(after) < accuracy(START)
    assert alarm(START, after) is None
    assert alarm(START, unvoted(after)) is None


def test_a_policy_that_only_got_surer_has_not_collapsed() -> None:
    assert alarm(START, surer(START, 0.97)) is None


def test_a_policy_that_only_got_narrower_has_not_collapsed() -> None:
    assert alarm(START, say(START, "Black", share=0.7)) is None


def test_without_a_vote_a_collapse_is_told_by_entropy_that_fell_twice_as_far() -> None:
    whole = unvoted(say(START, "Black", share=0.7))
    evidence = alarm(START, whole)
    assert evidence is not None
    assert (evidence.confidence, evidence.unanimity) == (None, None)
    assert "confidence" not in evidence.reason
    part = say(START, "Black", share=0.35)
    assert alarm(START, surer(part, 0.95)) is not None
    assert alarm(START, unvoted(part)) is None


def test_of_many_equal_policies_with_other_luck_none_has_collapsed() -> None:
    """As sure as a good round makes them, and no better: only variety can tell them apart."""
    for luck in range(100):
        after = policy(0.6, 0.9, luck=100 + luck)
        assert alarm(policy(0.6, 0.7, luck), after) is None
        assert alarm(policy(0.6, 0.7, luck), unvoted(after)) is None


def test_a_fall_that_few_queries_cannot_tell_from_chance_is_none() -> None:
    before = measured_anchor(12, 1.0, 0.1, 0.6, 0.2)
    after = measured_anchor(12, 0.8, 0.1, 0.9, 0.8)
    measured = Measured("sft", 0.5, before), Measured("round-1", 0.5, after)
    assert collapse(*measured, Gain(difference=0.0, error=0.02), LIMITS) is None
    certain = replace(
        measured[1], metrics=after.model_copy(update={"entropy_error": 0.02, "entropy": 0.7})
    )
    assert collapse(measured[0], certain, Gain(difference=0.0, error=0.02), LIMITS) is not None


@pytest.mark.parametrize(("difference", "collapsed"), [(0.03, False), (0.02, True), (-0.1, True)])
def test_a_gain_of_more_than_a_standard_error_silences_the_alarm(
    difference: float, collapsed: bool
) -> None:
    before = Measured("sft", 0.5, measured_anchor(400, 0.9, 0.02, 0.6, 0.2))
    after = Measured("round-1", 0.5 + difference, measured_anchor(400, 0.5, 0.02, 0.9, 0.8))
    evidence = collapse(before, after, Gain(difference=difference, error=0.02), LIMITS)
    assert (evidence is not None) == collapsed


def test_confidence_and_unanimity_must_both_rise() -> None:
    before = Measured("sft", 0.5, measured_anchor(400, 0.9, 0.02, 0.6, 0.2))
    for confidence, unanimity in ((0.9, 0.2), (0.6, 0.8)):
        after = Measured("round-1", 0.5, measured_anchor(400, 0.5, 0.02, confidence, unanimity))
        assert collapse(before, after, Gain(difference=0.0, error=0.02), LIMITS) is None


def test_the_evidence_has_one_sentence_and_survives_json() -> None:
    black = OverpredictedValue(
        attribute="Dress/colour", value="Black", share=0.95, truth_share=0.3, queries=40
    )
    collapsed = measured_anchor(400, 0.54, 0.02, 0.934, 0.88)
    evidence = collapse(
        Measured("sft", 0.702, measured_anchor(400, 0.91, 0.02, 0.71, 0.4)),
        Measured("round-2", 0.655, collapsed.model_copy(update={"overpredicted": (black,)})),
        Gain(difference=-0.047, error=0.012),
        LIMITS,
    )
    assert evidence is not None
    assert evidence.reason == (
        "round-2 collapsed: since sft it is no more often right (anchor accuracy 0.702 → 0.655), "
        "yet confidence 0.71 → 0.93, unanimous 40% → 88%; entropy of the answers 0.91 → 0.54 of "
        "the truth's; 'Black' is 95% of the answers for Dress/colour and 30% of the verified values"
    )
    assert Evidence.model_validate_json(evidence.model_dump_json(), strict=True) == evidence


share = st.floats(0, 1)
signs = st.builds(
    CollapseMetrics,
    queries=st.integers(1, 500),
    entropy=st.none() | st.floats(0, 2),
    entropy_error=st.floats(0, 1),
    overpredicted=st.lists(
        st.builds(
            OverpredictedValue,
            attribute=st.sampled_from(ATTRIBUTES),
            value=st.sampled_from(VALUES),
            share=share,
            truth_share=share,
            queries=st.integers(1, 50),
        ),
        max_size=6,
        unique_by=lambda over: (over.attribute, over.value),
    ).map(tuple),
    confidence=st.none() | share,
    unanimity=st.none() | share,
)


@given(signs, share, share, share)
def test_a_policy_never_collapses_since_itself(signs, accuracy, error, limit) -> None:
    same = Measured("sft", accuracy, signs)
    limits = RoundsConfig(alarm_confidence_rise=limit, alarm_entropy_fall=limit)
    assert (
        collapse(same, replace(same, policy="round-1"), Gain(difference=0.0, error=error), limits)
        is None
    )


@given(st.randoms())
def test_the_order_of_queries_changes_no_evidence(random) -> None:
    turned = surer(say(START, "Black", share=0.7), 0.97)
    evidence = alarm(START, turned)
    random.shuffle(turned)
    assert alarm(START, turned) == evidence


@given(signs, signs, st.floats(0.001, 1), share)
def test_whoever_got_better_has_not_collapsed(before, after, gain, part) -> None:
    evidence = collapse(
        Measured("sft", 0.5, before),
        Measured("round-1", 0.5, after),
        Gain(difference=gain, error=gain * part * 0.9),
        LIMITS,
    )
    assert evidence is None
