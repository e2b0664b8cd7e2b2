"""Which listings to annotate: random, disputed or diverse ones.

All three choose per vertical and keep earlier choices: a larger
``annotation.listings_per_vertical`` pays for the new listings only, a larger catalog for none.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
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


def at_random(candidates: ByVertical, seed: int) -> dict[str, list[str]]:
    """The ids of each vertical in the order of their hashes (paper, §2)."""

    def rank(listing_id: str) -> int:
        return derive(seed, "annotate", listing_id)

    return {vertical: sorted(ids, key=rank) for vertical, ids in candidates.items()}


def most_disputed(
    candidates: ByVertical, confidences: Mapping[str, Sequence[float]]
) -> dict[str, list[str]]:
    """The listings in the order of their queries' mean confidence, the most disputed first.

    Args:
        confidences: C (0-1) of each of a listing's queries; listings without one are left out.
    """

    def certainty(listing_id: str) -> tuple[float, str]:
        return float(np.mean(confidences[listing_id])), listing_id

    return {
        vertical: sorted((name for name in ids if name in confidences), key=certainty)
        for vertical, ids in candidates.items()
    }


def most_diverse(
    candidates: ByVertical, kept: Collection[str], embeddings: Mapping[str, np.ndarray]
) -> dict[str, list[str]]:
    """Farthest-first traversal (k-centre greedy), from the kept listings or the one nearest the
    mean.

    Args:
        embeddings: a vector of each listing, shape (dimension,); listings without one are left
            out.
    """
    ranked = {}
    for vertical, ids in candidates.items():
        known = [name for name in ids if name in embeddings]
        if known:
            points = np.stack([embeddings[name] for name in known])
            first = [index for index, name in enumerate(known) if name in kept]
            ranked[vertical] = [known[index] for index in _centres(points, first)]
    return ranked


def filled(ranked: ByVertical, kept: Mapping[str, str], count: int) -> dict[str, list[str]]:
    """All kept listings, filled up to ``count`` per vertical with the first of the others.

    Args:
        kept: the vertical of each listing that was chosen before.
    """
    chosen: dict[str, list[str]] = {vertical: [] for vertical in ranked}
    for listing_id in sorted(kept):
        chosen.setdefault(kept[listing_id], []).append(listing_id)
    for vertical, ids in ranked.items():
        others = [listing_id for listing_id in ids if listing_id not in kept]
        chosen[vertical] += others[: max(0, count - len(chosen[vertical]))]
    return dict(sorted(chosen.items()))


def interleaved(chosen: Mapping[str, Sequence[str]]) -> list[str]:
    """The first of every vertical, then the second, so that any prefix is balanced."""
    return list(_interleave(chosen.values()))


def _interleave(columns: Iterable[Sequence[str]]) -> Iterator[str]:
    for row in zip_longest(*columns):
        yield from (listing_id for listing_id in row if listing_id is not None)


def _centres(points: np.ndarray, first: Sequence[int]) -> list[int]:
    """Farthest-first order of all rows of ``points``, shape (listings, dimension), after
    ``first``."""
    chosen = list(first)
    if not chosen:
        chosen.append(int(np.linalg.norm(points - points.mean(axis=0), axis=1).argmin()))
    distance = np.full(len(points), np.inf)
    for index in chosen:
        distance = np.minimum(distance, np.linalg.norm(points - points[index], axis=1))
    while len(chosen) < len(points):
        distance[chosen] = -1.0
        chosen.append(int(distance.argmax()))
        distance = np.minimum(distance, np.linalg.norm(points - points[chosen[-1]], axis=1))
    return chosen
