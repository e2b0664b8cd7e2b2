"""Sheets and photos as a user has them, and what ``raypipe init`` made of them."""

import csv
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from PIL import Image

from raypipe import config as configuration
from raypipe.attributes.schema import AttributeSchema
from raypipe.catalog import stage
from raypipe.ingest.schema_draft import draft_schema
from raypipe.ingest.survey import Survey
from raypipe.schemas import LISTINGS
from raypipe.store.artifacts import Run

Init = Callable[..., int]

HEADER = ("sku", "category", "colour", "price", "image")


def photo(shade: int) -> bytes:
    """A small photo; another shade is another photo."""
    stream = io.BytesIO()
    Image.new("RGB", (40, 30), (shade % 256, 9 * shade % 256, 77)).save(stream, "JPEG")
    return stream.getvalue()


def write_sheet(path: Path, rows: list[tuple[str, ...]], delimiter: str = ",") -> Path:
    with path.open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream, delimiter=delimiter).writerows(rows)
    return path


def rows_of(path: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pq.read_table(path).to_pylist()
    return rows


def refused(path: Path) -> list[dict[str, str]]:
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def prepared(shop: Path) -> list[dict[str, Any]]:
    """The listings that the prepare stage makes of what init wrote."""
    run = Run(str(shop / "runs" / "shop"))
    stage.run(configuration.load("catalog.yaml"), run)
    rows: list[dict[str, Any]] = run.artifact("catalog/listings", LISTINGS).read().to_pylist()
    return rows


def add_answers(init: Init, shop: Path) -> None:
    seed = [("sku", "attribute", "reasoning", "answer"), ("S00", "colour", "It is red.", "RED")]
    truth = [("sku", "colour", "split"), *((f"S{n:02}", "Blue", "") for n in range(1, 5))]
    write_sheet(shop / "seed.csv", seed)
    write_sheet(shop / "verified.csv", [*truth, ("S05", "Red", "anchor")])
    assert init("--seed", "seed.csv", "--truth", "verified.csv") == 0


def drafted(*sellers: dict[str, str], vertical: str = "shoe") -> tuple[str, AttributeSchema]:
    survey = Survey()
    for values in sellers:
        survey.add(vertical, values, [])
    text = draft_schema(survey).text
    return text, AttributeSchema.from_json(yaml.safe_load(text))


def write_parquet(path: Path, **columns: Any) -> None:
    table = {
        "listing_id": ["A", "B"],
        "vertical": ["shoe", "shoe"],
        "images": [[photo(1)], [photo(2)]],
        "seller_values": [[("heel", "Flat")], [("heel", "Block")]],
    } | columns
    kind = pa.map_(pa.string(), pa.string())
    arrays = {
        name: pa.array(values, kind) if name == "seller_values" else pa.array(values)
        for name, values in table.items()
        if values is not None
    }
    pq.write_table(pa.table(arrays), path)
