"""The first pass: every wanted listing is prepared once, and what splitting needs is noted."""

import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import Any

from raypipe.attributes.schema import AttributeSchema
from raypipe.catalog.listings import RefusedListing, image_names, prepare_listing
from raypipe.catalog.sources import Source
from raypipe.catalog.spill import Spill
from raypipe.catalog.splits import Member, Role
from raypipe.config import CatalogConfig
from raypipe.errors import QuarantineLimitError

LISTINGS_PER_BATCH = 32


@dataclass
class PreparedCatalog:
    """Identities without images: the prepared listings as members of families, the vertical of
    each, the refused listings, and how many images were skipped for which reason."""

    members: list[Member] = field(default_factory=list)
    verticals: dict[str, str] = field(default_factory=dict)
    refused: list[RefusedListing] = field(default_factory=list)
    skipped: Counter[str] = field(default_factory=Counter)


def prepare_rows(
    source: Source,
    schema: AttributeSchema,
    roles: Mapping[str, Role],
    config: CatalogConfig,
    spill: Spill,
) -> PreparedCatalog:
    """Prepare every listing that has a role; its row goes to the spill, its identity is returned.

    The images that a batch names are fetched first, side by side; then threads decode them (Pillow
    releases the interpreter while it does).

    Raises:
        QuarantineLimitError: as soon as more listings were refused than the configured share.
    """
    from raypipe.catalog.fetch import open_reader

    prepared_catalog = PreparedCatalog()
    with (
        open_reader(config, source) as reader,
        ThreadPoolExecutor(max_workers=min(16, os.cpu_count() or 1)) as threads,
    ):
        prepare = partial(prepare_listing, schema=schema, config=config, read=reader.read)
        for batch in _batched(source.rows(roles), LISTINGS_PER_BATCH):
            reader.prefetch(image_names(batch, config.max_images))
            rows = []
            for listing in threads.map(prepare, batch):
                prepared_catalog.skipped.update(listing.skipped)
                if isinstance(listing, RefusedListing):
                    prepared_catalog.refused.append(listing)
                    continue
                rows.append(listing.to_row())
                name = listing.listing_id
                prepared_catalog.verticals[name] = listing.vertical
                member = Member(name, roles[name], listing.group_id, listing.image_hashes)
                prepared_catalog.members.append(member)
            spill.add(rows)
            check_quarantined_share(prepared_catalog.refused, len(roles), config.max_quarantined)
    return prepared_catalog


def check_quarantined_share(refused: Sequence[RefusedListing], total: int, limit: float) -> None:
    """Raise QuarantineLimitError when more than ``limit`` (0-1) of ``total`` were refused."""
    if len(refused) <= limit * total:
        return
    reasons = Counter(listing.reason for listing in refused).most_common(3)
    first = min(refused, key=lambda listing: (listing.reason != reasons[0][0], listing.listing_id))
    counted = ", ".join(f"{count} {reason}" for reason, count in reasons)
    raise QuarantineLimitError(
        f"prepare refused {len(refused)} of {total} listings ({len(refused) / total:.1%}), more "
        f"than catalog.max_quarantined={limit:.1%} allows: {counted} (such as "
        f"'{first.listing_id[:128]}': {first.detail})"
    )


def _batched(rows: Iterator[dict[str, Any]], size: int) -> Iterator[list[dict[str, Any]]]:
    while batch := list(islice(rows, size)):
        yield batch
