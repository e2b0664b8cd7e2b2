"""Independent answers among those of listings."""

from collections import Counter

import pytest

from raypipe.trust.listing_draws import (
    VerifiedAnswer,
    halves,
    one_per_listing,
    vertical_weights,
)


def listing(name: str, queries: int, vertical: str = "Shirt") -> list[VerifiedAnswer]:
    return [
        VerifiedAnswer(name, vertical, f"attribute {number}", 1.0, True)
        for number in range(queries)
    ]


def listings(count: int, queries: int, vertical: str = "Shirt") -> list[VerifiedAnswer]:
    return [
        answer
        for number in range(count)
        for answer in listing(f"{vertical} {number}", queries, vertical)
    ]


def test_of_listings_with_equally_many_queries_each_gives_one() -> None:
    drawn = one_per_listing(listings(3000, 5), seed=1)
    assert len({answer.listing_id for answer in drawn}) == len(drawn) == 3000
    counts = Counter(answer.attribute for answer in drawn)
    assert min(counts.values()) > 500


def test_every_query_is_as_likely_to_be_drawn_as_any_other() -> None:
    answers = listings(2000, 2, "Shirt") + listings(2000, 5, "Saree")
    counts = Counter(answer.vertical for answer in one_per_listing(answers, seed=2))
    assert counts["Saree"] == 2000
    assert counts["Shirt"] == pytest.approx(800, abs=80)


def test_a_draw_depends_on_no_other_listing_and_on_no_order() -> None:
    answers = listings(50, 4)
    drawn = one_per_listing(answers, seed=3)
    again = one_per_listing([*reversed(answers), *listing("another", 4)], seed=3)
    assert set(drawn) < set(again)
    assert set(drawn) != set(one_per_listing(answers, seed=4))


def test_a_vertical_with_more_than_its_share_is_thinned_out() -> None:
    answers = listings(1000, 1, "Shirt") + listings(3000, 1, "Saree")
    weights = vertical_weights({"Shirt": 50, "Saree": 50, "Mug": 7}, answers)
    assert weights == pytest.approx({"Shirt": 2, "Saree": 2 / 3})
    counts = Counter(answer.vertical for answer in one_per_listing(answers, 5, weights))
    assert counts["Shirt"] == 1000
    assert counts["Saree"] == pytest.approx(1000, abs=100)


def test_nothing_is_drawn_of_nothing() -> None:
    assert one_per_listing([], seed=0) == []
    assert vertical_weights({}, listings(2, 1)) == {}


def test_the_queries_of_a_listing_choose_together_or_certify_together() -> None:
    choose, prove = halves(listings(400, 3), seed=6)
    assert len(choose) + len(prove) == 1200
    assert {a.listing_id for a in choose}.isdisjoint(a.listing_id for a in prove)
    assert len(choose) == pytest.approx(600, abs=120)
    assert halves(listings(40, 3), seed=6, share=0)[0] == []
