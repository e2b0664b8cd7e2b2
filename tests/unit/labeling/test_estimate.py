"""The table of what a labeling takes."""

import pytest

from raypipe.config import load
from raypipe.labeling.estimate import Pace, Work, expected, lines

PACE = Pace(tokens_per_chain=40.0, chains_per_second=10.0)


def plan(*overrides: str, pace: Pace | None = PACE) -> Work:
    return expected(load(None, overrides), listings=100, queries=400, chains_per_query=7, pace=pace)


def test_chains_tokens_and_hours_follow_from_queries_and_pace() -> None:
    work = plan()
    assert (work.chains, work.tokens, work.seconds) == (2800, 112_000.0, 280.0)
    assert work.engine_hours() == pytest.approx(280 / 3600)


def test_a_configured_rate_has_the_last_word() -> None:
    assert plan("rates.chains_per_second=100").seconds == 28.0


def test_what_is_not_known_is_said_to_be_unknown() -> None:
    shown = {name: figure for name, figure, _ in lines(plan(pace=None), None, load())}
    assert shown["tokens of chains"] == shown["engine hours"] == shown["cost (USD)"] == "unknown"
    assert shown["chains"] == "2,800"


def test_cost_is_hours_times_the_price_and_none_without_one() -> None:
    assert plan().cost(load()) is None
    config = load(None, ["rates.engine_hour=3.6", "rates.currency=EUR"])
    assert plan().cost(config) == pytest.approx(0.28)
    shown = {name: (before, after) for name, before, after in lines(plan(), plan(), config)}
    assert shown["cost (EUR)"] == ("0.28", "0.28")
    assert shown["cost of 1,000 labels (EUR)"] == ("0.7000", "0.7000")


def test_nothing_left_to_do_costs_nothing() -> None:
    config = load(None, ["rates.engine_hour=1"])
    work = expected(config, listings=0, queries=0, chains_per_query=7, pace=PACE)
    assert work.cost(config) == 0
    assert {row[0]: row[1] for row in lines(work, None, config)}["cost (USD)"] == "0.00"
