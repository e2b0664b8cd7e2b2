"""Which signal labels a catalog, chosen on verified answers by coverage and cost.

What is chosen here is certified on other answers (:func:`~raypipe.trust.listing_draws.halves`).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from raypipe.seeds import derive
from raypipe.trust.bounds import Floats
from raypipe.trust.signals import (
    FittedSignal,
    QueryChains,
    SignalName,
    Weight,
    coverage_at,
    features,
    fit_signal,
    score,
)

NEARLY_BEST = 0.98
"""A cheaper signal is taken where its coverage reaches so much of the best one's."""
AROUND = (-0.06, -0.03, 0.0, 0.03)
"""Coverage at one precision jumps with single answers: the mean around it chooses better."""
_FOLDS = 5
_RESAMPLES = 100


@dataclass(frozen=True)
class LabelSignal:
    """A way to answer a query and to rank the answers.

    Args:
        num_chains: sampled chains of a query; 0 for the greedy one alone.
        fitted: ranks by a regression on verified answers, with a shrunk offset per attribute.
    """

    signal: SignalName
    num_chains: int
    weight: Weight = "chain"
    fitted: bool = False

    @property
    def cost(self) -> int:
        """Chains a query, the greedy one counted."""
        return self.num_chains + (self.fitted or self.signal in ("greedy", "weighted_greedy"))

    @property
    def name(self) -> str:
        weighted = f" by {self.weight}" if self.signal != "vote" else ""
        return f"{self.signal} of {self.cost}{weighted}{', fitted' if self.fitted else ''}"


@dataclass(frozen=True)
class SignalCoverage:
    """What a signal covers of verified queries that it was not fitted on, as a mean over resampled
    listings and over precisions around the one asked for."""

    signal: LabelSignal
    coverage: float


@dataclass(frozen=True)
class Ranking:
    """Answers and scores of queries; a score is 0 where there is no answer."""

    values: NDArray[np.object_]
    scores: Floats

    def right(self, truths: Sequence[str]) -> NDArray[np.bool_]:
        return np.array(
            [value == truth for value, truth in zip(self.values, truths, strict=True)], bool
        )


def label_signals(num_chains: int, budget: int) -> list[LabelSignal]:
    """All signals that cost no more than ``budget`` chains a query, of so many at most."""
    weights: tuple[Weight, ...] = ("answer", "chain")
    beside_greedy = min(num_chains, budget - 1)
    found = [LabelSignal("vote", min(num_chains, budget))]
    for weight in weights:
        found += [
            LabelSignal("greedy", 0, weight),
            LabelSignal("greedy", 0, weight, fitted=True),
            LabelSignal("weighted", min(num_chains, budget), weight),
            LabelSignal("weighted_greedy", beside_greedy, weight),
            LabelSignal("weighted_greedy", beside_greedy, weight, fitted=True),
        ]
    return [each for each in found if each.cost <= budget]


def rank(
    signal: LabelSignal, queries: Sequence[QueryChains], fitted: FittedSignal | None = None
) -> Ranking:
    """Answers by a signal and how sure they are.

    Args:
        fitted: ranks them instead of the signal's own score.
    """
    limited = [query.first(signal.num_chains) for query in queries]
    scored = [score(query, signal.signal, signal.weight) for query in limited]
    values = np.array([each.value for each in scored], object)
    scores = np.array([each.score for each in scored])
    if fitted is not None and len(queries):
        rows = [
            features(query, each.value, signal.weight)
            for query, each in zip(limited, scored, strict=True)
        ]
        attributes = [(query.vertical, query.attribute) for query in queries]
        answered = np.array([each.value is not None for each in scored])
        scores = np.where(answered, fitted.probabilities(rows, attributes), 0.0)
    return Ranking(values, scores)


def fit_on(
    signal: LabelSignal, queries: Sequence[QueryChains], truths: Sequence[str]
) -> FittedSignal | None:
    """The regression of a signal that has one, on the queries that it answers."""
    if not signal.fitted:
        return None
    limited = [query.first(signal.num_chains) for query in queries]
    answers = [score(query, signal.signal, signal.weight).value for query in limited]
    known = [place for place, answer in enumerate(answers) if answer is not None]
    if not known:
        return None
    return fit_signal(
        [features(limited[place], answers[place], signal.weight) for place in known],
        [(queries[place].vertical, queries[place].attribute) for place in known],
        [answers[place] == truths[place] for place in known],
    )


def compare(
    signals: Sequence[LabelSignal],
    queries: Sequence[QueryChains],
    truths: Sequence[str],
    precision: float,
    seed: int,
) -> list[SignalCoverage]:
    """The coverage of each signal around a precision, on verified queries."""
    names = sorted({query.listing_id for query in queries})
    places = [np.flatnonzero([query.listing_id == name for query in queries]) for name in names]
    draws = np.random.default_rng(derive(seed, "resampled listings"))
    resamples = [
        np.concatenate([places[each] for each in draws.integers(0, len(names), len(names))])
        for _ in range(_RESAMPLES)
    ]
    found = []
    for signal in signals:
        ranking = _cross_fitted(signal, queries, truths, seed)
        right = ranking.right(truths)
        means = [
            coverage_at(min(precision + step, 1.0), ranking.scores[each], right[each])
            for each in resamples
            for step in AROUND
        ]
        found.append(SignalCoverage(signal, float(np.mean(means))))
    return found


def choose(compared: Sequence[SignalCoverage]) -> SignalCoverage:
    """The cheapest signal that covers nearly as much as the best; of equal cost the better one."""
    best = max(each.coverage for each in compared)
    nearly = [each for each in compared if each.coverage >= NEARLY_BEST * best]
    return min(nearly, key=lambda each: (each.signal.cost, -each.coverage))


def _cross_fitted(
    signal: LabelSignal, queries: Sequence[QueryChains], truths: Sequence[str], seed: int
) -> Ranking:
    """Each fold of listings is ranked by what was fitted on the others."""
    if not signal.fitted:
        return rank(signal, queries)
    folds = np.array([derive(seed, "fold", query.listing_id) % _FOLDS for query in queries])
    values, scores = np.empty(len(queries), object), np.zeros(len(queries))
    for fold in range(_FOLDS):
        inside, outside = np.flatnonzero(folds == fold), np.flatnonzero(folds != fold)
        fitted = fit_on(
            signal, [queries[place] for place in outside], [truths[place] for place in outside]
        )
        part = rank(signal, [queries[place] for place in inside], fitted)
        values[inside], scores[inside] = part.values, part.scores
    return Ranking(values, scores)
