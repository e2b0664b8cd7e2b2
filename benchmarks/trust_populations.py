"""Populations of known truth, and how often what is published of them misses the request.

A replay draws verified answers, asks a procedure what to publish, and compares the true precision
of that with the request. A cell is a population, a number of queries a listing (all of them right
or all wrong), and a number of verified queries.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from raypipe.evaluation.confidence import fit, threshold_for
from raypipe.trust.audit import AuditPlan
from raypipe.trust.bounds import Floats, lower_bound, p_value
from raypipe.trust.certificate import CERTIFIED, PrecisionRequest, certify
from raypipe.trust.levels import check_levels, lowest_passed, starting_shares
from raypipe.trust.listing_draws import VerifiedAnswer

ASSURANCE = 0.95
REQUESTS = (0.95, 0.90)
SIZES = (60, 120, 240, 388, 750, 1500)
CLUSTERS = (1, 5)
NUM_CHAINS = 7
CATALOG_QUERIES = 10_000
VERTICAL_SHIFTS = (-0.03, 0.0, 0.02)
"""Of the precision at every level, in three verticals of equal size."""

# Votes from seven down to two: queries with an answer of so many, and their accuracy; and queries
# without an answer. Anchor splits of two runs, docs/results.json (the second entry of "votes") and
# docs/results-all-arms.json (the first two).
_MEASURED: dict[str, tuple[tuple[int, ...], tuple[float, ...], int]] = {
    "claims, sft": ((29, 75, 82, 104, 59, 4), (0.985, 0.96, 0.902, 0.74, 0.593, 0.75), 35),
    "all arms, pretrained": (
        (33, 51, 68, 109, 74, 5),
        (0.939, 0.926, 0.926, 0.697, 0.568, 0.7),
        35,
    ),
    "arms, sft": ((41, 63, 72, 103, 59, 4), (0.951, 0.952, 0.861, 0.641, 0.525, 0.7), 33),
}
_VOTES = (7, 6, 5, 4, 3, 2)
_BELOW = 0.005


@dataclass(frozen=True)
class Population:
    """Queries by the votes of their answer, from the surest down.

    Args:
        shares: of all queries, by votes; the rest has no answer.
        accuracies: by votes.
        request: the precision that is asked for.
    """

    name: str
    votes: tuple[int, ...]
    shares: Floats
    accuracies: Floats
    request: float

    @property
    def precisions(self) -> Floats:
        """Of what is published from each level up."""
        return np.cumsum(self.shares * self.accuracies) / np.cumsum(self.shares)

    @property
    def coverages(self) -> Floats:
        return np.cumsum(self.shares)

    def violated(self, levels: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Whether publishing from these levels up misses the request; -1 publishes nothing."""
        return (levels >= 0) & (self.precisions[levels] < self.request - 1e-9)

    def covered(self, levels: NDArray[np.int64]) -> Floats:
        return np.where(levels >= 0, self.coverages[levels], 0.0)

    def shifted(self, shift: float) -> "Population":
        accuracies = np.clip(self.accuracies + shift, 0.01, 0.995)
        return replace(self, name=f"{self.name} {shift:+.2f}", accuracies=accuracies)


def populations() -> Iterator[Population]:
    for request in REQUESTS:
        for name, measured in _MEASURED.items():
            yield _population(name, *measured, request)
        counts, _, without = _MEASURED["claims, sft"]
        below = (request - _BELOW,) * len(_VOTES)
        yield _population("every level 0.5 points below", counts, below, without, request)
        counts = (80, *counts[1:])
        surest = (request + 0.03, request - 0.05, 0.8, 0.7, 0.6, 0.7)
        yield _population("the surest level alone", counts, surest, without, request)


def _population(
    name: str,
    counts: tuple[int, ...],
    accuracies: tuple[float, ...],
    without: int,
    request: float,
) -> Population:
    shares = np.array(counts, float) / (sum(counts) + without)
    return Population(name, _VOTES, shares, np.array(accuracies), request)


@dataclass(frozen=True)
class Replays:
    """Verified answers of many replays: ``answers`` and ``right`` by replay and level, one of each
    listing. The other ``cluster - 1`` queries of a listing are at its level, and right or wrong as
    it is."""

    population: Population
    cluster: int
    answers: NDArray[np.int64]
    right: NDArray[np.int64]

    @classmethod
    def draw(
        cls,
        population: Population,
        cluster: int,
        queries: int,
        replays: int,
        draws: np.random.Generator,
    ) -> "Replays":
        shares = np.append(population.shares, max(0.0, 1 - population.shares.sum()))
        listings = queries // cluster
        answers = draws.multinomial(listings, shares, replays)[:, :-1]
        return cls(population, cluster, answers, draws.binomial(answers, population.accuracies))


Procedure = Callable[[Replays], NDArray[np.int64]]


def certificate(replays: Replays) -> NDArray[np.int64]:
    """The lowest level that raypipe certifies, by replay; -1 for none."""
    answers, right = replays.answers.cumsum(axis=1), replays.right.cumsum(axis=1)
    request = replays.population.request
    shares = starting_shares(answers, request, ASSURANCE)
    return lowest_passed(check_levels(right, answers, request, shares)[0])


def check_certify(replays: Replays, levels: NDArray[np.int64], count: int) -> None:
    """That :func:`certify`, given the queries of the first replays as rows, publishes the same."""
    votes = replays.population.votes
    for number in range(count):
        counts = zip(votes, replays.answers[number], replays.right[number], strict=True)
        rows = [
            VerifiedAnswer(f"{each} {listing}", "", f"{query}", each / NUM_CHAINS, listing < right)
            for each, answers, right in counts
            for listing in range(answers)
            for query in range(replays.cluster)
        ]
        found = certify(
            rows,
            PrecisionRequest(replays.population.request, ASSURANCE),
            [each / NUM_CHAINS for each in votes],
            scope="catalog",
            seed=number,
        )
        published = [each.threshold for each in found.values() if each.outcome == CERTIFIED]
        expected = [
            votes[level] / NUM_CHAINS for level in levels[number : number + 1] if level >= 0
        ]
        assert published == expected, (published, expected)


def bonferroni(replays: Replays) -> NDArray[np.int64]:
    """Clopper and Pearson's bound at every level, with the error divided by their number."""
    answers, right = replays.answers.cumsum(axis=1), replays.right.cumsum(axis=1)
    error = (1 - ASSURANCE) / answers.shape[1]
    request = replays.population.request
    passed = p_value(right, answers, request) <= error
    shown = passed[:50] & (answers[:50] > 0)
    bounds = lower_bound(right[:50], answers[:50], 1 - error)
    assert ((bounds >= request - 1e-9) | ~shown).all()
    return lowest_passed(passed)


def point_estimate(replays: Replays) -> NDArray[np.int64]:
    """What ``threshold_for`` publishes on all verified queries, those of one listing included."""
    votes = np.array(replays.population.votes) / NUM_CHAINS
    levels = np.full(len(replays.answers), -1)
    for number, (answers, right) in enumerate(zip(replays.answers, replays.right, strict=True)):
        confidences = np.repeat(votes, answers * replays.cluster)
        outcomes = np.repeat(
            np.tile([True, False], len(votes)),
            np.stack([right, answers - right], axis=1).ravel() * replays.cluster,
        )
        calibration = fit(confidences, outcomes)
        probabilities = calibration.probabilities(confidences)
        threshold = threshold_for(replays.population.request, probabilities, outcomes)
        if threshold is not None:
            published = calibration.probabilities(votes) >= threshold
            levels[number] = int(np.flatnonzero(published).max())
    return levels


def audits(
    population: Population,
    level: int,
    cluster: int,
    limit: int,
    replays: int,
    draws: np.random.Generator,
) -> int:
    """How many audits of what a level publishes certify it, looking after every answer.

    The catalog has 10,000 published queries, of which the audit draws up to ``limit`` one by one.
    """
    request = population.request
    plan = AuditPlan(PrecisionRequest(request, ASSURANCE), request + 0.6 * (1 - request), limit)
    listings = CATALOG_QUERIES // cluster
    right = np.zeros(listings, bool)
    right[: int(population.precisions[level] * listings)] = True
    certified = 0
    for _ in range(replays):
        drawn = draws.choice(CATALOG_QUERIES, limit, replace=False) // cluster
        certified += plan.end(right[drawn])[0] == CERTIFIED
    return certified
