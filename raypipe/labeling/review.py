"""Labels that a person should look at, as Label Studio tasks.

A task is a query: its listing's images, the question, what the chains said. Where the seller says
something else comes first, then the least probable.
"""

import base64
import heapq
import json
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pyarrow as pa

from raypipe.artifacts import Artifact

TASKS, INTERFACE = "tasks.json", "interface.xml"
_COLUMNS = [
    "listing_id",
    "vertical",
    "attribute",
    "answer",
    "value",
    "outcome",
    "confidence",
    "probability",
    "votes",
    "reasoning",
    "seller_value",
    "seller_conflict",
    "policy_id",
]
# Options differ from task to task, so the choices come out of the task (value="$options").
_VIEW = """<View>
  <Header value="$vertical: $attribute"/>
  <Image name="images" valueList="$images"/>
  <Text name="question" value="$question"/>
  <Text name="reasoning" value="$reasoning"/>
  <Text name="seller" value="$seller"/>
  <Choices name="answer" toName="images" value="$options" choice="single" required="true"/>
</View>
"""
Row = dict[str, Any]


def export_review(labels: Artifact, listings: Artifact, target: Path, limit: int) -> Path:
    """Write the ``limit`` labels that need a person most, and the interface to judge them in.

    Images travel inside the tasks, so that the file can be imported anywhere.

    Args:
        labels: a committed generation.
        listings: what was labeled; a label whose listing is not there has no images.
        target: directory for ``tasks.json`` and ``interface.xml``.
    """
    chosen = _worst(labels, limit)
    prepared = _listings(listings, {row["listing_id"] for row in chosen})
    tasks = [_task(row, prepared.get(row["listing_id"])) for row in chosen]
    target.mkdir(parents=True, exist_ok=True)
    (target / INTERFACE).write_text(_VIEW)
    path = target / TASKS
    path.write_text(json.dumps(tasks, indent=1))
    return path


def urgency(row: Row) -> tuple[bool, float]:
    """Sorts the labels that need a person first: a contradicted seller, then the least probable."""
    probability = row["probability"]
    return (not row["seller_conflict"], -1.0 if probability is None else float(probability))


def _worst(labels: Artifact, limit: int) -> list[Row]:
    numbers = count()

    def ranked() -> Iterator[tuple[tuple[bool, float], int, Row]]:
        for table in labels.read_files(_COLUMNS):
            for row in table.to_pylist():
                yield urgency(row), next(numbers), row

    return [row for _, _, row in heapq.nsmallest(limit, ranked())]


def _listings(listings: Artifact, wanted: set[str]) -> dict[str, Row]:
    found: dict[str, Row] = {}
    for table in listings.read_files(["listing_id", "images", "queries"]):
        ids = table.column("listing_id").to_pylist()
        places = [place for place, name in enumerate(ids) if name in wanted]
        rows = table.take(pa.array(places, pa.int64())).to_pylist()
        found |= {row["listing_id"]: row for row in rows}
    return found


def _task(row: Row, listing: Row | None) -> Row:
    queries = {query["attribute"]: query for query in listing["queries"]} if listing else {}
    query = queries.get(row["attribute"], {"prompt": "", "options": [], "seller_value": None})
    options = query["options"] or [vote["value"] for vote in row["votes"]]
    seller = row["seller_value"]
    prediction = {
        "model_version": row["policy_id"],
        "score": row["probability"] or 0.0,
        "result": [
            {
                "from_name": "answer",
                "to_name": "images",
                "type": "choices",
                "value": {"choices": [row["answer"]]},
            }
        ],
    }
    return {
        "data": {
            "listing_id": row["listing_id"],
            "vertical": row["vertical"],
            "attribute": row["attribute"],
            "question": query["prompt"],
            "images": [_embedded(content) for content in (listing or {"images": []})["images"]],
            "options": [{"value": option} for option in options],
            "answer": row["answer"],
            "outcome": row["outcome"],
            "confidence": row["confidence"],
            "probability": row["probability"],
            "votes": {vote["value"]: vote["count"] for vote in row["votes"]},
            "reasoning": row["reasoning"] or "",
            "seller": "" if seller is None else f"The seller says: {seller}",
            "seller_value": seller,
        },
        "predictions": [prediction] if row["answer"] is not None else [],
    }


def _embedded(content: bytes) -> str:
    return f"data:image/jpeg;base64,{base64.b64encode(content).decode()}"
