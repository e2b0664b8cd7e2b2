"""Accuracy over queries and how far to trust it (paper §2: 7,145 queries of 3,175 listings).

Queries of one listing share its images and are right or wrong together, so every interval comes
from a bootstrap that draws listings, not queries. Nothing here depends on the order of queries.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from raypipe.summaries import Group, Interval

QueryId = tuple[str, str]
_LEVEL = 0.95
# Listings sampled at once, over resamples: the memory of the bootstrap (8 bytes each).
_MAX_SAMPLES = 4_000_000


@dataclass(frozen=True)
class Estimate:
    """A mean over queries with its 95 % interval."""

    value: float
    low: float
    high: float

    @property
    def ci95(self) -> Interval:
        return self.low, self.high


def estimate(values: ArrayLike, listings: Sequence[str], num_resamples: int, seed: int) -> Estimate:
    """The mean of a figure per query, with a percentile bootstrap interval over listings.

    Args:
        values: one number per query: 1 or 0 for right or wrong, or a difference of two such.
        listings: the listing_id of each query; the listings are what is drawn.
        num_resamples: bootstrap resamples.
        seed: of the draw.

    Raises:
        ValueError: no queries.
    """
    figures = np.asarray(values, dtype=np.float64)
    if not len(figures):
        raise ValueError("no queries to estimate a mean from")
    _, listing_index = np.unique(np.asarray(listings), return_inverse=True)
    sums = np.bincount(listing_index, weights=figures).astype(np.float64)
    sizes = np.bincount(listing_index)
    means = _resampled_means(sums, sizes, num_resamples, seed)
    low, high = np.quantile(means, [(1 - _LEVEL) / 2, (1 + _LEVEL) / 2])
    return Estimate(float(sums.sum() / sizes.sum()), float(low), float(high))


def paired_difference(
    before: Mapping[QueryId, bool], after: Mapping[QueryId, bool], num_resamples: int, seed: int
) -> Estimate:
    """How much more accurate one policy is than another on the same queries (1 = 100 points).

    Args:
        before, after: whether each (listing_id, attribute) was answered right.

    Raises:
        ValueError: the two did not answer the same queries.
    """
    if before.keys() != after.keys():
        odd = len(before.keys() ^ after.keys())
        raise ValueError(f"{odd} queries were answered by one of the two policies only")
    queries = sorted(before)
    gains = [int(after[query]) - int(before[query]) for query in queries]
    return estimate(gains, [listing_id for listing_id, _ in queries], num_resamples, seed)


def by_group(correct: ArrayLike, groups: Sequence[str]) -> dict[str, Group]:
    """Accuracy and number of queries of each group, such as a vertical, sorted by name."""
    names, index = np.unique(np.asarray(groups), return_inverse=True)
    right = np.bincount(index, weights=np.asarray(correct, dtype=np.float64))
    sizes = np.bincount(index)
    return {
        str(name): Group(accuracy=float(hits / size), queries=int(size))
        for name, hits, size in zip(names, right, sizes, strict=True)
    }


def macro(groups: Mapping[str, Group]) -> float:
    """The mean accuracy of groups as :func:`by_group` returns them, each counting the same."""
    return sum(group.accuracy for group in groups.values()) / len(groups)


def _resampled_means(
    sums: NDArray[np.float64], sizes: NDArray[np.intp], num_resamples: int, seed: int
) -> NDArray[np.float64]:
    generator = np.random.default_rng(seed)
    num_listings = len(sums)
    step = max(1, _MAX_SAMPLES // num_listings)
    means = np.empty(num_resamples)
    for start in range(0, num_resamples, step):
        num = min(step, num_resamples - start)
        sampled = generator.integers(num_listings, size=(num, num_listings))
        means[start : start + num] = sums[sampled].sum(axis=1) / sizes[sampled].sum(axis=1)
    return means
