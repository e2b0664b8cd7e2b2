"""Which signal is chosen, and that it is never fitted on what it ranks."""

import numpy as np
import pytest

from raypipe.trust.signal_choice import (
    LabelSignal,
    SignalCoverage,
    choose,
    compare,
    fit_on,
    label_signals,
    rank,
)
from raypipe.trust.signals import ChainAnswer, QueryChains

VALUES = ("Blue", "Green", "Red")


def queries(count: int, seed: int) -> tuple[list[QueryChains], list[str]]:
    """Of three attributes, of which chains get one nearly always right and one often wrong."""
    draws = np.random.default_rng(seed)
    made, truths = [], []
    for number in range(count):
        name, ability = (("color", 0.8), ("fit", 0.5), ("neck", 0.2))[number % 3]
        truth = VALUES[int(draws.integers(3))]

        def chain(truth: str = truth, ability: float = ability) -> ChainAnswer:
            sure = draws.random()
            right = draws.random() < ability * (0.6 + 0.4 * sure)
            value = truth if right else VALUES[int(draws.integers(3))]
            return ChainAnswer(value, 0.9, 0.5 + sure / 2)

        sampled = tuple(chain() for _ in range(7))
        made.append(QueryChains(f"listing {number // 3}", "Shirt", name, sampled, chain()))
        truths.append(truth)
    return made, truths


def test_signals_cost_no_more_than_the_budget() -> None:
    signals = label_signals(num_chains=7, budget=7)
    assert max(each.cost for each in signals) == 7
    assert LabelSignal("vote", 7) in signals
    assert {each.num_chains for each in signals if each.signal == "weighted_greedy"} == {6}
    assert all(each.cost <= 3 for each in label_signals(num_chains=7, budget=3))
    assert len({each.name for each in signals}) == len(signals)


def test_a_cheaper_signal_is_taken_where_it_covers_nearly_as_much() -> None:
    vote, greedy = LabelSignal("vote", 7), LabelSignal("greedy", 0)
    weighted = LabelSignal("weighted", 7)

    def chosen(*coverages: float) -> LabelSignal:
        pairs = zip((vote, greedy, weighted), coverages, strict=True)
        return choose([SignalCoverage(*pair) for pair in pairs]).signal

    assert chosen(0.50, 0.495, 0.30) == greedy
    assert chosen(0.50, 0.30, 0.51) == weighted
    assert chosen(0.0, 0.0, 0.0) == greedy


def test_signals_are_compared_and_a_fitted_one_knows_the_attributes() -> None:
    asked, truths = queries(450, seed=1)
    signals = [LabelSignal("vote", 7), LabelSignal("weighted_greedy", 6, fitted=True)]
    vote, fitted = compare(signals, asked, truths, precision=0.92, seed=0)
    assert 0 < vote.coverage < fitted.coverage < 1
    again = compare(signals, asked, truths, precision=0.92, seed=0)
    assert [vote, fitted] == again


def test_what_is_fitted_on_noise_covers_nothing_of_other_listings() -> None:
    asked, _ = queries(300, seed=2)
    draws = np.random.default_rng(3)
    noise = [VALUES[int(place)] for place in draws.integers(0, 3, len(asked))]
    (found,) = compare(
        [LabelSignal("weighted_greedy", 6, fitted=True)], asked, noise, precision=0.8, seed=0
    )
    assert found.coverage < 0.05


def test_a_fitted_signal_ranks_other_queries_by_probability() -> None:
    signal = LabelSignal("weighted_greedy", 6, fitted=True)
    asked, truths = queries(600, seed=4)
    others, their_truths = queries(600, seed=5)
    ranking = rank(signal, others, fit_on(signal, asked, truths))
    right = ranking.right(their_truths)
    assert ranking.scores.mean() == pytest.approx(right.mean(), abs=0.06)
    assert fit_on(LabelSignal("vote", 7), asked, truths) is None
    assert len(rank(signal, []).scores) == 0
