"""Metrics of collapse on constructed answers, and what changes none of them."""

from math import log

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raypipe.evaluation.collapse import (
    AnchorAnswer,
    collapse_metrics,
)
from raypipe.summaries import CollapseMetrics, OverpredictedValue

VALUES = ("Red", "Blue", "Green", "None")
queries = st.lists(
    st.builds(
        AnchorAnswer,
        listing_id=st.sampled_from([f"l{number}" for number in range(9)]),
        vertical=st.sampled_from(("Dress", "Shoe")),
        attribute=st.sampled_from(("colour", "heel")),
        truth=st.sampled_from(VALUES),
        answer=st.sampled_from((*VALUES, None)),
        confidence=st.sampled_from([votes / 7 for votes in range(8)]),
    ),
    max_size=60,
)


def asked(answers: list[str | None], truths: list[str], place: str = "Dress/colour"):
    """A query of each of so many listings."""
    return [
        AnchorAnswer(f"l{number}", *place.split("/"), truth, answer)
        for number, (answer, truth) in enumerate(zip(answers, truths, strict=True))
    ]


def metrics_of(*examined: AnchorAnswer) -> CollapseMetrics:
    metrics = collapse_metrics(examined)
    assert metrics is not None
    return metrics


def test_answers_as_varied_as_the_truth_have_entropy_one_though_all_are_wrong() -> None:
    metrics = metrics_of(*asked(["Red", "Red", "Blue", "Blue"], ["Blue", "Blue", "Red", "Red"]))
    assert metrics.entropy == 1
    assert metrics.overpredicted == ()


def test_one_answer_everywhere_has_entropy_zero() -> None:
    metrics = metrics_of(*asked(["Red"] * 4, ["Red", "Blue", "Green", "None"]))
    assert (metrics.entropy, metrics.entropy_error) == (0, 0)


def test_an_attribute_is_never_mixed_with_another() -> None:
    dress = asked(["Red"] * 4, ["Red", "Blue", "Red", "Blue"])
    shoe = asked(["Blue", "Red"], ["Blue", "Red"], "Shoe/colour")
    metrics = metrics_of(*dress, *shoe)
    assert metrics.entropy == pytest.approx(2 * log(2) / (6 * log(2)))


def test_a_query_without_an_answer_is_left_out_of_answers_and_truth_alike() -> None:
    answered = asked(["Red", "Blue"], ["Blue", "Red"])
    refused = [AnchorAnswer("l9", "Dress", "colour", "Green", None)]
    metrics = metrics_of(*answered, *refused)
    assert (metrics.queries, metrics.entropy) == (3, 1)


@pytest.mark.parametrize(
    "examined",
    [
        asked([None, None], ["Red", "Blue"]),
        asked(["Red", "Blue"], ["Red", "Red"]),
        asked(["Red"], ["Red"]),
    ],
)
def test_where_nothing_varies_there_is_no_entropy(examined: list[AnchorAnswer]) -> None:
    metrics = metrics_of(*examined)
    assert (metrics.entropy, metrics.entropy_error) == (None, None)


def test_few_queries_leave_a_wide_error_and_many_a_narrow_one() -> None:
    truths = ["Red", "Blue", "Green", "None"]
    said: list[str | None] = ["Red", "Red", "Blue", "None"]
    few = metrics_of(*asked(said, truths)).entropy_error
    many = metrics_of(*asked(said * 25, truths * 25)).entropy_error
    assert few is not None
    assert many is not None
    assert many < few / 4


def test_leans_are_sorted_and_the_dominant_one_is_clear_of_chance() -> None:
    rare = asked(["High"], ["Flat"], "Shoe/heel")
    many = asked(["Red"] * 9 + ["Blue"], ["Red", *["Blue"] * 9])
    metrics = metrics_of(*rare, *many)
    assert metrics.overpredicted == (
        OverpredictedValue(attribute="Shoe/heel", value="High", share=1, truth_share=0, queries=1),
        OverpredictedValue(
            attribute="Dress/colour", value="Red", share=0.9, truth_share=0.1, queries=10
        ),
    )
    assert metrics.most_overpredicted == metrics.overpredicted[1]


def test_an_attribute_of_several_verticals_is_looked_at_as_one_too() -> None:
    """Two queries each tell little, and ten verticals of them a lot."""
    examined = [
        query
        for number in range(10)
        for query in asked(["Red", "Red"], ["Red", "Blue"], f"V{number}/colour")
    ]
    metrics = metrics_of(*examined)
    assert metrics.most_overpredicted == OverpredictedValue(
        attribute="colour", value="Red", share=1, truth_share=0.5, queries=20
    )
    assert len(metrics.overpredicted) == 11


@pytest.mark.parametrize(
    ("share", "other", "queries", "exceeds"),
    [
        (1, 0.25, 8, True),
        (1, 0.5, 8, False),
        (0.5, 0.125, 8, False),
        (1, 0, 1, False),
        (0.6, 0.4, 300, True),
    ],
)
def test_a_share_exceeds_another_where_chance_does_not_explain_it(
    share: float, other: float, queries: int, exceeds: bool
) -> None:
    assert (
        OverpredictedValue(
            attribute="Shoe/heel", value="Flat", share=share, truth_share=0, queries=queries
        ).exceeds(other)
        == exceeds
    )


def test_confidence_is_the_mean_and_unanimous_is_all_chains_of_one_answer() -> None:
    examined = [
        AnchorAnswer(f"l{number}", "Shoe", "heel", "Flat", "Flat", confidence)
        for number, confidence in enumerate((1, 1, 6 / 7, 0))
    ]
    metrics = metrics_of(*examined)
    assert metrics.confidence == pytest.approx(20 / 28)
    assert metrics.unanimity == 0.5


def test_without_a_vote_there_is_no_confidence_and_without_queries_nothing() -> None:
    metrics = metrics_of(*asked(["Red"], ["Red"]))
    assert (metrics.confidence, metrics.unanimity) == (None, None)
    assert collapse_metrics([]) is None


@given(queries, st.randoms())
def test_the_order_of_queries_changes_nothing(examined, random) -> None:
    turned = list(examined)
    random.shuffle(turned)
    assert collapse_metrics(turned) == collapse_metrics(examined)


@given(queries)
def test_metrics_are_in_their_bounds_and_survive_json(examined) -> None:
    metrics = collapse_metrics(examined)
    if metrics is None:
        return
    assert CollapseMetrics.model_validate_json(metrics.model_dump_json(), strict=True) == metrics
    assert metrics.entropy is None or metrics.entropy >= 0
    assert all(0 <= over.truth_share < over.share <= 1 for over in metrics.overpredicted)
    assert 0 <= (metrics.unanimity or 0) <= (metrics.confidence or 0) + 1e-9 <= 1 + 2e-9
