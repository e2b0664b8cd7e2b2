"""Parts of the pool: which unlabeled listings a round or an arm may learn from.

A listing's place between 0 and 1 is a hash of its id and the run's seed, so that a slice does not
depend on the order of listings, slices of other bounds are nested or disjoint as their bounds are,
and a listing stays in its slice when the pool grows.
"""

from dataclasses import dataclass

import pyarrow as pa

from raypipe import seeds

_PLACES = 1 << 63  # what seeds.derive draws from


@dataclass(frozen=True)
class Slice:
    """Listings whose place is in [``low``, ``high``) of [0, 1)."""

    low: float = 0.0
    high: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.low < self.high <= 1:
            raise ValueError(f"[{self.low}, {self.high}) is not a part of [0, 1)")

    @property
    def whole(self) -> bool:
        return (self.low, self.high) == (0.0, 1.0)

    def holds(self, listing_id: str, seed: int) -> bool:
        """Whether a listing of the pool is in it."""
        place = seeds.derive("pool slice", seed, listing_id) / _PLACES
        return self.low <= place < self.high

    def mask(self, listing_ids: pa.Array, seed: int) -> pa.Array:
        """:meth:`holds` for many listings."""
        held = [self.holds(listing, seed) for listing in listing_ids.to_pylist()]
        return pa.array(held, pa.bool_())


WHOLE = Slice()


def slice_of_round(round_index: int, num_slices: int) -> Slice:
    """The slice of a pool cut into ``num_slices`` that a round samples; they take turns."""
    place = (round_index - 1) % num_slices
    return Slice(place / num_slices, (place + 1) / num_slices)
