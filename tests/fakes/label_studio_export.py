"""What Label Studio makes of tasks: its JSON export and its JSON-MIN.

The forms are those of labelstud.io/guide/task_format and of the SDK's converter.
"""

from collections.abc import Sequence
from typing import Any

Record = dict[str, Any]


def annotation(
    number: int,
    choice: str | Sequence[str] | None,
    reasoning: str | None = None,
    *,
    reviewer: Any = 7,
    at: str = "2026-03-01T10:00:00.000000Z",
    skipped: bool = False,
) -> Record:
    """An annotation as the JSON export has it."""
    choices = [choice] if isinstance(choice, str) else list(choice or ())
    result = []
    if choices:
        result.append(_region("answer", "choices", {"choices": choices}))
    if reasoning is not None:
        result.append(_region("reasoning", "textarea", {"text": [reasoning]}))
    return {
        "id": number,
        "completed_by": reviewer,
        "result": result,
        "was_cancelled": skipped,
        "ground_truth": False,
        "created_at": "2026-02-28T09:00:00.000000Z",
        "updated_at": at,
        "lead_time": 12.5,
        "result_count": len(result),
        "task": 1,
        "parent_prediction": None,
    }


def exported(tasks: Sequence[Record], annotations: Sequence[Sequence[Record]]) -> list[Record]:
    """The JSON export of a project: every task with its annotations."""
    return [
        {
            "id": 100 + place,
            "annotations": list(given),
            "drafts": [],
            "predictions": task.get("predictions", []),
            "data": task["data"],
            "meta": {},
            "created_at": "2026-02-27T09:00:00.000000Z",
            "updated_at": "2026-03-01T10:00:00.000000Z",
            "total_annotations": len(given),
            "project": 3,
        }
        for place, (task, given) in enumerate(zip(tasks, annotations, strict=True))
    ]


def minimal(records: Sequence[Record]) -> list[Record]:
    """The same project as JSON-MIN: a record for each annotation, without the skipped ones."""
    found = []
    for task in records:
        kept = [given for given in task["annotations"] if not given["was_cancelled"]]
        if not task["annotations"]:
            kept = [dict.fromkeys(("id", "completed_by", "created_at", "updated_at", "lead_time"))]
        for given in kept:
            record = {**task["data"], "id": task["id"]}
            for region in given.get("result") or ():
                (texts,) = region["value"].values()
                record[region["from_name"]] = texts[0] if len(texts) == 1 else region["value"]
            reviewer = given["completed_by"]
            record["annotator"] = reviewer["email"] if isinstance(reviewer, dict) else reviewer
            record["annotation_id"] = given["id"]
            record |= {key: given[key] for key in ("created_at", "updated_at", "lead_time")}
            found.append(record)
    return found


def _region(control: str, kind: str, value: Record) -> Record:
    return {
        "id": f"{control}-region",
        "from_name": control,
        "to_name": "images",
        "type": kind,
        "origin": "manual",
        "value": value,
    }
