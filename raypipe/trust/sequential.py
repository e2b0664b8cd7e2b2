"""Evidence that may be looked at after every answer.

For each possible share ``p`` the likelihood ratio of the answers under ``p`` and under the request
is a martingale where the request is the truth. Its mean over a Beta distribution of ``p``, cut off
at the request, is one as well, and a supermartingale where the truth lies on the other side. By
Ville's inequality it ever exceeds ``1 / (1 - assurance)`` with probability ``1 - assurance`` at
most (Robbins 1970; Howard et al. 2021, "beta-binomial mixture"). It has a closed form.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy import special, stats

from raypipe.trust.bounds import Floats

_STEPS = 30


@dataclass(frozen=True)
class Prior:
    """A Beta distribution: where the evidence is looked for. It costs answers, never validity."""

    right: float
    wrong: float

    @classmethod
    def around(cls, rate: float, answers: float) -> "Prior":
        """As after so many answers at the rate, and half an answer of either kind."""
        return cls(rate * answers + 0.5, (1 - rate) * answers + 0.5)


UNIFORM = Prior(1.0, 1.0)


def log_evidence_above(
    right: ArrayLike, answers: ArrayLike, precision: ArrayLike, prior: Prior = UNIFORM
) -> Floats:
    """The logarithm of the evidence that more than ``precision`` of the answers are right."""
    return _log_evidence(right, answers, precision, prior, stats.beta.logsf)


def log_evidence_below(
    right: ArrayLike, answers: ArrayLike, precision: ArrayLike, prior: Prior = UNIFORM
) -> Floats:
    """The logarithm of the evidence that less than ``precision`` of the answers are right."""
    return _log_evidence(right, answers, precision, prior, stats.beta.logcdf)


def anytime_lower_bound(
    right: int, answers: int, confidence: float, prior: Prior = UNIFORM
) -> float:
    """A lower bound that holds after every answer at once, at the confidence."""
    low, high = 0.0, right / answers if answers else 0.0
    for _ in range(_STEPS if high else 0):
        middle = (low + high) / 2
        shown = log_evidence_above(right, answers, middle, prior) >= -np.log1p(-confidence)
        low, high = (middle, high) if shown else (low, middle)
    return low


def anytime_upper_bound(
    right: int, answers: int, confidence: float, prior: Prior = UNIFORM
) -> float:
    """An upper bound that holds after every answer at once, at the confidence."""
    mirrored = Prior(prior.wrong, prior.right)
    return 1.0 - anytime_lower_bound(answers - right, answers, confidence, mirrored)


def _log_evidence(
    right: ArrayLike,
    answers: ArrayLike,
    precision: ArrayLike,
    prior: Prior,
    log_mass: Callable[..., Any],
) -> Floats:
    hits, share = np.asarray(right, np.float64), np.asarray(precision, np.float64)
    misses = np.asarray(answers, np.float64) - hits
    seen = (hits + prior.right, misses + prior.wrong)
    mixture = special.betaln(*seen) + log_mass(share, *seen)
    mixture -= special.betaln(prior.right, prior.wrong)
    mixture -= log_mass(share, prior.right, prior.wrong)
    null = special.xlogy(hits, share) + special.xlog1py(misses, -share)
    return np.asarray(mixture - null, np.float64)
