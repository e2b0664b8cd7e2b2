"""Labels that a person should look at, as Label Studio tasks.

A task is a query: its listing's images, the question, what the chains said. What comes back is read
by :mod:`raypipe.review.label_studio`.
"""

import base64
import heapq
import json
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import Any, Literal

from raypipe.attributes.publishing import PublishingRule, columns_read, published
from raypipe.runtime.tasks import run_tasks
from raypipe.seeds import derive
from raypipe.storage import whole
from raypipe.store.artifacts import Artifact
from raypipe.store.manifest import File

ReviewOrder = Literal["worst", "random"]
TASKS, INTERFACE = "tasks.json", "interface.xml"
ANSWER, REASONING = "answer", "reasoning"
"""The controls of the interface. JSON-MIN lays them among the keys of the task's data, so none of
those may be called the same."""
CANNOT_TELL = "None of these, or cannot tell"
"""The choice that is an abstention."""
_COLUMNS = [
    "listing_id",
    "vertical",
    "attribute",
    "answer",
    "reason",
    "confidence",
    "probability",
    "votes",
    "reasoning",
    "seller_value",
    "seller_conflict",
    "policy_id",
]
# Options differ from task to task, so the choices come out of the task (value="$options").
_VIEW = f"""<View>
  <Header value="$vertical: $attribute"/>
  <Image name="images" valueList="$images"/>
  <Text name="question" value="$question"/>
  <Text name="belief" value="$belief"/>
  <Text name="seller" value="$seller"/>
  <Choices name="{ANSWER}" toName="images" value="$options" choice="single" required="true"/>
  <TextArea name="{REASONING}" toName="images" rows="3" maxSubmissions="1" editable="true"
            required="false" placeholder="Why, in your own words (optional)"/>
</View>
"""
Row = dict[str, Any]
FindListings = Callable[[Collection[str]], Mapping[str, Row]]


def export_review(
    labels: Artifact,
    rule: PublishingRule,
    find: FindListings,
    target: Path,
    limit: int,
    order: ReviewOrder = "worst",
    seed: int = 0,
) -> Path:
    """Write ``limit`` labels as tasks, and the interface to judge them in.

    Images travel inside the tasks, so that the file can be imported anywhere.

    Args:
        labels: a committed label version.
        rule: which of them are published, and how probable they are.
        find: finds the prepared rows of listings; a label whose listing is not found has no images.
        target: directory for ``tasks.json`` and ``interface.xml``.
        order: those that need a person most, or any of them, drawn by ``seed``.
    """
    chosen = _first(labels, _First(rule, limit, order, seed))
    prepared = find({row["listing_id"] for row in chosen})
    provenance = {"scope": labels.name.rpartition("/")[0], "review_order": order}
    tasks = [_task(row, prepared.get(row["listing_id"]), provenance) for row in chosen]
    path = target / TASKS
    with whole(target / INTERFACE) as interface, whole(path) as partial:
        interface.write_text(_VIEW)
        partial.write_text(json.dumps(tasks, indent=1))
    return path


def urgency(row: Row) -> tuple[bool, float]:
    """Sorts the labels that need a person first: a contradicted seller, then the least probable."""
    probability = row["probability"]
    return (not row["seller_conflict"], -1.0 if probability is None else float(probability))


@dataclass(frozen=True)
class _First:
    """The first labels of a file, with their keys, by which they sort."""

    rule: PublishingRule
    limit: int
    order: ReviewOrder
    seed: int

    def __call__(self, placed: tuple[Artifact, File]) -> list[tuple[Any, Row]]:
        artifact, file = placed
        columns = columns_read(_COLUMNS, self.rule)
        table = published(artifact.rows_of(file, columns), self.rule).select(_COLUMNS)
        keyed = ((self._key(row), row) for row in table.to_pylist())
        return heapq.nsmallest(self.limit, keyed, key=itemgetter(0))

    def _key(self, row: Row) -> Any:
        name = (row["listing_id"], row["attribute"])
        if self.order == "worst":
            return (*urgency(row), *name)
        return (derive(self.seed, "review", *name), *name)


def _first(labels: Artifact, first: _First) -> list[Row]:
    """The first of all, file by file on the cluster."""
    found: list[tuple[Any, Row]] = []
    for some in run_tasks(first, labels.placed_files()):
        found = heapq.nsmallest(first.limit, [*found, *some], key=itemgetter(0))
    return [row for _, row in found]


def _task(row: Row, listing: Row | None, provenance: Row) -> Row:
    queries = {query["attribute"]: query for query in listing["queries"]} if listing else {}
    query = queries.get(row["attribute"], {"prompt": "", "options": []})
    options = query["options"] or [vote["value"] for vote in row["votes"]]
    seller = row["seller_value"]
    return {
        "data": {
            "query": f"{row['listing_id']}/{row['attribute']}",
            "listing_id": row["listing_id"],
            "vertical": row["vertical"],
            "attribute": row["attribute"],
            "policy_id": row["policy_id"],
            **provenance,
            "question": query["prompt"],
            "images": [_embedded(content) for content in (listing or {"images": []})["images"]],
            "options": [{"value": option} for option in (*options, CANNOT_TELL)],
            "model_answer": row["answer"],
            "model_reasoning": row["reasoning"] or "",
            "reason": row["reason"],
            "confidence": row["confidence"],
            "probability": row["probability"],
            "votes": {vote["value"]: vote["count"] for vote in row["votes"]},
            "belief": _belief(row),
            "seller": "The seller says nothing."
            if seller is None
            else f"The seller says: {seller}",
            "seller_value": seller,
        },
        "predictions": [_prediction(row)] if row["answer"] is not None else [],
    }


def _belief(row: Row) -> str:
    """What the reviewer reads of the model's answer."""
    if row["answer"] is None:
        said = f"The model has no answer ({row['reason'].replace('_', ' ')})."
    else:
        said = f"The model says: {row['answer']} (confidence {row['confidence']:.2f}"
        known = row["probability"] is not None
        said += f", right with probability {row['probability']:.2f})." if known else ")."
    votes = ", ".join(f"{vote['value']} {vote['count']}" for vote in row["votes"])
    return f"{said} Votes: {votes or 'none'}."


def _prediction(row: Row) -> Row:
    """The model's answer, and its reasoning as the text that a reviewer begins with."""
    regions = [_region(ANSWER, "choices", {"choices": [row["answer"]]})]
    if row["reasoning"]:
        regions.append(_region(REASONING, "textarea", {"text": [row["reasoning"]]}))
    score = row["confidence"] if row["probability"] is None else row["probability"]
    return {"model_version": row["policy_id"], "score": score, "result": regions}


def _region(control: str, kind: str, value: Row) -> Row:
    return {"from_name": control, "to_name": "images", "type": kind, "value": value}


def _embedded(content: bytes) -> str:
    return f"data:image/jpeg;base64,{base64.b64encode(content).decode()}"
