"""What a label's confidence is worth: a probability, a threshold, and a curve.

A vote's confidence is one of a few numbers and a greedy chain's any number; in both a more
confident answer should be right at least as often, and nothing else is assumed: isotonic
regression.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from raypipe.attributes.publishing import Calibration, Floats
from raypipe.summaries import CoveragePoint, ReliabilityBin


def fit(confidences: ArrayLike, right: ArrayLike) -> Calibration:
    """Isotonic regression by pooling adjacent violators.

    Queries without an answer are left out beforehand.
    """
    given = np.asarray(confidences, dtype=np.float64)
    levels, index = np.unique(given, return_inverse=True)
    weights = np.bincount(index, minlength=len(levels)).astype(np.float64)
    hits = np.bincount(index, weights=np.asarray(right, np.float64), minlength=len(levels))
    pools: list[list[float]] = []  # hits, weight, first level, last level
    for place, (hit, weight) in enumerate(zip(hits, weights, strict=True)):
        pools.append([float(hit), float(weight), place, place])
        while len(pools) > 1 and pools[-2][0] * pools[-1][1] >= pools[-1][0] * pools[-2][1]:
            last = pools.pop()
            pools[-1][0] += last[0]
            pools[-1][1] += last[1]
            pools[-1][3] = last[3]
    ends = [(int(end), pool[0] / pool[1]) for pool in pools for end in sorted({*pool[2:]})]
    return Calibration(
        tuple(float(levels[place]) for place, _ in ends), tuple(value for _, value in ends)
    )


def threshold_for(precision: float, probabilities: ArrayLike, right: ArrayLike) -> float | None:
    """The lowest probability from which upwards answers were right at least so often.

    Args:
        precision: asked share (0-1) of right answers among the published.
        probabilities, right: of the answers of the anchor split.

    Returns:
        None when no threshold reaches the precision.
    """
    levels, answers, hits = _from_the_top(probabilities, right)
    enough = hits >= precision * answers - 1e-9
    return float(levels[enough][-1]) if enough.any() else None


def coverage_curve(confidences: ArrayLike, right: ArrayLike, queries: int) -> list[CoveragePoint]:
    """Accuracy of what is answered against how much is answered.

    Args:
        confidences, right: of the queries with an answer.
        queries: all queries asked; those without an answer are never covered.

    Returns:
        A point for each confidence, from the most confident down.
    """
    return [
        CoveragePoint(
            threshold=float(level),
            coverage=float(count / queries),
            accuracy=float(hit / count),
            queries=int(count),
        )
        for level, count, hit in zip(*_from_the_top(confidences, right), strict=True)
    ]


def brier_score(probabilities: ArrayLike, right: ArrayLike) -> float:
    """Mean squared difference between probability and outcome; 0 is perfect."""
    gap = np.asarray(probabilities, np.float64) - np.asarray(right, np.float64)
    return float(np.mean(gap**2))


def reliability(
    probabilities: ArrayLike, right: ArrayLike, num_bins: int = 10
) -> list[ReliabilityBin]:
    """Bins of equal width; empty ones are left out."""
    stated, hits = np.asarray(probabilities, np.float64), np.asarray(right, np.float64)
    places = np.minimum((stated * num_bins).astype(int), num_bins - 1)
    return [
        ReliabilityBin(
            probability=float(stated[places == place].mean()),
            accuracy=float(hits[places == place].mean()),
            queries=int((places == place).sum()),
        )
        for place in np.unique(places)
    ]


def calibration_error(bins: Sequence[ReliabilityBin]) -> float:
    """Mean distance of probability and accuracy over the queries in the bins (ECE)."""
    total = sum(each.queries for each in bins)
    gaps = (abs(each.probability - each.accuracy) * each.queries for each in bins)
    return float(sum(gaps) / total)


def _from_the_top(scores: ArrayLike, right: ArrayLike) -> tuple[Floats, Floats, Floats]:
    """Distinct scores, falling; answers at or above each; right ones among them."""
    levels, index = np.unique(np.asarray(scores, np.float64), return_inverse=True)
    answers = np.bincount(index, minlength=len(levels)).astype(np.float64)
    hits = np.bincount(index, weights=np.asarray(right, np.float64), minlength=len(levels))
    return levels[::-1], np.cumsum(answers[::-1]), np.cumsum(hits[::-1])
