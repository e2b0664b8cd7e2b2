"""A test of what would be published that may stop after any answer, and what it should cost.

Answers to labels drawn one by one from all that would be published are independent, however alike
those of a listing are. After each, the evidence for the request and against it is taken
(``sequential.py``), and the audit ends with the first that suffices.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from raypipe.trust.certificate import (
    CERTIFIED,
    NOT_SHOWN,
    REFUTED,
    CertificateOutcome,
    PrecisionRequest,
)
from raypipe.trust.sequential import (
    Prior,
    anytime_lower_bound,
    anytime_upper_bound,
    log_evidence_above,
    log_evidence_below,
)

PRIOR_ANSWERS = 100.0
"""How firmly evidence is looked for around the assumed rate, and as far below the request."""
_UNDECIDED = 0.01
_SHORTEST, _LONGEST = 64, 16_384


@dataclass(frozen=True)
class AuditStatus:
    """An audit after some answers.

    ``outcome`` is None while it needs more. ``lower`` and ``upper`` bound the precision, each at
    the assurance and after every answer at once.
    """

    outcome: CertificateOutcome | None
    answers: int
    wrong: int
    lower: float
    upper: float


@dataclass(frozen=True)
class AuditPlan:
    """What an audit looks for, fixed before its first answer.

    Args:
        request: what is to be shown.
        rate: the share of right answers that is assumed, above the request's precision. Another
            true share costs answers, never validity.
        limit: answers after which the audit ends with nothing shown.
    """

    request: PrecisionRequest
    rate: float
    limit: int

    @classmethod
    def to_decide(cls, request: PrecisionRequest, rate: float) -> "AuditPlan":
        """With a limit that one audit in a hundred reaches where the rate is as assumed."""
        limit = _SHORTEST
        while limit < _LONGEST and cls(request, rate, limit)._undecided()[-1] > _UNDECIDED:
            limit *= 2
        undecided = cls(request, rate, limit)._undecided()
        enough = np.flatnonzero(undecided <= _UNDECIDED)
        return cls(request, rate, int(enough[0]) if len(enough) else limit)

    def expected_answers(self, rate: float | None = None) -> float:
        """The mean number of answers, exactly, where so many are right: by default as assumed."""
        return float(self._undecided(rate)[: self.limit].sum())

    def end(self, answers: Iterable[bool]) -> tuple[CertificateOutcome | None, int]:
        """How the audit ended, and after how many answers; None and all of them if it goes on.

        Args:
            answers: whether each is right, in the order in which they came.
        """
        right = np.fromiter(answers, bool)[: self.limit]
        ordered = np.arange(1, len(right) + 1)
        wrong = ordered - right.cumsum()
        certified = wrong <= self._boundaries[0][ordered]
        ends = np.flatnonzero(certified | (wrong >= self._boundaries[1][ordered]))
        if len(ends):
            return CERTIFIED if certified[ends[0]] else REFUTED, int(ends[0]) + 1
        return NOT_SHOWN if len(right) == self.limit else None, len(right)

    def status(self, answers: Sequence[bool]) -> AuditStatus:
        """The audit after some answers; those after its end do not count."""
        outcome, count = self.end(answers)
        right = sum(answers[:count])
        assurance = self.request.assurance
        return AuditStatus(
            outcome,
            count,
            count - right,
            anytime_lower_bound(right, count, assurance, self._above),
            anytime_upper_bound(right, count, assurance, self._below),
        )

    @property
    def _above(self) -> Prior:
        return Prior.around(self.rate, PRIOR_ANSWERS)

    @property
    def _below(self) -> Prior:
        return Prior.around(max(0.0, 2 * self.request.precision - self.rate), PRIOR_ANSWERS)

    @cached_property
    def _boundaries(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """By number of answers from 0 to the limit: the most wrong ones that certify (-1 for none),
        and the fewest that refute. Evidence is monotone in them, so they are found by bisection."""
        answers = np.arange(self.limit + 1)
        needed = -np.log1p(-self.request.assurance)
        precision = self.request.precision
        certify, refute = np.full(len(answers), -1), answers + 1
        for step in 2 ** np.arange(int(self.limit).bit_length(), -1, -1):
            more = np.minimum(certify + step, answers)
            shown = log_evidence_above(answers - more, answers, precision, self._above) >= needed
            certify = np.where(shown, more, certify)
            fewer = np.maximum(refute - step, 0)
            shown = log_evidence_below(answers - fewer, answers, precision, self._below) >= needed
            refute = np.where(shown, fewer, refute)
        return certify, refute

    def _undecided(self, rate: float | None = None) -> NDArray[np.float64]:
        """The probability that an audit goes on after 0, 1, … answers."""
        right = self.rate if rate is None else rate
        certify, refute = self._boundaries
        going_on = np.zeros(int(refute[-1]) + 2)
        going_on[0] = 1.0
        wrong = np.arange(len(going_on))
        left = [1.0]
        for count in range(1, self.limit + 1):
            going_on[1:] = right * going_on[1:] + (1 - right) * going_on[:-1]
            going_on[0] *= right
            going_on[(wrong <= certify[count]) | (wrong >= refute[count])] = 0.0
            left.append(float(going_on.sum()))
        return np.array(left)
