"""Vital signs of a policy: how varied its answers are, which values it leans on, how sure it is.

Taken of the anchor split alone. Whether a change of them is a collapse is judged by the rounds.

An attribute has few anchor queries (eight of them are usual), so nothing here looks at an
attribute's entropy by itself, which so few answers would underestimate. It is set against the
entropy of the verified values of the same queries, which is underestimated alike.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from math import fsum, log, sqrt
from typing import Any

_Z95 = 1.96


@dataclass(frozen=True)
class Examined:
    """A verified anchor query. ``answer`` is greedy, and None without one; ``confidence`` (C, 0-1)
    is None where no vote was taken."""

    listing_id: str
    vertical: str
    attribute: str
    truth: str
    answer: str | None
    confidence: float | None = None


@dataclass(frozen=True)
class Lean:
    """A value that is answered more often than it is true.

    ``attribute`` reads "vertical/attribute", or "attribute" for that of all verticals that have it,
    where they are several. Shares (0-1) are of the ``queries`` of it that have an answer.
    """

    attribute: str
    value: str
    share: float
    truth_share: float
    queries: int

    def exceeds(self, share: float) -> bool:
        """Whether chance does not explain how far the answers' share is above another one of as
        many queries: their 95 % Wilson intervals do not meet.

        Stricter than either interval, since every value of every attribute is looked at.
        """
        return _wilson(self.share, self.queries)[0] > _wilson(share, self.queries)[1]


@dataclass(frozen=True)
class Signs:
    """The vital signs of one policy.

    Args:
        queries: verified anchor queries.
        entropy: of the answers, over that of the verified values of the same queries, both within
            each vertical and attribute. 1 is as varied as the truth, 0 one value for each
            attribute; None where the verified values do not vary.
        entropy_error: its standard error over listings.
        leans: the values that are answered more often than they are true, the furthest first.
        confidence: mean C; None where no vote was taken.
        unanimity: share (0-1) of the queries whose chains, all of them, gave one answer.
    """

    queries: int
    entropy: float | None = None
    entropy_error: float | None = None
    leans: tuple[Lean, ...] = ()
    confidence: float | None = None
    unanimity: float | None = None

    @property
    def dominance(self) -> Lean | None:
        """The furthest lean that is clear of chance."""
        return next((lean for lean in self.leans if lean.exceeds(lean.truth_share)), None)

    def to_json(self) -> dict[str, Any]:
        """As plain values, with the dominance (null without one) beside the leans::

        {"queries", "entropy", "entropy_error", "confidence", "unanimity",
         "leans": [{"attribute", "value", "share", "truth_share", "queries"}],
         "dominance": one of these}
        """
        return asdict(self) | {"dominance": asdict(self.dominance) if self.dominance else None}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "Signs":
        fields = {name: value for name, value in values.items() if name != "dominance"}
        return cls(**fields | {"leans": tuple(Lean(**lean) for lean in values["leans"])})


def vital_signs(queries: Sequence[Examined]) -> Signs | None:
    """The signs of a policy, whatever the order of queries; None without queries."""
    if not queries:
        return None
    answered = [query for query in queries if query.answer is not None]
    entropy, error = _entropy(answered)
    sure = [query.confidence for query in queries if query.confidence is not None]
    return Signs(
        queries=len(queries),
        entropy=entropy,
        entropy_error=error,
        leans=_leans(answered),
        confidence=fsum(sure) / len(sure) if sure else None,
        unanimity=sum(confidence == 1 for confidence in sure) / len(sure) if sure else None,
    )


def _entropy(answered: Sequence[Examined]) -> tuple[float | None, float | None]:
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
    """Of each value, −log of how often its attribute has it, in nats."""
    said = list(zip(attributes, values, strict=True))
    sizes, counts = Counter(attributes), Counter(said)
    return [log(sizes[attribute] / counts[attribute, value]) for attribute, value in said]


def _leans(answered: Sequence[Examined]) -> tuple[Lean, ...]:
    sizes: Counter[str] = Counter()
    given: Counter[tuple[str, str | None]] = Counter()
    true: Counter[tuple[str, str | None]] = Counter()
    homes = Counter(attribute for _, attribute in {(q.vertical, q.attribute) for q in answered})
    for query in answered:
        groups = [f"{query.vertical}/{query.attribute}"]
        if homes[query.attribute] > 1:
            groups.append(query.attribute)
        sizes.update(groups)
        given.update((group, query.answer) for group in groups)
        true.update((group, query.truth) for group in groups)
    found = []
    for (group, value), count in given.items():
        size, right = sizes[group], true[group, value]
        if value is not None and count > right:
            found.append(Lean(group, value, count / size, right / size, size))
    found.sort(key=lambda lean: (lean.truth_share - lean.share, lean.attribute, lean.value))
    return tuple(found)


def _wilson(share: float, trials: int) -> tuple[float, float]:
    square = _Z95**2 / trials
    center = (share + square / 2) / (1 + square)
    half = _Z95 * sqrt(share * (1 - share) / trials + square / (4 * trials)) / (1 + square)
    return center - half, center + half
