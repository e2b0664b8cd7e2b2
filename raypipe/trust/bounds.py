"""Exact bounds on a share of right answers, from a number of independent answers fixed beforehand.

Clopper and Pearson (1934): the bounds of a binomial proportion that hold for every number of
answers and every true share. All functions take arrays as well as numbers.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

Floats = NDArray[np.float64]

_MOST_WRONG = (64, 1024, 16_384)
"""Wrong answers that are looked through, few first."""


def lower_bound(right: ArrayLike, answers: ArrayLike, confidence: float) -> Floats:
    """The one-sided lower bound of the share of right answers; 0 without a right one.

    Args:
        right, answers: right ones among so many independent answers.
        confidence: 0-1, such as 0.95.
    """
    hits, count = np.asarray(right, np.float64), np.asarray(answers, np.float64)
    known = hits > 0
    found = stats.beta.ppf(1 - confidence, np.where(known, hits, 1), count - hits + 1)
    return np.where(known, found, 0.0)


def upper_bound(right: ArrayLike, answers: ArrayLike, confidence: float) -> Floats:
    """The one-sided upper bound of the share of right answers; 1 without a wrong one."""
    hits, count = np.asarray(right, np.float64), np.asarray(answers, np.float64)
    known = hits < count
    found = stats.beta.ppf(confidence, hits + 1, np.where(known, count - hits, 1))
    return np.where(known, found, 1.0)


def p_value(right: ArrayLike, answers: ArrayLike, precision: float) -> Floats:
    """How likely so many right answers are where at most ``precision`` of them are right.

    It is at most 1 - confidence exactly where :func:`lower_bound` reaches ``precision``.
    """
    hits = np.asarray(right, np.float64)
    return np.asarray(stats.binom.sf(hits - 1, np.asarray(answers), precision), np.float64)


def answers_needed(precision: float, assurance: float, wrong: int = 0) -> int:
    """The fewest answers, of which so many are wrong, whose lower bound reaches ``precision``.

    59 without a wrong one for 0.95 at 0.95, 93 with one.
    """
    return int(_needed(precision, assurance, np.array([wrong]))[0])


def answers_needed_at_rate(
    precision: float, assurance: float, right: int, answers: int
) -> int | None:
    """The fewest answers, these among them, if wrong ones keep coming at the rate seen so far.

    Returns:
        None where that rate is too close to ``precision``, or below it.
    """
    wrong = answers - right
    if wrong == 0:
        return max(answers, answers_needed(precision, assurance))
    if right <= precision * answers:
        return None
    for most in _MOST_WRONG:
        errors = np.arange(wrong, wrong + most)
        needed = np.maximum(_needed(precision, assurance, errors), answers)
        reached = np.flatnonzero(needed * wrong <= errors * answers)
        if len(reached):
            return int(needed[reached[0]])
    return None


def _needed(precision: float, assurance: float, wrong: NDArray[np.int64]) -> NDArray[np.int64]:
    """By the waiting time for one wrong answer more, which is negative binomial."""
    answers = stats.nbinom.ppf(assurance, wrong + 1, 1 - precision) + wrong + 1
    return np.asarray(answers, np.int64)
