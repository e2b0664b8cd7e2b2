"""The rendered catalog, as the files that a user would bring.

A listing depends on the catalog's seed, its split and its number, and on nothing else: any number
of listings can be drawn in any order, and no listing is in two splits.
"""

import random
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from raypipe.embedded.captions import ANNOTATION, caption
from raypipe.embedded.drawing import CATALOG, encoded, photograph
from raypipe.embedded.look import Product
from raypipe.embedded.schema import SCHEMA_PATH, VIEWS, RenderedAttribute, attributes, verticals
from raypipe.schemas import SEED, TRUTH, Split
from raypipe.seeds import derive

# Part of the fingerprint of a prepared catalog: raise it when a rendering changes.
RENDERER_VERSION = "1"
ROW_GROUP_LISTINGS = 64
_PHOTO_COUNTS = {1: 0.05, 2: 0.2, 3: 0.3, 4: 0.25, 5: 0.2}
_SELLER_SILENT = 0.2
_SELLER_WRONG = 0.15

_PAIR = pa.struct([pa.field("attribute", pa.string()), pa.field("value", pa.string())])
LISTINGS_SCHEMA = pa.schema(
    [
        pa.field("listing_id", pa.string(), nullable=False),
        pa.field("vertical", pa.string(), nullable=False),
        pa.field("images", pa.list_(pa.binary()), nullable=False),
        pa.field("group_id", pa.string()),
        pa.field("seller_values", pa.list_(_PAIR)),
    ]
)
SPLITS_SCHEMA = pa.schema([("listing_id", pa.string()), ("split", pa.string())])


@dataclass(frozen=True)
class RenderedListing:
    """A product as it is sold: its photos' views, its true values and what the seller says."""

    listing_id: str
    product: Product
    views: tuple[str, ...]
    seller_values: dict[str, str]
    seed: int

    @property
    def entries(self) -> tuple[RenderedAttribute, ...]:
        return attributes()[self.product.vertical]

    def images(self) -> list[bytes]:
        """The photos as JPEG files, one for each view."""
        return [
            encoded(
                photograph(self.product, view, CATALOG, seed=derive("photo", self.seed, number))
            )
            for number, view in enumerate(self.views)
        ]

    def visible(self) -> dict[str, str]:
        """The true values that at least one photo can show: what a person could verify."""
        return {
            entry.name: self.product.values[entry.name]
            for entry in self.entries
            if set(entry.shown_in) & set(self.views)
        }

    def annotation(self) -> list[dict[str, str]]:
        """An API's answer for every attribute, with its reasoning and now and then a mistake."""
        lottery = random.Random(derive("annotation", self.seed))
        answers = []
        for entry in self.entries:
            value = self.product.values[entry.name]
            said = caption(entry, value, self.views, ANNOTATION, lottery)
            answers.append(
                {"attribute": entry.name, "reasoning": said.reasoning, "answer": said.answer}
            )
        return answers


def listing(seed: int, split: Split, index: int) -> RenderedListing:
    """Listing number ``index`` of a split; verticals take turns."""
    vertical = verticals()[index % len(verticals())]
    lottery = random.Random(derive("listing", seed, split, index))
    entries = attributes()[vertical]
    values = {entry.name: lottery.choice(entry.values) for entry in entries}
    count = lottery.choices(list(_PHOTO_COUNTS), list(_PHOTO_COUNTS.values()))[0]
    word = vertical.replace(" ", "-")
    return RenderedListing(
        listing_id=f"{word}-{split}-{index:07d}",
        product=Product(vertical, values, lottery.getrandbits(40)),
        views=tuple(lottery.sample(VIEWS[vertical], count)),
        seller_values=_told_by_seller(entries, values, lottery),
        seed=lottery.getrandbits(48),
    )


def _told_by_seller(
    entries: tuple[RenderedAttribute, ...], values: dict[str, str], lottery: random.Random
) -> dict[str, str]:
    told = {}
    for entry in entries:
        if lottery.random() < _SELLER_SILENT:
            continue
        wrong = lottery.random() < _SELLER_WRONG
        told[entry.name] = lottery.choice(entry.values) if wrong else values[entry.name]
    return told


def write_catalog(
    directory: str | Path,
    *,
    seed: int,
    num_pool: int,
    num_eval: int,
    num_anchor: int,
    seed_per_vertical: int = 10,
) -> None:
    """Write ``listings``, ``seed``, ``truth`` and ``splits`` (.parquet) and ``schema.yaml``.

    Memory does not grow with the number of listings.
    """
    target = Path(directory)
    target.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(SCHEMA_PATH, target / "schema.yaml")
    sizes: dict[Split, int] = {
        "pool": num_pool,
        "seed": seed_per_vertical * len(verticals()),
        "eval": num_eval,
        "anchor": num_anchor,
    }
    with (
        pq.ParquetWriter(target / "listings.parquet", LISTINGS_SCHEMA) as listings,
        pq.ParquetWriter(target / "seed.parquet", SEED.schema) as seeded,
        pq.ParquetWriter(target / "truth.parquet", TRUTH.schema) as truth,
        pq.ParquetWriter(target / "splits.parquet", SPLITS_SCHEMA) as splits,
    ):
        for split, size in sizes.items():
            for drawn in _groups(seed, split, size):
                listings.write_table(_listing_rows(drawn))
                names = {"listing_id": [item.listing_id for item in drawn]}
                splits.write_table(
                    pa.table({**names, "split": [split] * len(drawn)}, schema=SPLITS_SCHEMA)
                )
                if split == "seed":
                    answers = [item.annotation() for item in drawn]
                    seeded.write_table(pa.table({**names, "answers": answers}, schema=SEED.schema))
                elif split != "pool":
                    verified = [_pairs(item.visible()) for item in drawn]
                    truth.write_table(pa.table({**names, "answers": verified}, schema=TRUTH.schema))


def _groups(seed: int, split: Split, size: int) -> Iterator[list[RenderedListing]]:
    for first in range(0, size, ROW_GROUP_LISTINGS):
        last = min(first + ROW_GROUP_LISTINGS, size)
        yield [listing(seed, split, index) for index in range(first, last)]


def _listing_rows(drawn: list[RenderedListing]) -> pa.Table:
    return pa.table(
        {
            "listing_id": [item.listing_id for item in drawn],
            "vertical": [item.product.vertical for item in drawn],
            "images": [item.images() for item in drawn],
            "group_id": [f"group-{item.listing_id}" for item in drawn],
            "seller_values": [_pairs(item.seller_values) for item in drawn],
        },
        schema=LISTINGS_SCHEMA,
    )


def _pairs(values: dict[str, str]) -> list[dict[str, str]]:
    return [{"attribute": name, "value": value} for name, value in values.items()]
