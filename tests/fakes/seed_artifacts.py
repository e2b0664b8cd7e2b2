"""A small artifact: ``catalog/seed`` of a few rows."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from raypipe.schemas import SEED
from raypipe.store.artifacts import Artifact, Attempt, Run

Row = dict[str, Any]

NAME = "catalog/seed"

SETTINGS = {"lora.rank": 32, "splits": ["pool"]}


def seeded(listing_id: str, answer: str = "Red") -> Row:
    reasoning = f"{listing_id} looks {answer}"
    return {
        "listing_id": listing_id,
        "answers": [{"attribute": "colour", "reasoning": reasoning, "answer": answer}],
    }


def refused(listing_id: str, reason: str = "too_long") -> Row:
    return {"id": listing_id, "stage": "sampling", "reason": reason, "detail": ""}


def begin(run: Run, *files: Sequence[str], fingerprint: dict[str, Any] = SETTINGS) -> Attempt:
    """An attempt that has written one file for each list of ids."""
    attempt = run.artifact(NAME, SEED).attempt(fingerprint)
    for ids in files:
        attempt.write(SEED.from_rows([seeded(listing_id) for listing_id in ids]))
    return attempt


def seed_of(run: Run) -> Artifact:
    return Run(run.location).artifact(NAME, SEED)


def ids_of(artifact: Artifact) -> list[str]:
    return sorted(artifact.read(["listing_id"]).column("listing_id").to_pylist())


def data_files(run: Run) -> list[Path]:
    return sorted(Path(run.path(NAME, "data")).rglob("*.parquet"))


def folder(path: Path) -> None:
    path.mkdir()
