"""What the chains of a query say about its answer: signals that rank answers from the surest down.

A signal gives each query an answer and a score between 0 and 1. ``vote`` is the consensus and its
share of the chains, and none on a tie. ``weighted`` counts each chain with its probability, which
resolves ties. ``greedy`` takes the greedy chain alone; ``weighted_greedy`` adds it to the weighted
vote as one more chain.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike
from scipy import optimize, special

from raypipe.attributes.vote import count_votes
from raypipe.trust.bounds import Floats

SignalName = Literal["vote", "weighted", "greedy", "weighted_greedy"]
Weight = Literal["answer", "chain"]
"""Which probability of a chain counts: of its answer's tokens, or of all."""


@dataclass(frozen=True)
class ChainAnswer:
    """What a chain answers, and how probable that was, 0-1.

    Args:
        value: an allowed value; None where the chain is invalid.
        answer: the probability of the answer's tokens.
        chain: the geometric mean of the probabilities of all tokens of the chain. It says more than
            ``answer`` where the reasoning names the value before the answer does.
    """

    value: str | None
    answer: float
    chain: float

    def weight(self, name: Weight) -> float:
        return self.answer if name == "answer" else self.chain


@dataclass(frozen=True)
class QueryChains:
    """The answers of a query's chains in their order, and of the greedy one."""

    listing_id: str
    vertical: str
    attribute: str
    sampled: tuple[ChainAnswer, ...]
    greedy: ChainAnswer | None

    def first(self, num_chains: int) -> "QueryChains":
        """The query with so many of its sampled chains."""
        return replace(self, sampled=self.sampled[:num_chains])


@dataclass(frozen=True)
class ScoredAnswer:
    value: str | None
    score: float


NO_ANSWER = ScoredAnswer(None, 0.0)


def score(query: QueryChains, signal: SignalName, weight: Weight = "answer") -> ScoredAnswer:
    """The answer of a query by a signal, and how sure it is."""
    if signal == "vote":
        return _vote(query)
    greedy = [query.greedy] if query.greedy is not None else []
    voices = {
        "weighted": [*query.sampled],
        "weighted_greedy": [*query.sampled, *greedy],
        "greedy": greedy,
    }[signal]
    totals = _totals(voices, weight)
    if not totals:
        return NO_ANSWER
    value, total = max(totals.items(), key=lambda each: (each[1], each[0]))
    return ScoredAnswer(value, total / len(voices))


def features(query: QueryChains, answer: str | None, weight: Weight = "answer") -> Floats:
    """What speaks for an answer: shares of votes and weight, and the greedy chain's opinion.

    Returns:
        Five numbers: the answer's share of votes and its margin beyond the next value, the same by
        weight, and the greedy chain's weight, negative where it answers otherwise.
    """
    number = max(1, len(query.sampled))
    row = []
    for totals in (_totals(query.sampled, None), _totals(query.sampled, weight)):
        others = [total for value, total in totals.items() if value != answer]
        own = totals.get(answer, 0.0) if answer is not None else 0.0
        row += [own / number, (own - max(others, default=0.0)) / number]
    greedy = query.greedy
    if greedy is None or greedy.value is None:
        return np.array([*row, 0.0])
    return np.array([*row, greedy.weight(weight) * (1 if greedy.value == answer else -1)])


@dataclass(frozen=True)
class FittedSignal:
    """A logistic regression on features, with an offset for each attribute that is shrunk to none.

    Args:
        coefficients: of the features; ``means`` and ``scales`` are theirs where it was fitted.
        offsets: by (vertical, attribute), in logits; 0 for others.
    """

    intercept: float
    coefficients: tuple[float, ...]
    means: tuple[float, ...]
    scales: tuple[float, ...]
    offsets: dict[tuple[str, str], float]

    def probabilities(self, rows: ArrayLike, attributes: Sequence[tuple[str, str]]) -> Floats:
        """The probability that each answer is right."""
        scaled = (np.asarray(rows, np.float64) - self.means) / self.scales
        offsets = np.array([self.offsets.get(attribute, 0.0) for attribute in attributes])
        logits = self.intercept + scaled @ np.array(self.coefficients) + offsets
        return np.asarray(special.expit(logits), np.float64)


def fit_signal(
    rows: ArrayLike,
    attributes: Sequence[tuple[str, str]],
    right: ArrayLike,
    shrinkage: float = 20.0,
) -> FittedSignal:
    """Fit on verified answers. What it ranks must be certified on others.

    Args:
        rows: features of each answer.
        attributes: (vertical, attribute) of each.
        shrinkage: weight of the squares of coefficients and offsets (the inverse of the variance
            that offsets are expected to have, in squared logits).
    """
    given = np.asarray(rows, np.float64)
    means, scales = given.mean(axis=0), given.std(axis=0) + 1e-9
    scaled, hits = (given - means) / scales, np.asarray(right, np.float64)
    names = sorted(set(attributes))
    places = [names.index(each) for each in attributes]
    columns = np.hstack([scaled, np.eye(len(names))[places], np.ones((len(scaled), 1))])
    penalty = np.full(columns.shape[1], shrinkage)
    penalty[-1] = 0.0

    def loss(weights: Floats) -> tuple[float, Floats]:
        logits = columns @ weights
        value = np.logaddexp(0, logits).sum() - hits @ logits + penalty @ weights**2 / 2
        return float(value), columns.T @ (special.expit(logits) - hits) + penalty * weights

    found = optimize.minimize(loss, np.zeros(columns.shape[1]), jac=True, method="L-BFGS-B").x
    width = scaled.shape[1]
    return FittedSignal(
        intercept=float(found[-1]),
        coefficients=tuple(map(float, found[:width])),
        means=tuple(map(float, means)),
        scales=tuple(map(float, scales)),
        offsets=dict(zip(names, map(float, found[width:-1]), strict=True)),
    )


def coverage_at(precision: float, scores: ArrayLike, right: ArrayLike) -> float:
    """The largest share of queries, from the surest down, of which so many are right.

    Args:
        scores: of all queries, 0 for those without an answer: they are never covered. Queries with
            equal scores are covered together.
        right: False for those without an answer.
    """
    given, hits = np.asarray(scores, np.float64), np.asarray(right, np.float64)
    levels, places = np.unique(given, return_inverse=True)
    counts = np.bincount(places, minlength=len(levels))[::-1].cumsum()
    sums = np.bincount(places, weights=hits, minlength=len(levels))[::-1].cumsum()
    reached = (sums >= precision * counts - 1e-9) & (levels[::-1] > 0)
    return float(counts[reached].max() / len(given)) if reached.any() else 0.0


def _vote(query: QueryChains) -> ScoredAnswer:
    vote = count_votes((chain.value for chain in query.sampled), max(1, len(query.sampled)))
    return ScoredAnswer(vote.consensus, vote.confidence)


def _totals(voices: Sequence[ChainAnswer], weight: Weight | None) -> dict[str, float]:
    """By value; without a weight each voice counts one."""
    totals: dict[str, float] = defaultdict(float)
    for voice in voices:
        if voice.value is not None:
            totals[voice.value] += 1.0 if weight is None else voice.weight(weight)
    return dict(totals)
