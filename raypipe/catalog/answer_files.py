"""Answers that may lie in several files: what people reviewed, beside what was there before.

A listing has one row however many files answer for it. Where two files answer the same attribute,
a review wins over what is none, and a later review over an earlier one.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import Any

from raypipe.catalog.sources import SPLITS_FILE, Column, Source, find_source, open_source
from raypipe.errors import InputError
from raypipe.security.identifiers import MAX_BYTES, bounded, is_stand_in

REVIEW = "review"
Row = dict[str, Any]


@dataclass(frozen=True)
class _StatedValues:
    """What one file answers for one attribute of a listing; more than once is the file's fault."""

    path: str
    answers: tuple[Mapping[str, Any], ...]

    @property
    def reviewed_at(self) -> datetime | None:
        """When a person reviewed it; None for an answer that is not a review."""
        given = self.answers[0]
        moment = given.get("reviewed_at") if given.get("source") == REVIEW else None
        return moment if isinstance(moment, datetime) else None

    @property
    def values(self) -> tuple[object, ...]:
        return tuple(answer.get("answer", answer.get("value")) for answer in self.answers)


class AnswerFiles(Source):
    """A seed or a truth whose files may share listings."""

    @cached_property
    def listing_ids(self) -> frozenset[str]:
        """Every id. Raises InputError for one that no listing can have, or that is there twice in
        one file."""
        found = frozenset().union(*(file.listing_ids for file in self.each_file()))
        stand_in = min(filter(is_stand_in, found), default=None)
        if stand_in is not None:
            raise InputError(
                f"{self.name}: the listing_id {stand_in} is empty, has more than {MAX_BYTES} bytes "
                "or holds a NUL; no listing can be answered for by it"
            )
        return found

    def rows(
        self, wanted: Collection[str] | None = None, names: Sequence[str] | None = None
    ) -> Iterator[Row]:
        """A row for every listing, in the order of ids, with what all files say of it.

        ``overruled`` holds an ``attribute`` and a ``detail`` for each answer that gave way to a
        review.

        Raises:
            InputError: a file is truncated or corrupt; two files answer the same attribute and
                none has the last word, or they state different splits.
        """
        found: dict[str, list[tuple[str, Row]]] = {}
        for file in self.each_file():
            for row in file.rows(wanted, names):
                found.setdefault(row["listing_id"], []).append((file.files[0], row))
        for listing_id in sorted(found, key=str):
            yield _merged(listing_id, found[listing_id])


def open_answers(location: str, columns: tuple[Column, ...]) -> AnswerFiles:
    """Find the files of a seed or truth, as :func:`open_source` does.

    The file that states splits may lie in a truth's directory and holds no answers.
    """
    found = open_source(location, columns, leave_out=(SPLITS_FILE,))
    return _answer_files(found)


def find_answers(location: str, columns: tuple[Column, ...]) -> AnswerFiles | None:
    """:func:`open_answers`, but None where nothing is."""
    found = find_source(location, columns, leave_out=(SPLITS_FILE,))
    return None if found is None else _answer_files(found)


def _answer_files(found: Source) -> AnswerFiles:
    return AnswerFiles(
        found.filesystem, found.files, found.directory, found.columns, found.is_directory
    )


def _merged(listing_id: str, rows: Sequence[tuple[str, Row]]) -> Row:
    """What the files say of a listing as one row."""
    merged: Row = {"overruled": []}
    claims: dict[str, list[_StatedValues]] = {}
    for path, row in rows:
        by_attribute: dict[str, list[Mapping[str, Any]]] = {}
        for answer in map(_bounded, filter(None, row.get("answers") or ())):
            by_attribute.setdefault(str(answer["attribute"] or ""), []).append(answer)
        for attribute, answers in by_attribute.items():
            claims.setdefault(attribute, []).append(_StatedValues(path, tuple(answers)))
        for name, value in row.items():
            stated = merged.setdefault(name, value)
            if name == "split" and value is not None:
                if stated not in (None, value):
                    raise InputError(
                        f"{path}: the split of '{listing_id}' is '{value}' here and '{stated}' in "
                        "another file; keep one"
                    )
                merged[name] = value
    merged["answers"] = []
    # One file's order is kept; between files it would be that of their names.
    for attribute, claimed in sorted(claims.items()) if len(rows) > 1 else claims.items():
        last, *others = sorted(claimed, key=_rank, reverse=True)
        merged["answers"] += last.answers
        for other in others:
            _check_rank(listing_id, attribute, last, other)
            if other.values != last.values:
                detail = f"{other.path} says {_told(other)}, overruled by a review: {_told(last)}"
                merged["overruled"].append({"attribute": attribute, "detail": detail})
    return merged


def _bounded(answer: Mapping[str, Any]) -> dict[str, Any]:
    """An answer whose attribute and value are not too long; its reasoning may be."""
    return {
        name: bounded(given) if isinstance(given, str) and name != "reasoning" else given
        for name, given in answer.items()
    }


def _rank(claim: _StatedValues) -> tuple[float, str]:
    """The last word has the highest; equal moments are told apart by the file, for the order."""
    moment = claim.reviewed_at
    return (float("-inf") if moment is None else moment.timestamp(), claim.path)


def _check_rank(listing_id: str, attribute: str, last: _StatedValues, other: _StatedValues) -> None:
    """Raises InputError when it is not clear which of two claims has the last word."""
    if last.reviewed_at is None:
        raise InputError(
            f"{last.path}: '{attribute}' of '{listing_id}' is answered there and in {other.path}; "
            "keep one"
        )
    if other.reviewed_at == last.reviewed_at and other.values != last.values:
        raise InputError(
            f"{last.path}: the review of '{attribute}' of '{listing_id}' says {_told(last)} and "
            f"the one of the same moment in {other.path} says {_told(other)}; remove one"
        )


def _told(claim: _StatedValues) -> str:
    return ", ".join(f"'{value}'" for value in claim.values)
