"""What work takes: rates make hours, prices make money, and what is unknown stays so."""

import pytest

from raypipe.config import load
from raypipe.runtime.cost import Cost, Pace, WorkItem, expected_cost, figures

PACE = Pace(tokens_per_chain=40.0, chains_per_second=10.0)
LABELS = WorkItem("labels", listings=100, queries=400, chains=2800)


def cost(*overrides: str, pace: Pace | None = PACE, item: WorkItem = LABELS) -> Cost:
    return expected_cost(load(None, overrides), [item], pace)


def test_tokens_and_hours_follow_from_chains_and_pace() -> None:
    assert (cost().chains, cost().tokens) == (2800, 112_000.0)
    assert cost().engine_hours == pytest.approx(280 / 3600)


def test_a_configured_rate_overrides_the_measured_pace() -> None:
    assert cost("rates.chains_per_second=100").engine_hours == pytest.approx(28 / 3600)


def test_what_nobody_has_measured_is_unknown() -> None:
    shown = figures(cost(pace=None), load())
    assert shown["tokens of chains"] == shown["engine hours"] == shown["cost (USD)"] == "unknown"
    assert shown["chains"] == "2,800"


def test_cost_is_hours_times_the_price_and_none_without_one() -> None:
    assert cost().price(load()) is None
    config = load(None, ["rates.engine_hour=3.6", "rates.currency=EUR"])
    assert cost().price(config) == pytest.approx(0.28)
    shown = figures(cost(), config)
    assert (shown["cost (EUR)"], shown["cost of 1,000 labels (EUR)"]) == ("0.28", "0.7000")


def test_examples_cost_trainer_hours() -> None:
    item = WorkItem("round-1", examples=7200)
    rates = "rates={examples_per_second: 2, trainer_hour: 6}"
    assert cost(rates, item=item).price(load(None, [rates])) == pytest.approx(6.0)
    assert cost(item=item).price(load(None, ["rates.trainer_hour=6"])) is None


def test_finished_work_is_excluded_and_nothing_left_costs_nothing() -> None:
    item = WorkItem("round-1", chains=10, examples=20, is_sampled=True, is_trained=True)
    left = cost(item=item, pace=None)
    assert (left.chains, left.examples, left.price(load())) == (0, 0, 0.0)
