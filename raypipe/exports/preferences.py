"""Preference pairs in the form that TRL takes: its conversational preference data set."""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Features, Image, List, Value

from raypipe.attributes.prompts import answer_turn, conversation
from raypipe.config import Config
from raypipe.config.models import AnswerFormat
from raypipe.schemas import LISTINGS, PAIRS
from raypipe.storage import whole
from raypipe.store.artifacts import Artifact, Run
from raypipe.store.paths import CATALOG, Paths

FILE = "preferences.parquet"
_PAIRS_PER_ROW_GROUP = 128

_MESSAGES = List({"role": Value("string"), "content": Value("string")})
FEATURES = Features(
    {
        "prompt": _MESSAGES,
        "chosen": _MESSAGES,
        "rejected": _MESSAGES,
        "images": List(Image()),
        "meta_listing_id": Value("string"),
        "meta_attribute": Value("string"),
    }
)


def export_preferences(config: Config, run: Run, scope: str, directory: str | Path) -> Path:
    """Write ``<scope>/pairs`` as one Parquet file, a row per pair.

    ``datasets.load_dataset("parquet", data_files=…)`` decodes its images, and TRL's DPOTrainer
    takes the data set unchanged: it puts the images before the text of the user's turn, which is
    where :func:`raypipe.attributes.prompts.messages` has them. The pairs' text is held in memory;
    images are streamed, one file of listings at a time.

    Args:
        directory: local directory, made when it is not there.

    Returns:
        The file.

    Raises:
        ArtifactError: the pairs or the listings are not committed, or corrupt.
    """
    target = Path(directory) / FILE
    schema = FEATURES.arrow_schema
    answer_format = config.model.answer_format
    pairs = run.artifact(Paths(scope).pairs, PAIRS)
    rows = _rows(pairs, run.artifact(CATALOG.listings, LISTINGS), answer_format)
    with (
        whole(target) as partial,
        pq.ParquetWriter(partial, schema, compression="zstd") as writer,
    ):
        while batch := list(islice(rows, _PAIRS_PER_ROW_GROUP)):
            writer.write_table(pa.Table.from_pylist(batch, schema=schema))
    return target


def _rows(
    pairs: Artifact, listings: Artifact, answer_format: AnswerFormat
) -> Iterator[dict[str, Any]]:
    tables = list(pairs.read_files())
    places: dict[str, list[tuple[int, int]]] = {}
    for number, table in enumerate(tables):
        for row, listing_id in enumerate(table.column("listing_id").to_pylist()):
            places.setdefault(listing_id, []).append((number, row))
    for table in listings.read_files(["listing_id", "images"]):
        for row, listing_id in enumerate(table.column("listing_id").to_pylist()):
            queries = [
                tables[number].slice(place, 1).to_pylist()[0]
                for number, place in places.get(listing_id, ())
            ]
            if queries:
                images = table.column("images")[row].as_py()
                for query in sorted(queries, key=lambda query: query["attribute"]):
                    yield from _examples(query, images, answer_format)


def _examples(
    query: dict[str, Any], images: list[bytes], answer_format: AnswerFormat
) -> Iterator[dict[str, Any]]:
    for pair in query["pairs"]:
        yield {
            "prompt": conversation(query["prompt"], answer_format),
            "chosen": [answer_turn(pair["chosen"])],
            "rejected": [answer_turn(pair["rejected"])],
            "images": [{"bytes": content, "path": None} for content in images],
            "meta_listing_id": query["listing_id"],
            "meta_attribute": query["attribute"],
        }
