import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import bootstrap
from sklearn.metrics import accuracy_score, recall_score

from raypipe.evaluation import accuracy
from raypipe.evaluation.accuracy import by_group, estimate, macro, paired_difference


def drawn_queries(num_listings: int, seed: int = 0):
    """Queries, one to five a listing, right or wrong together more often than apart."""
    generator = np.random.default_rng(seed)
    listings, correct = [], []
    for number in range(num_listings):
        skill = generator.beta(2, 1)
        for _ in range(generator.integers(1, 6)):
            listings.append(f"l{number}")
            correct.append(bool(generator.random() < skill))
    return listings, correct


def test_decision_accuracy_is_micro_over_queries():
    listings, correct = drawn_queries(200)
    value = estimate(correct, listings, 100, 0).value
    assert value == pytest.approx(accuracy_score([True] * len(correct), correct))


def test_decision_accuracy_interval_is_a_bootstrap_over_listings():
    listings, correct = drawn_queries(300)
    correct_of: dict[str, list[bool]] = {}
    for listing, right in zip(listings, correct, strict=True):
        correct_of.setdefault(listing, []).append(right)
    hits = np.array([sum(rights) for rights in correct_of.values()])
    sizes = np.array([len(rights) for rights in correct_of.values()])
    reference = bootstrap(
        (hits, sizes),
        lambda hits, sizes, axis: hits.sum(axis=axis) / sizes.sum(axis=axis),
        paired=True,
        vectorized=True,
        method="percentile",
        n_resamples=4000,
        random_state=1,
    ).confidence_interval
    ours = estimate(correct, listings, 4000, 0)
    assert ours.low == pytest.approx(reference.low, abs=0.005)
    assert ours.high == pytest.approx(reference.high, abs=0.005)


def test_listings_that_are_right_as_a_whole_give_a_wider_interval_than_their_queries():
    correct = [number % 2 == 0 for number in range(100) for _ in range(5)]
    listings = [f"l{number}" for number in range(100) for _ in range(5)]
    clustered = estimate(correct, listings, 1000, 0)
    apart = estimate(correct, [str(number) for number in range(500)], 1000, 0)
    ratio = (clustered.high - clustered.low) / (apart.high - apart.low)
    assert ratio == pytest.approx(5**0.5, rel=0.15)


@given(st.integers(1, 12), st.randoms(use_true_random=False))
def test_the_order_of_queries_does_not_matter(num_listings, random):
    listings, correct = drawn_queries(num_listings, num_listings)
    order = random.sample(range(len(listings)), len(listings))
    shuffled = estimate([correct[i] for i in order], [listings[i] for i in order], 100, 3)
    assert shuffled == estimate(correct, listings, 100, 3)


def test_the_interval_depends_on_the_seed_and_not_on_memory(monkeypatch):
    listings, correct = drawn_queries(50)
    whole = estimate(correct, listings, 200, 1)
    assert estimate(correct, listings, 200, 1) == whole
    assert estimate(correct, listings, 200, 2) != whole
    monkeypatch.setattr(accuracy, "_MAX_SAMPLES", 1)
    assert estimate(correct, listings, 200, 1) == whole


def test_all_right_has_no_width():
    assert estimate([True] * 9, ["a", "b", "c"] * 3, 100, 0) == accuracy.Estimate(1, 1, 1)


def test_no_queries_are_refused():
    with pytest.raises(ValueError, match="no queries"):
        estimate([], [], 100, 0)


def test_decision_accuracy_macro_counts_every_group_the_same():
    """Against scikit-learn: macro accuracy per vertical is macro recall with it as the label."""
    _, correct = drawn_queries(100)
    verticals = [("Dress", "Shoe", "Watch")[i * i % 3] for i in range(len(correct))]
    groups = by_group(correct, verticals)
    said = [name if right else "" for name, right in zip(verticals, correct, strict=True)]
    labels = sorted(set(verticals))
    reference = recall_score(verticals, said, labels=labels, average="macro", zero_division=0)
    assert macro(groups) == pytest.approx(reference)
    assert list(groups) == labels
    assert sum(group.queries for group in groups.values()) == len(correct)


def test_a_paired_difference_is_narrower_than_two_policies_apart():
    listings, before = drawn_queries(300)
    queries = [(listing, str(number)) for number, listing in enumerate(listings)]
    first = dict(zip(queries, before, strict=True))
    second = {query: right or index % 20 == 0 for index, (query, right) in enumerate(first.items())}
    gain = paired_difference(first, second, 1000, 0)
    assert gain.value == pytest.approx((sum(second.values()) - sum(before)) / len(before))
    assert 0 < gain.low < gain.value < gain.high
    alone = estimate(before, listings, 1000, 0)
    assert gain.high - gain.low < alone.high - alone.low
    swapped = paired_difference(second, dict(reversed(first.items())), 1000, 0)
    assert (swapped.value, swapped.low) == pytest.approx((-gain.value, -gain.high))


def test_a_paired_difference_wants_the_same_queries():
    with pytest.raises(ValueError, match="2 queries"):
        paired_difference({("a", "x"): True}, {("a", "y"): True}, 100, 0)
