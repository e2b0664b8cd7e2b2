"""Answers that come with the catalog (annotated seed, verified truth), held to the schema."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from raypipe.attributes.schema import Attribute, AttributeSchema
from raypipe.catalog.answer_files import AnswerFiles
from raypipe.errors import ArtifactError
from raypipe.schemas import QUARANTINE
from raypipe.store.artifacts import Artifact, Attempt, get_or_commit
from raypipe.store.manifest import Commit, Fingerprint
from raypipe.store.quarantine import (
    OVERRULED,
    REPEATED_ATTRIBUTE,
    UNKNOWN_ATTRIBUTE,
    UNKNOWN_VALUE,
    QuarantineReason,
    quarantine_row,
)

ValueField = Literal["answer", "value"]


@dataclass(frozen=True)
class CheckedAnswers:
    """Answers with canonical values, and a quarantine row for each that was dropped."""

    kept: list[dict[str, Any]]
    dropped: list[dict[str, Any]]


def answers_of(
    source: AnswerFiles,
    verticals: Mapping[str, str],
    schema: AttributeSchema,
    value_field: ValueField,
) -> CheckedAnswers:
    """Rows of the seed or truth table, and what was dropped, ``overruled`` answers included.

    Args:
        source: the seed or the truth.
        verticals: the vertical of every listing that stays; others are left out.
        schema: the attribute schema.
        value_field: the field that holds an answer's value: "answer" in seed, "value" in truth.
    """
    kept: list[dict[str, Any]] = []
    dropped: list[dict[str, Any]] = []
    for row in source.rows(verticals):
        listing_id = row["listing_id"]
        attributes = schema.attributes(verticals[listing_id])
        checked = check_answers(listing_id, row["answers"], attributes, value_field)
        kept.append({"listing_id": listing_id, "answers": checked.kept})
        overruled = {
            name: _dropped(listing_id, name, OVERRULED, answer["detail"])
            for answer in row["overruled"]
            if (name := answer["attribute"])
        }
        known = {lost["id"] for lost in checked.dropped}
        dropped += checked.dropped
        dropped += [lost for lost in overruled.values() if lost["id"] not in known]
    return CheckedAnswers(sorted(kept, key=lambda row: str(row["listing_id"])), dropped)


def commit_answers(
    artifact: Artifact, fingerprint: Fingerprint, answers: CheckedAnswers, ids: Collection[str]
) -> Commit:
    """Commit the rows of exactly these listings, or find them committed by an interrupted run.

    Raises:
        ArtifactError: the committed rows are of other listings, because images that are named by
            path changed since.
    """
    commit = get_or_commit(artifact, fingerprint, partial(_write, answers=answers, ids=ids))
    if set(artifact.read(["listing_id"]).column("listing_id").to_pylist()) != set(ids):
        raise ArtifactError(
            f"{artifact.name} holds other listings than the catalog has now: images changed since "
            f"it was committed. Delete {artifact.run.location} to start over"
        )
    return commit


def _write(attempt: Attempt, answers: CheckedAnswers, ids: Collection[str]) -> Commit:
    table = attempt.artifact.table
    if answers.kept and table is not None:
        attempt.write(table.from_rows(answers.kept))
    if answers.dropped:
        attempt.write(QUARANTINE.from_rows(answers.dropped), "quarantine")
    return attempt.commit(expected={*ids, *(row["id"] for row in answers.dropped)})


def check_answers(
    listing_id: str,
    answers: Iterable[Mapping[str, Any]] | None,
    attributes: Iterable[Attribute],
    value_field: ValueField,
) -> CheckedAnswers:
    """Keep the answers that the schema allows, with the allowed value as it is spelled there.

    The reasons of a dropped answer: ``unknown_attribute``, ``unknown_value``,
    ``repeated_attribute`` (the first answer to an attribute stays). A dropped answer's id is
    ``<listing_id>/<attribute>``.

    Args:
        answers: structs with ``attribute``, ``value_field`` and optionally ``reasoning``.
        attributes: all attributes of the listing's vertical.
        value_field: the field that holds the value.
    """
    known = {attribute.name: attribute for attribute in attributes}
    kept: dict[str, dict[str, Any]] = {}
    dropped: dict[str, dict[str, Any]] = {}

    def drop(name: str, reason: QuarantineReason, detail: str) -> None:
        dropped.setdefault(name, _dropped(listing_id, name, reason, detail))

    for answer in filter(None, answers or ()):
        name, text = str(answer["attribute"] or ""), str(answer[value_field] or "")
        value = known[name].resolve(text) if name in known else None
        if name not in known:
            drop(name, UNKNOWN_ATTRIBUTE, f"its vertical has {', '.join(known)}")
        elif value is None:
            options = ", ".join(known[name].values)
            drop(name, UNKNOWN_VALUE, f"'{text}' is none of {options}")
        elif name in kept:
            drop(name, REPEATED_ATTRIBUTE, f"answered again with '{value}'")
        else:
            kept[name] = {"attribute": name, value_field: value}
            if "reasoning" in answer:
                kept[name]["reasoning"] = answer["reasoning"] or ""
    return CheckedAnswers(list(kept.values()), list(dropped.values()))


def _dropped(
    listing_id: str, attribute: str, reason: QuarantineReason, detail: str
) -> dict[str, Any]:
    """The quarantine row of an answer."""
    return quarantine_row(f"{listing_id}/{attribute}", "prepare", reason, detail)
