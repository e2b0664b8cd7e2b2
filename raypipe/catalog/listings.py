"""One listing: from a row of the user's file to images and queries, or to a reason for refusal."""

import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from raypipe.attributes.schema import AttributeSchema
from raypipe.catalog.images import Picture, Refusal, squash
from raypipe.catalog.queries import Query, queries_of
from raypipe.config import CatalogConfig
from raypipe.security.identifiers import LISTING_ID, MAX_DETAIL, bounded
from raypipe.store.quarantine import (
    BAD_ID,
    BROKEN_IMAGE,
    DUPLICATE,
    NO_IMAGE,
    SERVER_ERROR,
    TOO_MANY_IMAGES,
    TOO_SLOW,
    UNKNOWN_VERTICAL,
    UNREACHABLE,
    QuarantineReason,
    quarantine_row,
)

ReadImage = Callable[[str], bytes | Refusal]
# What one listing may cost that names images without end, or such as come slowly or not at all.
MAX_LOOKED_AT = 100
MAX_LOST = 5
LISTING_S = 300.0
_LOST = (SERVER_ERROR, UNREACHABLE)


@dataclass(frozen=True)
class PreparedListing:
    """A listing that can be asked about. ``skipped`` counts images that were not used, by reason
    (the image's, or ``duplicate``)."""

    listing_id: str
    vertical: str
    group_id: str | None
    pictures: tuple[Picture, ...]
    queries: tuple[Query, ...]
    skipped: Mapping[str, int]

    @property
    def image_hashes(self) -> tuple[str, ...]:
        return tuple(picture.pixel_hash for picture in self.pictures)

    def to_row(self) -> dict[str, Any]:
        """The columns of the listings table, except the split."""
        return {
            "listing_id": self.listing_id,
            "vertical": self.vertical,
            "group_id": self.group_id,
            "images": [picture.encoded for picture in self.pictures],
            "image_hashes": list(self.image_hashes),
            "queries": [vars(query) for query in self.queries],
        }


@dataclass(frozen=True)
class RefusedListing:
    """A listing that cannot be used."""

    listing_id: str
    reason: QuarantineReason
    detail: str
    skipped: Mapping[str, int]


def quarantine_rows(refused: Iterable[RefusedListing]) -> list[dict[str, object]]:
    """Rows of the quarantine table."""
    return [
        quarantine_row(listing.listing_id, "prepare", listing.reason, listing.detail)
        for listing in refused
    ]


def image_names(rows: Iterable[Mapping[str, Any]], max_images: int) -> list[str]:
    """The paths and URIs that preparing these rows reads whatever they turn out to be."""
    shares = (islice(row["images"] or (), max_images) for row in rows)
    return [image for share in shares for image in share if isinstance(image, str)]


def prepare_listing(
    row: Mapping[str, Any],
    schema: AttributeSchema,
    config: CatalogConfig,
    read: ReadImage,
    clock: Callable[[], float] = time.monotonic,
) -> PreparedListing | RefusedListing:
    """Use the first decodable, distinct images of a row and ask every attribute of its vertical.

    Args:
        row: the columns of the user's listings file.
        schema: the attribute schema.
        config: how many images, of which size, the pixel limit, and what a broken image does.
        read: bytes of an image that the row names by path or URI.
        clock: seconds that go by.
    """
    listing_id, vertical = row["listing_id"], row["vertical"]
    if not LISTING_ID.fullmatch(listing_id):
        detail = f"an id has 1 to 128 characters and matches {LISTING_ID.pattern}"
        return RefusedListing(listing_id, BAD_ID, detail, {})
    if vertical not in schema.verticals:
        detail = f"'{vertical}' is not in the attribute schema"[:MAX_DETAIL]
        return RefusedListing(listing_id, UNKNOWN_VERTICAL, detail, {})
    pictures, refusals, repeated = _pictures(row["images"] or (), config, read, clock)
    skipped = Counter[str](refusal.reason for refusal in refusals)
    if refusals and config.broken_images == "refuse":
        detail = f"{refusals[0].reason}: {refusals[0].detail}"[:MAX_DETAIL]
        return RefusedListing(listing_id, BROKEN_IMAGE, detail, skipped)
    if not pictures:
        reasons = "; ".join(f"{refusal.reason}: {refusal.detail}" for refusal in refusals)
        detail = reasons[:MAX_DETAIL] or "it lists no images"
        return RefusedListing(listing_id, NO_IMAGE, detail, skipped)
    if repeated:
        skipped[DUPLICATE] = repeated
    return PreparedListing(
        listing_id=listing_id,
        vertical=vertical,
        group_id=row["group_id"] or None,
        pictures=pictures,
        queries=queries_of(schema.attributes(vertical), seller_values(row["seller_values"])),
        skipped=skipped,
    )


def _pictures(
    images: Sequence[bytes | str | None],
    config: CatalogConfig,
    read: ReadImage,
    clock: Callable[[], float],
) -> tuple[tuple[Picture, ...], list[Refusal], int]:
    """The images used, why others were not, and how many repeated an earlier one."""
    distinct: dict[str, Picture] = {}
    refusals: list[Refusal] = []
    repeated = 0
    end = clock() + LISTING_S
    for number, image in enumerate(images):
        if len(distinct) == config.max_images:
            break
        is_slow = clock() > end or sum(refusal.reason in _LOST for refusal in refusals) >= MAX_LOST
        if is_slow or number == MAX_LOOKED_AT:
            reason = TOO_SLOW if is_slow else TOO_MANY_IMAGES
            detail = f"of {len(images)} images {number} were looked at"
            refusals.append(Refusal(reason, detail))
            break
        content = read(image) if isinstance(image, str) else image or b""
        picture = (
            squash(content, config.image_size, config.max_image_pixels)
            if isinstance(content, bytes)
            else content
        )
        if isinstance(picture, Refusal):
            refusals.append(picture)
        elif picture.pixel_hash in distinct:
            repeated += 1
        else:
            distinct[picture.pixel_hash] = picture
    return tuple(distinct.values()), refusals, repeated


def seller_values(given: Iterable[Any] | None) -> dict[str, str]:
    """A list of (attribute, value) structs or the pairs of a map; the first value of each name.

    No schema allows a value that is longer than a name may be, and what stands for it says so.
    """
    values: dict[str, str] = {}
    for pair in filter(None, given or ()):
        name, text = (pair["attribute"], pair["value"]) if isinstance(pair, Mapping) else pair
        if name and text is not None:
            values.setdefault(bounded(name), bounded(text))
    return values
