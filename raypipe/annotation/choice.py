"""Which listings are worth their money: any, those that chains disagree on, or the most unlike.

All three choose per vertical, and more of a vertical only adds to fewer of it: raising
``annotation.listings_per_vertical`` pays for the new listings alone.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import zip_longest

import numpy as np

from raypipe.seeds import derive

ByVertical = Mapping[str, Sequence[str]]


def by_vertical(verticals: Mapping[str, str]) -> dict[str, list[str]]:
    """Listing ids of each vertical, both sorted.

    Args:
        verticals: the vertical of every listing.
    """
    grouped: defaultdict[str, list[str]] = defaultdict(list)
    for listing_id in sorted(verticals):
        grouped[verticals[listing_id]].append(listing_id)
    return dict(sorted(grouped.items()))


def at_random(candidates: ByVertical, count: int, seed: int) -> dict[str, list[str]]:
    """The ``count`` ids of each vertical with the smallest hashes, in that order (paper, §2)."""

    def rank(listing_id: str) -> int:
        return derive(seed, "annotate", listing_id)

    return {vertical: sorted(ids, key=rank)[:count] for vertical, ids in candidates.items()}


def most_disputed(
    candidates: ByVertical, count: int, confidences: Mapping[str, Sequence[float]]
) -> dict[str, list[str]]:
    """The listings whose queries' mean confidence is lowest, the most disputed first.

    Args:
        confidences: C (0-1) of each of a listing's queries; listings without one are left out.
    """

    def certainty(listing_id: str) -> tuple[float, str]:
        return float(np.mean(confidences[listing_id])), listing_id

    return {
        vertical: sorted((name for name in ids if name in confidences), key=certainty)[:count]
        for vertical, ids in candidates.items()
    }


def most_diverse(
    candidates: ByVertical, count: int, embeddings: Mapping[str, np.ndarray]
) -> dict[str, list[str]]:
    """Greedy k-centre: the listing nearest the mean, then ever the one farthest from all chosen.

    Args:
        embeddings: a vector of each listing, shape (dimension,); listings without one are left
            out.
    """
    chosen = {}
    for vertical, ids in candidates.items():
        known = [name for name in ids if name in embeddings]
        if known:
            points = np.stack([embeddings[name] for name in known])
            chosen[vertical] = [known[index] for index in _centres(points, count)]
    return chosen


def interleaved(chosen: Mapping[str, Sequence[str]]) -> list[str]:
    """The first of every vertical, then the second: what a limit cuts short is balanced."""
    return list(_interleave(chosen.values()))


def _interleave(columns: Iterable[Sequence[str]]) -> Iterator[str]:
    for row in zip_longest(*columns):
        yield from (listing_id for listing_id in row if listing_id is not None)


def _centres(points: np.ndarray, count: int) -> list[int]:
    """Indices of the chosen rows of ``points``, shape (listings, dimension)."""
    nearest = np.linalg.norm(points - points.mean(axis=0), axis=1)
    chosen = [int(nearest.argmin())]
    distance = np.linalg.norm(points - points[chosen[0]], axis=1)
    while len(chosen) < min(count, len(points)):
        chosen.append(int(distance.argmax()))
        distance[chosen] = -1.0
        gained = np.linalg.norm(points - points[chosen[-1]], axis=1)
        distance = np.where(distance < 0, distance, np.minimum(distance, gained))
    return chosen
