"""What people said in Label Studio: its JSON export, or its JSON-MIN.

JSON has a task with all its annotations; JSON-MIN has a record for every annotation, in which the
answers lie among the keys of the task's data. Of a reviewer nothing but a number is kept, or the
hash of the e-mail address where the export has no number.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.fs as pafs

from raypipe.errors import InputError
from raypipe.review.tasks import ANSWER, REASONING
from raypipe.security.textfiles import MAX_JSON_BYTES, MalformedError, parse_json

_ADDED_BY_JSON_MIN = ("annotator", "annotation_id", "created_at", "updated_at", "lead_time", "id")
_REMEDY = "export the project from Label Studio as JSON"


@dataclass(frozen=True)
class Annotation:
    """What one person said of one task.

    ``reviewer`` and ``reviewed_at`` (UTC) are None where the export does not say; ``choices`` are
    the answers that were ticked, of which there should be one.
    """

    annotation_id: str
    reviewer: str | None
    reviewed_at: datetime | None
    skipped: bool
    choices: tuple[str, ...]
    reasoning: str


@dataclass(frozen=True)
class Task:
    """A task as it was exported for review, and its annotations; in JSON-MIN one at most."""

    task_id: str
    data: Mapping[str, Any]
    annotations: tuple[Annotation, ...]


def read_annotations(location: str) -> list[Task]:
    """The tasks of an export (path or URI of a JSON file), also those that nobody has annotated.
    Raises InputError when it cannot be read or is no export of Label Studio."""
    try:
        absolute = location if "://" in location else str(Path(location).resolve())
        filesystem, path = pafs.FileSystem.from_uri(absolute)
        with filesystem.open_input_stream(path) as stream:
            content = parse_json(stream.read(MAX_JSON_BYTES + 1))
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"cannot read {location}: {error}") from error
    except MalformedError as error:
        raise InputError(f"{location} is not JSON ({error}); {_REMEDY}") from error
    records = [content] if isinstance(content, Mapping) else content
    if not isinstance(records, list) or not all(isinstance(part, Mapping) for part in records):
        raise InputError(f"{location} holds no list of tasks; {_REMEDY}")
    return [
        _task(record, f"{location}: record {number}", str(record.get("id", f"#{number}")))
        for number, record in enumerate(records, start=1)
    ]


def _task(record: Mapping[str, Any], place: str, task_id: str) -> Task:
    if isinstance(record.get("data"), Mapping):
        given = record.get("annotations") or []
        if not isinstance(given, list) or not all(isinstance(one, Mapping) for one in given):
            raise InputError(f"{place}: its annotations are not there in full; {_REMEDY}")
        annotations = [_annotation(one, f"{task_id}:{n}") for n, one in enumerate(given)]
        return Task(task_id, record["data"], tuple(annotations))
    if "annotation_id" not in record:
        raise InputError(f"{place} is neither a task nor an annotation; {_REMEDY}")
    data = {key: value for key, value in record.items() if key not in _ADDED_BY_JSON_MIN}
    return Task(task_id, data, () if record["annotation_id"] is None else (_minimal(record),))


def _annotation(record: Mapping[str, Any], otherwise: str) -> Annotation:
    result = record.get("result")
    parts = result if isinstance(result, list) else ()
    regions = [region for region in parts if isinstance(region, Mapping)]

    def said(control: str, key: str) -> list[str]:
        chosen = (region for region in regions if region.get("from_name") == control)
        return [text for region in chosen for text in _texts(region.get("value"), key)]

    return Annotation(
        annotation_id=str(record.get("id") or otherwise),
        reviewer=_reviewer(record.get("completed_by")),
        reviewed_at=_moment(record),
        skipped=bool(record.get("was_cancelled") or record.get("skipped")),
        choices=tuple(said(ANSWER, "choices")),
        reasoning="\n".join(said(REASONING, "text")).strip(),
    )


def _minimal(record: Mapping[str, Any]) -> Annotation:
    return Annotation(
        annotation_id=str(record["annotation_id"]),
        reviewer=_reviewer(record.get("annotator")),
        reviewed_at=_moment(record),
        skipped=False,  # Label Studio leaves them out of JSON-MIN
        choices=tuple(_texts(record.get(ANSWER), "choices")),
        reasoning="\n".join(_texts(record.get(REASONING), "text")).strip(),
    )


def _texts(value: object, key: str) -> Iterator[str]:
    """Texts of a region: plain, in a list, or under the key that the control gives them."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        yield from _texts(value.get(key), key)
    elif isinstance(value, Sequence):
        for part in value:
            yield from _texts(part, key)


def _reviewer(given: object) -> str | None:
    """The number of a reviewer, or a hash where only the e-mail address is known."""
    if isinstance(given, Mapping):
        known = given.get("id")
        return _reviewer(given.get("email") if known is None else known)
    if given is None or isinstance(given, bool) or given == "":
        return None
    text = str(given).strip().casefold()
    return text if text.isdigit() else hashlib.sha256(text.encode()).hexdigest()[:12]


def _moment(record: Mapping[str, Any]) -> datetime | None:
    """When it was last changed, in UTC."""
    for name in ("updated_at", "created_at"):
        try:
            moment = datetime.fromisoformat(record.get(name) or "")
            return moment.replace(tzinfo=moment.tzinfo or UTC).astimezone(UTC)
        except (ValueError, TypeError, OverflowError):  # no date, or one before the year 1 in UTC
            continue
    return None
