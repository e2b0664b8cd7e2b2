"""Small catalogs of a user's own files."""

import io
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from PIL import Image

from raypipe.config import Config, resolve

SCHEMA = [
    {"vertical": "shoe", "attribute": "color", "description": "Color is the color.",
     "values": ["Red", "Blue"], "aliases": {"Crimson": "Red"}},
    {"vertical": "shoe", "attribute": "heel", "description": "Heel is the heel.",
     "values": ["Flat", "Kitten Heel"], "aliases": {}},
    {"vertical": "watch", "attribute": "dial", "description": "Dial is the shape.",
     "values": ["Round", "Square"], "aliases": {}},
]  # fmt: skip

_ANSWER = pa.struct({"attribute": pa.string(), "reasoning": pa.string(), "answer": pa.string()})
_VALUE = pa.struct({"attribute": pa.string(), "value": pa.string()})
LISTINGS = pa.schema(
    {
        "listing_id": pa.string(),
        "vertical": pa.string(),
        "images": pa.list_(pa.binary()),
        "group_id": pa.string(),
        "seller_values": pa.map_(pa.string(), pa.string()),
    }
)
SEED = pa.schema({"listing_id": pa.string(), "answers": pa.list_(_ANSWER)})
TRUTH = pa.schema({"listing_id": pa.string(), "answers": pa.list_(_VALUE), "split": pa.string()})


def photo(shade: int = 0, size: tuple[int, int] = (40, 30), form: str = "PNG") -> bytes:
    """A small photo; another shade is another photo."""
    stream = io.BytesIO()
    Image.new("RGB", size, (shade % 256, shade // 256, 77)).save(stream, form)
    return stream.getvalue()


@dataclass
class CatalogFiles:
    """A catalog in memory that writes its files; tests change rows, then write."""

    directory: Path
    listings: list[dict[str, Any]] = field(default_factory=list)
    seed: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    truth: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    stated_splits: dict[str, str] = field(default_factory=dict)
    schema: list[dict[str, Any]] = field(default_factory=lambda: SCHEMA)

    def add(self, listing_id: str | None, shade: int, **changes: Any) -> None:
        row = {"listing_id": listing_id, "vertical": "shoe", "images": [photo(shade)]}
        self.listings.append(row | changes)

    def write(self, listings_schema: pa.Schema = LISTINGS) -> None:
        self.directory.mkdir(exist_ok=True)
        (self.directory / "schema.yaml").write_text(yaml.safe_dump(self.schema))
        for name, table in self.tables(listings_schema).items():
            pq.write_table(table, self.directory / f"{name}.parquet", row_group_size=3)

    def tables(self, listings_schema: pa.Schema = LISTINGS) -> dict[str, pa.Table]:
        """The rows of listings, seed and truth."""
        seed = [{"listing_id": name, "answers": given} for name, given in self.seed.items()]
        truth = [
            {"listing_id": name, "answers": given, "split": self.stated_splits.get(name)}
            for name, given in self.truth.items()
        ]
        return {
            "listings": pa.Table.from_pylist(self.listings, schema=listings_schema),
            "seed": pa.Table.from_pylist(seed, schema=SEED),
            "truth": pa.Table.from_pylist(truth, schema=TRUTH),
        }

    def config(self, **catalog: Any) -> Config:
        places = {
            "listings": str(self.directory / "listings.parquet"),
            "attribute_schema": str(self.directory / "schema.yaml"),
            "seed": str(self.directory / "seed.parquet"),
            "truth": str(self.directory / "truth.parquet"),
        }
        return resolve({"catalog": places | {"image_size": 28, "embedded": None} | catalog})
