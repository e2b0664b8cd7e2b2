"""Metrics of collapse: how varied a policy's answers are, which values it gives too often, and how
sure it is.

Measured on the anchor split alone. ``rounds/alarm.py`` decides whether a change is a collapse.

An attribute has few anchor queries (usually eight), and so few answers underestimate its entropy.
It is therefore divided by the entropy of the verified values of the same queries, which is
underestimated alike.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from math import fsum, log, sqrt

from raypipe.summaries import CollapseMetrics, OverpredictedValue


@dataclass(frozen=True)
class AnchorAnswer:
    """A verified anchor query. ``answer`` is greedy, and None without one; ``confidence`` (C, 0-1)
    is None where no vote was taken."""

    listing_id: str
    vertical: str
    attribute: str
    truth: str
    answer: str | None
    confidence: float | None = None


def collapse_metrics(queries: Sequence[AnchorAnswer]) -> CollapseMetrics | None:
    """The metrics of a policy, whatever the order of queries; None without queries."""
    if not queries:
        return None
    answered = [query for query in queries if query.answer is not None]
    entropy, error = _entropy(answered)
    sure = [query.confidence for query in queries if query.confidence is not None]
    return CollapseMetrics(
        queries=len(queries),
        entropy=entropy,
        entropy_error=error,
        overpredicted=_overpredicted(answered),
        confidence=fsum(sure) / len(sure) if sure else None,
        unanimity=sum(confidence == 1 for confidence in sure) / len(sure) if sure else None,
    )


def _entropy(answered: Sequence[AnchorAnswer]) -> tuple[float | None, float | None]:
    """Mean surprisal of answers over that of truths, and the error of such a ratio of means.

    Entropies of attributes, weighted by their queries, are the mean surprisal of the queries.
    Queries of a listing are alike, so that the error is one over listings.
    """
    attributes = [f"{query.vertical}/{query.attribute}" for query in answered]
    given = _surprisals(attributes, [query.answer for query in answered])
    true = _surprisals(attributes, [query.truth for query in answered])
    whole = fsum(true)
    listings = {query.listing_id for query in answered}
    if whole == 0 or len(listings) < 2:
        return None, None
    ratio = fsum(given) / whole
    residuals: dict[str, list[float]] = {listing_id: [] for listing_id in listings}
    for query, surprise, expected in zip(answered, given, true, strict=True):
        residuals[query.listing_id].append(surprise - ratio * expected)
    squares = fsum(fsum(own) ** 2 for own in residuals.values())
    return ratio, sqrt(squares * len(listings) / (len(listings) - 1)) / whole


def _surprisals(attributes: Sequence[str], values: Sequence[str | None]) -> list[float]:
    """Of each value, minus the log of its share of its attribute's values, in nats."""
    pairs = list(zip(attributes, values, strict=True))
    sizes, counts = Counter(attributes), Counter(pairs)
    return [log(sizes[attribute] / counts[attribute, value]) for attribute, value in pairs]


def _overpredicted(answered: Sequence[AnchorAnswer]) -> tuple[OverpredictedValue, ...]:
    sizes: Counter[str] = Counter()
    given: Counter[tuple[str, str | None]] = Counter()
    true: Counter[tuple[str, str | None]] = Counter()
    verticals = Counter(attribute for _, attribute in {(q.vertical, q.attribute) for q in answered})
    for query in answered:
        groups = [f"{query.vertical}/{query.attribute}"]
        if verticals[query.attribute] > 1:
            groups.append(query.attribute)
        sizes.update(groups)
        given.update((group, query.answer) for group in groups)
        true.update((group, query.truth) for group in groups)
    found = []
    for (group, value), count in given.items():
        size, right = sizes[group], true[group, value]
        if value is not None and count > right:
            found.append(
                OverpredictedValue(
                    attribute=group,
                    value=value,
                    share=count / size,
                    truth_share=right / size,
                    queries=size,
                )
            )
    found.sort(key=lambda over: (over.truth_share - over.share, over.attribute, over.value))
    return tuple(found)
