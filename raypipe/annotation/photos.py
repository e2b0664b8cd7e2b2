"""The chosen listings, prepared, with their photos as local files."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from raypipe.annotation.client import AnnotationRequest
from raypipe.annotation.ledger import key_of
from raypipe.attributes.schema import AttributeSchema
from raypipe.catalog.listings import RefusedListing
from raypipe.catalog.prepared import prepare_batches
from raypipe.catalog.sources import Source
from raypipe.config import Config
from raypipe.schemas import LISTINGS


@dataclass
class PhotoStore:
    """Prepares each listing once, even if it is chosen again.

    Photos are kept in files, so that memory does not grow with the number of listings.
    """

    config: Config
    listings: Source
    schema: AttributeSchema
    directory: Path
    questions: dict[str, list[AnnotationRequest]] = field(default_factory=dict)
    refused: dict[str, RefusedListing] = field(default_factory=dict)

    def prepare(self, names: Iterable[str]) -> None:
        """Prepare new listings and make their questions; record why one is refused."""
        left = [name for name in names if name not in self.questions and name not in self.refused]
        tables = self.tables(left, self.config.annotation.image_size)
        for table in tables:
            for row in table.to_pylist():
                self.questions[row["listing_id"]] = self._questions(row)

    def tables(self, names: Iterable[str], image_size: int) -> Iterable[pa.Table]:
        """LISTINGS rows, without the refused listings."""
        wanted = frozenset(names)
        if not wanted:
            return
        catalog = self.config.catalog.model_copy(update={"image_size": image_size})
        rows = self.listings.rows(wanted)
        for batch in prepare_batches(self.listings, self.schema, catalog, rows):
            prepared = []
            for listing in batch:
                if isinstance(listing, RefusedListing):
                    self.refused[listing.listing_id] = listing
                else:
                    prepared.append(listing.to_row() | {"split": "pool"})
            yield pa.Table.from_pylist(prepared, schema=LISTINGS.schema)

    def _questions(self, row: Mapping[str, Any]) -> list[AnnotationRequest]:
        photos = []
        for number, image in enumerate(row["images"]):
            photos.append(self.directory / f"{len(self.questions)}-{number}.jpg")
            photos[-1].write_bytes(image)
        return [
            AnnotationRequest(
                key=key_of(self.config, query["prompt"], row["images"]),
                listing_id=row["listing_id"],
                vertical=row["vertical"],
                attribute=query["attribute"],
                prompt=query["prompt"],
                options=tuple(query["options"]),
                photos=tuple(photos),
            )
            for query in row["queries"]
        ]
