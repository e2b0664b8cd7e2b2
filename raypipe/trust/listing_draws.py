"""Verified answers, and independent ones among them.

The queries of a listing are right or wrong together. One of them, drawn by the listing's name, is
independent of every other listing's.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from raypipe.seeds import derive

_SEEDS = 2**63


@dataclass(frozen=True)
class VerifiedAnswer:
    """A query whose right answer is known.

    ``signal`` is how sure the answer is, 0 where the query has none; then ``right`` is False.
    """

    listing_id: str
    vertical: str
    attribute: str
    signal: float
    right: bool


def one_per_listing(
    answers: Iterable[VerifiedAnswer], seed: int, weights: Mapping[str, float] | None = None
) -> list[VerifiedAnswer]:
    """At most one answer of each listing; each query is as likely to be there as any other.

    A listing with fewer queries than the largest is left out with the probability that makes up for
    it, as is one of a vertical that has more than its share. A listing's draw depends on no other.

    Args:
        answers: of a sample of listings, all queries that are verified, also those without answer.
        weights: per vertical, its share of the catalog over its share of the answers; 1 by default.
    """
    listings: dict[str, list[VerifiedAnswer]] = defaultdict(list)
    for answer in answers:
        listings[answer.listing_id].append(answer)
    factors = weights or {}
    weight = {
        name: len(queries) * factors.get(queries[0].vertical, 1.0)
        for name, queries in listings.items()
    }
    most = max(weight.values(), default=1.0)
    return [
        min(queries, key=lambda query: derive(seed, "draw", query.listing_id, query.attribute))
        for name, queries in listings.items()
        if derive(seed, "keep", name) < weight[name] / most * _SEEDS
    ]


def vertical_weights(
    catalog: Mapping[str, int], answers: Iterable[VerifiedAnswer]
) -> dict[str, float]:
    """The share of each vertical among a catalog's queries over its share among the answers.

    A vertical without a verified answer has none: nothing can stand for it.
    """
    counts: dict[str, int] = defaultdict(int)
    for answer in answers:
        counts[answer.vertical] += 1
    queries = sum(catalog.get(vertical, 0) for vertical in counts)
    if not queries:
        return {}
    verified = sum(counts.values())
    return {
        vertical: (catalog.get(vertical, 0) / queries) / (count / verified)
        for vertical, count in counts.items()
    }


def halves(
    answers: Sequence[VerifiedAnswer], seed: int, share: float = 0.5
) -> tuple[list[VerifiedAnswer], list[VerifiedAnswer]]:
    """Answers to choose a signal or a mode by, and those to certify with, listing by listing."""
    parts: tuple[list[VerifiedAnswer], list[VerifiedAnswer]] = ([], [])
    for answer in answers:
        chooses = derive(seed, "half", answer.listing_id) < share * _SEEDS
        parts[0 if chooses else 1].append(answer)
    return parts
