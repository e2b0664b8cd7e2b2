"""Answers of people become files beside the user's own seed or truth.

An import adds a file to the directory and changes none: ``reviewed-<digest>.parquet`` has the
answers, ``reviewed-<digest>.refused.json`` whatever an annotation did not become one for.
"""

import hashlib
import json
import posixpath
import uuid
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from raypipe.catalog.answer_files import REVIEW, AnswerFiles
from raypipe.catalog.inputs import Inputs, open_inputs, stated_splits
from raypipe.catalog.sources import SPLITS_FILE
from raypipe.catalog.tables import Tables
from raypipe.config import Config
from raypipe.errors import ConfigError, StorageError
from raypipe.review.decisions import Decisions, Known, Reviewed, ReviewerAnswer, ReviewRole, decide
from raypipe.review.label_studio import read_annotations
from raypipe.schemas import LISTINGS
from raypipe.store.paths import CATALOG
from raypipe.store.runs import run_of

_REVIEWS = pa.list_(
    pa.struct(
        {
            "task_id": pa.string(),
            "annotation_id": pa.string(),
            "reviewer": pa.string(),
            "reviewed_at": pa.timestamp("us", "UTC"),
            "words": pa.string(),
        }
    )
)
_PROVENANCE = {
    "source": pa.string(),
    "reviewed_at": pa.timestamp("us", "UTC"),
    "policy_id": pa.string(),
    "scope": pa.string(),
    "review_order": pa.string(),
    "model_answer": pa.string(),
    "reviews": _REVIEWS,
}
_TEXT = pa.string()
_SEED = pa.struct({"attribute": _TEXT, "reasoning": _TEXT, "answer": _TEXT} | _PROVENANCE)
_TRUTH = pa.struct({"attribute": _TEXT, "value": _TEXT} | _PROVENANCE)
SEED_FILE = pa.schema({"listing_id": _TEXT, "answers": pa.list_(_SEED)})
TRUTH_FILE = pa.schema({"listing_id": _TEXT, "answers": pa.list_(_TRUTH), "split": _TEXT})


@dataclass(frozen=True)
class ImportedReviews:
    """What an import came to. A file is None where there was nothing to write; ``is_new`` says
    that the answers were not there before."""

    role: ReviewRole
    decisions: Decisions
    file: str | None
    refused_file: str | None
    is_new: bool

    @property
    def agreed(self) -> Counter[bool | None]:
        """Answers by whether the model said the same; None where it said nothing."""
        return Counter(answer.agrees for answer in self.decisions.answers)

    @property
    def refused(self) -> Counter[str]:
        """Annotations by the reason why they are no part of an answer."""
        return Counter(refusal.reason for refusal in self.decisions.refusals)

    @property
    def chosen_worst(self) -> int:
        """Answers whose query was shown because the model was unsure of it."""
        orders = (answer.data.get("review_order") for answer in self.decisions.answers)
        return sum(order == "worst" for order in orders)


def import_reviews(config: Config, path: str, role: ReviewRole) -> ImportedReviews:
    """Add what people said to the catalog; importing the same again changes nothing.

    Args:
        config: names the catalog, and the run that knows unstated splits.
        path: Label Studio's export, as JSON or JSON-MIN.
        role: the split that the answers are for.

    Raises:
        ConfigError: the catalog is embedded, or its seed or truth is a single file.
        InputError: the export or a file of the catalog is unreadable or wrong.
        StorageError: a file cannot be written.
    """
    if config.catalog.embedded is not None:
        raise ConfigError(
            "catalog.embedded has no files to add answers to: write a catalog of your own and set "
            "catalog.listings"
        )
    with Tables(config, run_of(config)) as tables:
        inputs = open_inputs(config.catalog, tables)
    place = inputs.seed if role == "seed" else inputs.truth
    if not place.is_directory:
        key = "catalog.seed" if role == "seed" else "catalog.truth"
        beside = f", {SPLITS_FILE} with it," if role != "seed" and inputs.splits else ""
        raise ConfigError(
            f"{key}={place.name} is no directory, and an import adds one beside it: move it"
            f"{beside} into a directory of its own and set {key} to that"
        )
    tasks = read_annotations(path)
    listings = {str(task.data.get("listing_id")) for task in tasks if task.annotations}
    known = _known(config, inputs, listings)
    decisions = decide(tasks, role, known, config.model.answer_format)
    name, is_new = _write_answers(place, role, decisions.answers)
    return ImportedReviews(
        role, decisions, name, _write_refusals(place, name, role, decisions), is_new
    )


def _known(config: Config, inputs: Inputs, listings: Collection[str]) -> Known:
    rows = inputs.listings.rows(listings, ["listing_id", "vertical"])
    splits: dict[str, str | None] = dict.fromkeys(inputs.seed.listing_ids & set(listings), "seed")
    verified = inputs.truth.listing_ids & set(listings)
    stated = stated_splits(inputs) if verified else {}
    splits |= {name: stated.get(name) for name in verified}
    undecided = [name for name in verified if splits[name] is None]
    if undecided:
        splits |= _prepared_splits(config, undecided)
    return Known(inputs.schema, {row["listing_id"]: row["vertical"] for row in rows}, splits)


def _prepared_splits(config: Config, listings: list[str]) -> dict[str, str | None]:
    """The splits that the run's own prepare drew."""
    artifact = run_of(config).artifact(CATALOG.listings, LISTINGS)
    found: dict[str, str | None] = {}
    if artifact.commit() is not None:
        for table in artifact.read_files(["listing_id", "split"]):
            chosen = table.filter(pc.is_in(table.column("listing_id"), pa.array(listings)))
            found |= {row["listing_id"]: row["split"] for row in chosen.to_pylist()}
    return found


def _write_answers(
    place: AnswerFiles, role: ReviewRole, answers: list[Reviewed]
) -> tuple[str | None, bool]:
    """The file of the answers, and whether it is new; it is named by what they are."""
    by_listing: dict[str, list[dict[str, Any]]] = {}
    for answer in sorted(answers, key=lambda one: (one.listing_id, one.attribute.name)):
        by_listing.setdefault(answer.listing_id, []).append(_struct(answer, role))
    if not by_listing:
        return None, False
    rows = [{"listing_id": name, "answers": given} for name, given in by_listing.items()]
    if role != "seed":
        rows = [row | {"split": role} for row in rows]
    table = pa.Table.from_pylist(rows, schema=SEED_FILE if role == "seed" else TRUTH_FILE)
    content = pa.BufferOutputStream()
    pq.write_table(table, content, compression="zstd")
    name = f"reviewed-{_digest(rows)}.parquet"
    return _write(place, name, content.getvalue().to_pybytes())


def _write_refusals(
    place: AnswerFiles, answers: str | None, role: ReviewRole, decisions: Decisions
) -> str | None:
    if not decisions.refusals:
        return None
    content = {
        "role": role,
        "answers": answers and posixpath.basename(answers),
        "refused": [refusal.to_json() for refusal in decisions.refusals],
    }
    name = f"reviewed-{_digest(content)}.refused.json"
    return _write(place, name, json.dumps(content, indent=1, ensure_ascii=False).encode())[0]


def _struct(answer: Reviewed, role: ReviewRole) -> dict[str, Any]:
    """One answer as the catalog's files have it, with where it comes from."""
    values = (
        {"reasoning": answer.reasoning, "answer": answer.value}
        if role == "seed"
        else {"value": answer.value}
    )
    return {
        "attribute": answer.attribute.name,
        **values,
        "source": REVIEW,
        "reviewed_at": answer.reviews[0].annotation.reviewed_at,
        **{name: _text(answer.data, name) for name in ("policy_id", "scope", "review_order")},
        "model_answer": answer.model_answer,
        "reviews": [_review(review) for review in answer.reviews],
    }


def _review(review: ReviewerAnswer) -> dict[str, Any]:
    return {
        "task_id": review.task.task_id,
        "annotation_id": review.annotation.annotation_id,
        "reviewer": review.annotation.reviewer,
        "reviewed_at": review.annotation.reviewed_at,
        "words": review.free_text or None,
    }


def _text(data: Mapping[str, Any], name: str) -> str | None:
    value = data.get(name)
    return None if value is None else str(value)


def _digest(content: object) -> str:
    canonical = json.dumps(content, sort_keys=True, default=str).encode()
    return hashlib.sha256(canonical).hexdigest()[:12]


def _write(place: AnswerFiles, name: str, content: bytes) -> tuple[str, bool]:
    """Write a file whole unless it is there; its path, and whether it is new."""
    directory = str(place.directory)
    path = posixpath.join(directory, name)
    hidden = posixpath.join(directory, f".{name}.{uuid.uuid4().hex[:8]}")
    try:
        if place.filesystem.get_file_info(path).is_file:
            return path, False
        with place.filesystem.open_output_stream(hidden) as stream:
            stream.write(content)
        place.filesystem.move(hidden, path)
    except OSError as error:
        raise StorageError(f"cannot write {path}: {error}") from error
    return path, True
