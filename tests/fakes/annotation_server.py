"""A scripted server of an annotation, and what an annotation left."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from raypipe.annotation.driver import annotate
from raypipe.config import Config
from raypipe.runtime.console import Console
from raypipe.schemas import ANNOTATIONS
from raypipe.store.artifacts import Run
from tests.fakes.catalog_files import CatalogFiles
from tests.fakes.chat_server import Asked, completion

KEY = "sk-canary-91be77"

VALUES = {"color": "Blue", "heel": "Kitten Heel", "dial": "Square"}

TOKENS = 57  # of one reply, as tests.fakes.chat_server counts them


def attribute_of(asked: Asked) -> str:
    return asked.prompt.split(" for ")[1]


def in_json(asked: Asked) -> tuple[int, Any]:
    value = VALUES[attribute_of(asked)]
    return completion(json.dumps({"reasoning": "It shows.", "answer": value}))


Configure = Callable[..., Config]


def go(config: Config, **options: Any) -> None:
    annotate(config, Console(), plan_only=options.get("plan_only", False))


def answers(config: Config) -> list[dict[str, Any]]:
    """The rows of the only annotation that the run has committed."""
    run = Run(f"{config.run.directory}/{config.run.name}")
    (manifest,) = Path(run.location).glob("annotation/*/answers/_COMMIT.json")
    name = str(manifest.parent.relative_to(run.location))
    return run.artifact(name, ANNOTATIONS).read().to_pylist()


def seed_rows(shop: CatalogFiles) -> dict[str, dict[str, str]]:
    (path,) = (shop.directory / "seed").glob("*.parquet")
    rows = pq.read_table(path).to_pylist()
    assert {(row["source"], row["annotator"]) for row in rows} == {("annotation", "m")}
    return {
        row["listing_id"]: {answer["attribute"]: answer["answer"] for answer in row["answers"]}
        for row in rows
    }
