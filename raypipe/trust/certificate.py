"""What is shown about the labels that would be published: certified, not shown, or refuted."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from raypipe.errors import Reason
from raypipe.trust.bounds import (
    answers_needed,
    answers_needed_at_rate,
    lower_bound,
    upper_bound,
)
from raypipe.trust.levels import at_or_above, check_levels, starting_shares
from raypipe.trust.listing_draws import VerifiedAnswer, one_per_listing

CertificateScope = Literal["catalog", "vertical", "attribute"]
CATALOG = "catalog"


class CertificateOutcome(Reason):
    """What verified answers show about a request."""


CERTIFIED = CertificateOutcome("certified", "the request is met, with the assurance asked for")
NOT_SHOWN = CertificateOutcome("not_shown", "there are too few verified answers to show it")
REFUTED = CertificateOutcome("refuted", "at every level, what is published is below the request")


@dataclass(frozen=True)
class PrecisionRequest:
    """Of what is published at least ``precision`` is right, with the confidence ``assurance``."""

    precision: float
    assurance: float


@dataclass(frozen=True)
class LevelPlan:
    """What is fixed before answers are read: the levels, and the error each may start with.

    A plan that is kept while answers come makes certificates that more evidence never weakens.
    """

    levels: tuple[float, ...]
    shares: tuple[float, ...]


@dataclass(frozen=True)
class LevelTest:
    """Independent answers at or above a level, and how their test came out.

    ``error`` is the chance that it was allowed of passing below the request.
    """

    threshold: float | None
    answers: int
    right: int
    error: float
    passed: bool


@dataclass(frozen=True)
class Certificate:
    """What is shown in one scope: "catalog", a vertical, or "vertical/attribute".

    Args:
        threshold: the lowest signal that is published. Where nothing is certified, that of the
            level nearest to it, and None without any level.
        answers, wrong: independent verified answers at or above the threshold.
        bound: of their precision at ``confidence``: the upper one where it is refuted, else the
            lower one.
        missing: further answers, drawn from what the threshold would publish, until the request is
            shown, if none of them is wrong; 0 where it is certified.
        missing_at_rate: the same if answers are wrong as often as so far; None where that would
            never show it.
    """

    scope: str
    outcome: CertificateOutcome
    threshold: float | None
    answers: int
    wrong: int
    bound: float
    confidence: float
    missing: int
    missing_at_rate: int | None
    plan: LevelPlan


def plan_levels(
    answers: Sequence[VerifiedAnswer], levels: Sequence[float], request: PrecisionRequest
) -> LevelPlan:
    """The plan for so many answers at each level; whether they are right does not matter.

    Args:
        answers: independent ones, or as many with the same signals as are planned.
        levels: from the surest down, as :func:`~raypipe.trust.levels.signal_levels` gives them.
    """
    counts = at_or_above([answer.signal for answer in answers], levels).sum(axis=1)
    shares = starting_shares(counts, request.precision, request.assurance)
    return LevelPlan(tuple(map(float, levels)), tuple(map(float, shares)))


def certify_scope(
    scope: str,
    answers: Sequence[VerifiedAnswer],
    request: PrecisionRequest,
    plan: LevelPlan,
) -> Certificate:
    """The certificate of independent answers.

    Args:
        answers: of different listings, or drawn one by one from all queries.
    """
    tests = _tests(answers, request, plan)
    passed = [test for test in tests if test.passed]
    if passed:
        return _certificate(scope, CERTIFIED, passed[-1], plan)
    if not tests:
        fewest = answers_needed(request.precision, request.assurance)
        nothing = LevelTest(None, 0, 0, 1 - request.assurance, False)
        nearest = _certificate(scope, NOT_SHOWN, nothing, plan)
        return replace(nearest, missing=fewest, missing_at_rate=fewest)
    ceiling = max(
        float(upper_bound(test.right, test.answers, request.assurance)) if test.answers else 0.0
        for test in tests
    )
    nearest = _nearest(scope, tests, request.precision, plan)
    if not tests[-1].answers or ceiling >= request.precision:
        return nearest
    return replace(nearest, outcome=REFUTED, bound=ceiling, confidence=request.assurance)


def certify(
    answers: Iterable[VerifiedAnswer],
    request: PrecisionRequest,
    levels: Sequence[float],
    *,
    scope: CertificateScope,
    seed: int,
    weights: Mapping[str, float] | None = None,
    plans: Mapping[str, LevelPlan] | None = None,
) -> dict[str, Certificate]:
    """A certificate for each scope, each with the whole assurance for itself.

    Args:
        answers: of a sample of listings, with all verified queries of each.
        levels: from the surest down, fixed by the labels and never by the answers.
        scope: what one certificate is about: the whole catalog, each vertical, or each attribute of
            each vertical.
        seed: of the query drawn of each listing.
        weights: per vertical, where the catalog has other shares of them; for the whole catalog.
        plans: of scopes whose tests were fixed earlier.
    """
    parts: dict[str, list[VerifiedAnswer]] = {}
    for answer in answers:
        parts.setdefault(_scope_of(answer, scope), []).append(answer)
    made = {}
    for name, part in sorted(parts.items()):
        drawn = one_per_listing(part, seed, weights if scope == "catalog" else None)
        plan = (plans or {}).get(name) or plan_levels(drawn, levels, request)
        made[name] = certify_scope(name, drawn, request, plan)
    return made


def _tests(
    answers: Sequence[VerifiedAnswer], request: PrecisionRequest, plan: LevelPlan
) -> list[LevelTest]:
    """From the surest level down."""
    reached = at_or_above([answer.signal for answer in answers], plan.levels)
    counts = reached.sum(axis=1)
    right = (reached & np.array([answer.right for answer in answers], bool)).sum(axis=1)
    passed, errors = check_levels(right, counts, request.precision, plan.shares)
    spent = np.where(errors > 0, errors, 1 - request.assurance)
    columns = (column.tolist() for column in (counts, right, spent, passed))
    return [LevelTest(*test) for test in zip(plan.levels, *columns, strict=True)]


def _nearest(
    scope: str, tests: Sequence[LevelTest], precision: float, plan: LevelPlan
) -> Certificate:
    """Of the level with the fewest answers missing; of two, the one that publishes more."""
    found = []
    for place, test in enumerate(tests):
        needed = answers_needed_at_rate(precision, 1 - test.error, test.right, test.answers)
        if needed != test.answers:  # else a test above it has failed
            found.append((math.inf if needed is None else needed - test.answers, -place))
    missing, place = min(found)
    nearest = tests[-place]
    needed = answers_needed(precision, 1 - nearest.error, nearest.answers - nearest.right)
    return replace(
        _certificate(scope, NOT_SHOWN, nearest, plan),
        missing=needed - nearest.answers,
        missing_at_rate=None if math.isinf(missing) else int(missing),
    )


def _certificate(
    scope: str, outcome: CertificateOutcome, test: LevelTest, plan: LevelPlan
) -> Certificate:
    return Certificate(
        scope,
        outcome,
        threshold=test.threshold,
        answers=test.answers,
        wrong=test.answers - test.right,
        bound=float(lower_bound(test.right, test.answers, 1 - test.error)),
        confidence=1 - test.error,
        missing=0,
        missing_at_rate=0,
        plan=plan,
    )


def _scope_of(answer: VerifiedAnswer, scope: CertificateScope) -> str:
    if scope == "attribute":
        return f"{answer.vertical}/{answer.attribute}"
    return answer.vertical if scope == "vertical" else CATALOG
