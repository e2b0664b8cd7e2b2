"""Which levels of a signal may be published: several looks at one set of answers, corrected.

Levels run along the last axis, from the surest down, and each counts the answers at or above it.
Before an answer is read, the counts alone fix where tests start: at the surest level with enough
answers to pass without an error, and at those with three and nine times as many. The starts share
the permitted error. Tests go downward: a level that passes hands its error on to the next, one that
fails does not (a graphical Bonferroni procedure, Bretz et al. 2009; for thresholds Angelopoulos et
al. 2021, "Learn then Test"). Wherever the truth lies, the chance that a level passes whose
precision is below the request stays within the permitted error.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from raypipe.trust.bounds import Floats, answers_needed, p_value

START_FACTORS = (1, 3, 9)
"""In multiples of the fewest answers that can pass."""
_MOST_LEVELS = 20


def signal_levels(signals: ArrayLike) -> Floats:
    """The levels at which a signal may be cut, from the surest down: its values, or 20 quantiles.

    Args:
        signals: of the labels to be published, never of the verified answers alone: a level that
            is one of their own signals would be chosen by them.
    """
    values = np.unique(np.asarray(signals, np.float64))
    values = values[values > 0]
    if len(values) > _MOST_LEVELS:
        shares = np.arange(_MOST_LEVELS) / _MOST_LEVELS
        positive = np.asarray(signals, np.float64)
        cuts = np.quantile(positive[positive > 0], shares, method="inverted_cdf")
        values = np.unique(cuts)
    return values[::-1]


def at_or_above(signals: ArrayLike, levels: ArrayLike) -> NDArray[np.bool_]:
    """For each level (rows) which signals (columns) reach it."""
    return np.asarray(signals, np.float64)[None, :] >= np.asarray(levels, np.float64)[:, None]


def starting_shares(
    answers: ArrayLike,
    precision: float,
    assurance: float,
    factors: Sequence[float] = START_FACTORS,
) -> Floats:
    """The error that each level may spend before another passes; 0 where no test starts.

    Args:
        answers: number of answers at or above each level.
        factors: a test starts at the surest level with so many times the fewest answers.

    Returns:
        In the shape of ``answers``. They add up to 1 - assurance, or to 0 without enough answers.
    """
    counts = np.asarray(answers)
    fewest = answers_needed(precision, assurance)
    starts = np.zeros(counts.shape, bool)
    for factor in factors:
        enough = counts >= factor * fewest
        starts |= enough & (np.cumsum(enough, axis=-1) == 1)
    number = np.maximum(starts.sum(axis=-1, keepdims=True), 1)
    return np.where(starts, (1 - assurance) / number, 0.0)


def check_levels(
    right: ArrayLike, answers: ArrayLike, precision: float, shares: ArrayLike
) -> tuple[NDArray[np.bool_], Floats]:
    """Which levels pass, and with which permitted error each was tested.

    Args:
        right, answers: counts at or above each level.
        shares: as :func:`starting_shares` gave them, for these counts or for those planned.

    Returns:
        Both in the shape of ``answers``. At a level that passes, the exact lower bound at one minus
        its error reaches the precision.
    """
    own, unlikely = np.asarray(shares, np.float64), p_value(right, answers, precision)
    passed, errors = np.zeros(unlikely.shape, bool), np.zeros(unlikely.shape)
    handed_on = np.zeros(unlikely.shape[:-1])
    for level in range(unlikely.shape[-1]):
        errors[..., level] = own[..., level] + handed_on
        passed[..., level] = (unlikely[..., level] <= errors[..., level]) & (errors[..., level] > 0)
        handed_on = np.where(passed[..., level], errors[..., level], 0.0)
    return passed, errors


def lowest_passed(passed: NDArray[np.bool_]) -> NDArray[np.int64]:
    """The index of the lowest level that passed; -1 where none did."""
    last = passed.shape[-1] - 1
    return np.where(passed.any(axis=-1), last - passed[..., ::-1].argmax(axis=-1), -1)
