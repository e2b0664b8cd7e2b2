"""Rows of the user's files become prepared listings, and refusals are counted."""

from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import Any

from raypipe.attributes.schema import AttributeSchema
from raypipe.catalog.listings import (
    PreparedListing,
    RefusedListing,
    image_names,
    prepare_listing,
)
from raypipe.catalog.sources import Source
from raypipe.config import CatalogConfig
from raypipe.errors import QuarantineLimitError
from raypipe.runtime.tasks import num_threads
from raypipe.store.quarantine import QuarantineReason

LISTINGS_PER_BATCH = 32


def prepare_batches(
    source: Source, schema: AttributeSchema, config: CatalogConfig, rows: Iterable[dict[str, Any]]
) -> Iterator[list[PreparedListing | RefusedListing]]:
    """Prepare rows, a batch at a time, in their order.

    The images that a batch names are fetched first, side by side; then threads decode them (Pillow
    releases the interpreter while it does).
    """
    from raypipe.catalog.fetch import open_reader

    with (
        open_reader(config, source) as reader,
        ThreadPoolExecutor(max_workers=num_threads()) as threads,
    ):
        prepare = partial(prepare_listing, schema=schema, config=config, read=reader.read)
        left = iter(rows)
        while batch := list(islice(left, LISTINGS_PER_BATCH)):
            reader.prefetch(image_names(batch, config.max_images))
            yield list(threads.map(prepare, batch))


@dataclass
class RefusalCounts:
    """How many listings were refused, by reason, and the first id of each reason with a detail."""

    reasons: Counter[str] = field(default_factory=Counter)
    examples: dict[str, tuple[str, str]] = field(default_factory=dict)

    @property
    def total(self) -> int:
        return self.reasons.total()

    def add(self, listing_id: str, reason: QuarantineReason | str, detail: str) -> None:
        self.update(RefusalCounts(Counter({str(reason): 1}), {str(reason): (listing_id, detail)}))

    def update(self, other: "RefusalCounts") -> None:
        """Add those of other listings."""
        self.reasons.update(other.reasons)
        for reason, example in other.examples.items():
            self.examples[reason] = min(example, self.examples.get(reason, example))

    def check(self, total: int, limit: float) -> None:
        """Raise QuarantineLimitError when more than ``limit`` (0-1) of ``total`` were refused."""
        if self.total <= limit * total:
            return
        common = self.reasons.most_common(3)
        name, detail = self.examples[common[0][0]]
        counted = ", ".join(f"{count} {reason}" for reason, count in common)
        raise QuarantineLimitError(
            f"prepare refused {self.total} of {total} listings ({self.total / total:.1%}), more "
            f"than catalog.max_quarantined={limit:.1%} allows: {counted} (such as "
            f"'{name[:128]}': {detail})"
        )
