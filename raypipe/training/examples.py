"""Training examples out of committed artifacts: one row per target or pair, images by listing.

The rows are what TRL calls prompt-completion and preference data, conversational and with images.
Images are kept once per listing and joined when a row is looked up.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from raypipe.attributes.prompts import (
    answer_turn,
    completion,
    conversation,
    without_control_tokens,
)
from raypipe.attributes.vote import KEPT
from raypipe.config import PairWeight
from raypipe.config.models import AnswerFormat
from raypipe.schemas import CHAINS, CONSENSUS, LISTINGS, PAIRS, SEED
from raypipe.store.artifacts import Run
from raypipe.store.paths import CATALOG, Paths

Row = dict[str, Any]


@dataclass(frozen=True)
class Examples:
    """Rows without images, and the images (encoded) of every listing that they name."""

    rows: list[Row]
    images: dict[str, list[bytes]]

    def dataset(self) -> Any:
        """A ``datasets.Dataset`` whose rows carry their listing's decoded images."""
        import io

        from datasets import Dataset
        from PIL import Image

        def with_images(batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
            listings = batch.pop("listing_id")
            for name in ("attribute", "weight"):
                batch.pop(name, None)
            decoded = [
                [Image.open(io.BytesIO(content)) for content in self.images[listing]]
                for listing in listings
            ]
            return {**batch, "images": decoded}

        return Dataset.from_list(self.rows).with_transform(with_images)


def seed_targets(run: Run, answer_format: AnswerFormat) -> Examples:
    """Every annotated answer of the seed split as a target (paper §3.1)."""
    prompts = _prompts(run, "seed")
    rows = []
    for seeded in run.artifact(CATALOG.seed, SEED).read().to_pylist():
        for answer in seeded["answers"]:
            key = (seeded["listing_id"], answer["attribute"])
            text = completion(answer["answer"], answer["reasoning"], answer_format)
            rows.append(_target(key, prompts[key], text, answer_format))
    return _with_images(run, rows)


def preferred_targets(
    run: Run, scope: str, chains_of: str, answer_format: AnswerFormat
) -> Examples:
    """Every preferred chain of a kept query as a target (paper §5), unanimous ones included;
    ``scope`` is of the consensus, ``chains_of`` of the chains that it was reached on."""
    preferred: dict[tuple[str, str], list[int]] = {}
    for table in run.artifact(Paths(scope).consensus, CONSENSUS).read_files():
        pool = table.filter(pc.equal(table.column("split"), "pool"))
        for row in pool.filter(pc.equal(pool.column("gate"), KEPT)).to_pylist():
            preferred[row["listing_id"], row["attribute"]] = row["preferred"]
    prompts = _prompts(run, "pool")
    rows = []
    for table in run.artifact(Paths(chains_of).chains, CHAINS).read_files():
        for listing in table.to_pylist():
            for query in listing["queries"]:
                key = (listing["listing_id"], query["attribute"])
                for index in preferred.get(key, ()):
                    text = without_control_tokens(query["chains"][index]["text"])
                    rows.append(_target(key, prompts[key], text, answer_format))
    return _with_images(run, rows)


def preference_pairs(
    run: Run, scope: str, answer_format: AnswerFormat, pair_weight: PairWeight = "uniform"
) -> Examples:
    """Every preference pair that a policy's chains gave (paper §4.1), with its ``weight``.

    Weights have mean 1 over all pairs, so that a learning rate means the same with any of them.
    """
    rows: list[Row] = []
    for query in run.artifact(Paths(scope).pairs, PAIRS).read().to_pylist():
        weight = query["margin"] if pair_weight == "margin" else 1.0
        for pair in query["pairs"]:
            rows.append(
                {
                    "listing_id": query["listing_id"],
                    "attribute": query["attribute"],
                    "prompt": conversation(query["prompt"], answer_format),
                    "chosen": [answer_turn(pair["chosen"])],
                    "rejected": [answer_turn(pair["rejected"])],
                    "weight": weight,
                }
            )
    if rows:
        mean = fmean(row["weight"] for row in rows)
        rows = [row | {"weight": row["weight"] / mean} for row in rows]
    return _with_images(run, rows)


def _target(key: tuple[str, str], prompt: str, text: str, answer_format: AnswerFormat) -> Row:
    return {
        "listing_id": key[0],
        "attribute": key[1],
        "prompt": conversation(prompt, answer_format),
        "completion": [answer_turn(text)],
    }


def _listings(run: Run, columns: list[str]) -> Iterator[pa.Table]:
    return run.artifact(CATALOG.listings, LISTINGS).read_files(columns)


def _prompts(run: Run, split: str) -> dict[tuple[str, str], str]:
    prompts = {}
    for table in _listings(run, ["listing_id", "split", "queries"]):
        for row in table.filter(pc.equal(table.column("split"), split)).to_pylist():
            for query in row["queries"]:
                prompts[row["listing_id"], query["attribute"]] = query["prompt"]
    return prompts


def _with_images(run: Run, rows: list[Row]) -> Examples:
    """Sort rows, so that their order says nothing of files, and fetch the images they need."""
    rows.sort(key=repr)
    needed = pa.array(sorted({row["listing_id"] for row in rows}), pa.string())
    images: dict[str, list[bytes]] = {}
    for table in _listings(run, ["listing_id", "images"]):
        for row in table.filter(pc.is_in(table.column("listing_id"), needed)).to_pylist():
            images[row["listing_id"]] = row["images"]
    return Examples(rows, images)
