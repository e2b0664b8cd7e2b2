"""A small run with committed listings and chains, for the stage and the export."""

import io
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest
from PIL import Image

from raypipe.attributes.schema import Attribute, AttributeSchema
from raypipe.schemas import CHAINS, LISTINGS, QUARANTINE
from raypipe.store.artifacts import Run

Rows = list[dict[str, Any]]
MakeRun = Callable[..., Run]

SCHEMA = AttributeSchema(
    (
        Attribute("Dress", "colour", "The colour.", ("Red", "Blue", "None"), {"Crimson": "Red"}),
        Attribute("Dress", "sleeve", "The sleeve.", ("Long", "Short"), {}),
        Attribute("Shoe", "heel", "The heel.", ("Flat", "High", "0"), {}),
    )
)
SPLITS = ["pool"] * 24 + ["anchor"] * 6 + ["eval"] * 4 + ["seed"] * 2


def picture(number: int) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (28, 28), (number * 7 % 256, 40, 200)).save(stream, "PNG")
    return stream.getvalue()


def _chain(text: str, finish_reason: str) -> dict[str, Any]:
    return {"text": text, "token_ids": [1, 2], "logprob": -1.0, "finish_reason": finish_reason}


def _chains(attribute: Attribute, draw: random.Random) -> Rows:
    chains = []
    favourite = draw.choice(attribute.values)
    for number in range(7):
        answer = favourite if draw.random() < 0.6 else draw.choice([*attribute.values, "Green"])
        text = f"<reasoning>{number}</reasoning><answer>{answer}</answer>"
        if draw.random() < 0.1:
            text = draw.choice(["", "no tags", text + " and more"])
        chains.append(_chain(text, "length" if draw.random() < 0.1 else "stop"))
    return chains


@pytest.fixture
def listing_rows() -> Rows:
    rows = []
    for number, split in enumerate(SPLITS):
        vertical = "Dress" if number % 3 else "Shoe"
        rows.append(
            {
                "listing_id": f"l{number:02d}",
                "vertical": vertical,
                "split": split,
                "group_id": None,
                "images": [picture(number + view) for view in range(1 + number % 3)],
                "image_hashes": [f"{number}-{view}" for view in range(1 + number % 3)],
                "queries": [
                    {
                        "attribute": entry.name,
                        "prompt": f"which {entry.name} for this {vertical}?",
                        "options": list(entry.values),
                        "seller_value": None,
                    }
                    for entry in SCHEMA.attributes(vertical)
                ],
            }
        )
    return rows


@pytest.fixture
def chain_rows(listing_rows: Rows) -> Rows:
    draw = random.Random(7)
    rows = []
    for listing in listing_rows:
        if listing["split"] == "seed":
            continue
        queries = []
        for entry in SCHEMA.attributes(listing["vertical"]):
            chains = _chains(entry, draw)
            queries.append(
                {
                    "attribute": entry.name,
                    "greedy": None if listing["split"] == "pool" else chains[0],
                    "chains": [] if listing["split"] == "eval" else chains,
                }
            )
        rows.append(
            {
                "listing_id": listing["listing_id"],
                "vertical": listing["vertical"],
                "split": listing["split"],
                "policy_id": "p0",
                "queries": queries,
            }
        )
    return rows


@pytest.fixture
def make_run(tmp_path, listing_rows: Rows, chain_rows: Rows) -> MakeRun:
    """Build a run of its own name; chains in any order, in files of any size, some refused."""

    def make(
        name: str,
        chains: Rows | None = None,
        per_file: int = 5,
        refused: Sequence[str] = (),
        fingerprint: Mapping[str, Any] | None = None,
    ) -> Run:
        run = Run(str(tmp_path / name))
        attempt = run.artifact("catalog/listings", LISTINGS).attempt({})
        for start in range(0, len(listing_rows), 6):  # the last file holds eval and seed alone
            attempt.write(LISTINGS.from_rows(listing_rows[start : start + 6]))
        attempt.write_json("attribute_schema.json", SCHEMA.to_json())
        attempt.commit()
        attempt = run.artifact("sft/chains", CHAINS).attempt(fingerprint or {})
        rows = [row for row in chains or chain_rows if row["listing_id"] not in refused]
        for start in range(0, len(rows), per_file):
            attempt.write(CHAINS.from_rows(rows[start : start + per_file]))
        if refused:
            quarantine = [
                {"id": listing_id, "stage": "sampling", "reason": "engine_error", "detail": ""}
                for listing_id in refused
            ]
            attempt.write(QUARANTINE.from_rows(quarantine), kind="quarantine")
        attempt.commit()
        return run

    return make
