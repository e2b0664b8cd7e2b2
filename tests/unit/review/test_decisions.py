"""From what reviewers said to answers: who is heard, who wins, and why the others are no answer."""

import json
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from raypipe.attributes.schema import AttributeSchema
from raypipe.review.decisions import Decisions, Known, decide
from raypipe.review.label_studio import Annotation, Task, read_annotations
from raypipe.review.tasks import CANNOT_TELL
from tests.fakes.label_studio_export import annotation, exported, minimal

SCHEMA = AttributeSchema.from_json(
    [
        {
            "vertical": "shoe",
            "attribute": "color",
            "description": "Color.",
            "values": ["Red", "Blue"],
            "aliases": {"Crimson": "Red"},
        }
    ]
)
KNOWN = Known(
    SCHEMA,
    dict.fromkeys(("L1", "S", "A", "V"), "shoe") | {"W": "watch"},
    {"S": "seed", "A": "anchor", "V": None},
)
MODEL = "It looks red."


def data(listing_id: str = "L1", **changes: Any) -> dict[str, Any]:
    return {
        "listing_id": listing_id,
        "attribute": "color",
        "policy_id": "p",
        "model_answer": "Red",
        "model_reasoning": MODEL,
    } | changes


@pytest.fixture
def judged(tmp_path: Path) -> Any:
    """What comes of one task and its annotations; in full and as JSON-MIN it is the same."""

    def go(given: Any, *annotations: Any, role: Any = "anchor", form: Any = "reasoning") -> Any:
        records = exported([{"data": given}], [annotations])
        path = tmp_path / "export.json"
        found = []
        for content in (records, minimal(records)):
            path.write_text(json.dumps(content))
            found.append(decide(read_annotations(str(path)), role, KNOWN, form))
        whole, short = found
        if not any(one["was_cancelled"] for one in annotations):
            assert answers(whole) == answers(short)
            assert reasons(whole) == reasons(short)
        assert len(annotations) == len(whole.refusals) + sum(
            len(answer.reviews) for answer in whole.answers
        )
        return whole

    return go


def answers(verdicts: Decisions) -> list[tuple[str, str, str]]:
    return [(one.listing_id, one.value, one.reasoning) for one in verdicts.answers]


def reasons(verdicts: Decisions) -> Counter[str]:
    return Counter(refusal.reason for refusal in verdicts.refusals)


def test_an_answer_is_spelled_as_the_schema_spells_it(judged: Any) -> None:
    verdicts = judged(data(), annotation(1, "crimson"))
    assert answers(verdicts) == [("L1", "Red", MODEL)]
    assert verdicts.answers[0].agrees is True


def test_a_task_that_nobody_annotated_is_counted_alone(judged: Any) -> None:
    verdicts = judged(data())
    assert (verdicts.not_reviewed, verdicts.answers, verdicts.refusals) == (1, [], [])


@pytest.mark.parametrize(
    ("given", "said", "reason"),
    [
        (data(), annotation(1, "Red", skipped=True), "skipped"),
        (data(), annotation(1, None), "no_answer"),
        (data(), annotation(1, ["Red", "Blue"]), "several_answers"),
        (data(), annotation(1, CANNOT_TELL), "abstained"),
        (data(), annotation(1, "Green"), "unknown_value"),
        (data("X"), annotation(1, "Red"), "unknown_listing"),
        (data("S"), annotation(1, "Red"), "other_role"),
        (data("V"), annotation(1, "Red"), "undecided_split"),
        (data("W"), annotation(1, "Red"), "unknown_attribute"),
        (data(attribute="heel"), annotation(1, "Red"), "unknown_attribute"),
        (data(listing_id=None), annotation(1, "Red"), "not_a_query"),
        (data(), annotation(1, "Red", at="soon") | {"created_at": None}, "undated"),
    ],
)
def test_what_is_no_answer_says_why(judged: Any, given: Any, said: Any, reason: str) -> None:
    verdicts = judged(given, said)
    assert (verdicts.answers, reasons(verdicts)) == ([], {reason: 1})
    told = verdicts.refusals[0].to_json()
    assert told["annotation_id"] == "1"
    assert told["detail"]
    json.dumps(told)


@pytest.mark.parametrize(
    ("listing_id", "role", "taken"),
    [("A", "anchor", 1), ("A", "eval", 0), ("A", "seed", 0), ("S", "seed", 1), ("L1", "eval", 1)],
)
def test_a_listing_keeps_the_split_that_it_has(
    judged: Any, listing_id: str, role: str, taken: int
) -> None:
    assert len(judged(data(listing_id), annotation(1, "Red"), role=role).answers) == taken


@pytest.mark.parametrize(
    ("said", "value", "refused"),
    [
        (["Red", "Red"], "Red", {}),
        (["Red", "Crimson", "Blue"], "Red", {"outvoted": 1}),
        (["Red", "Blue"], None, {"reviewers_disagree": 2}),
        (["Red", CANNOT_TELL], None, {"reviewers_disagree": 1, "abstained": 1}),
        (["Red", "Red", CANNOT_TELL], "Red", {"abstained": 1}),
        (["Red", CANNOT_TELL, CANNOT_TELL], None, {"outvoted": 1, "abstained": 2}),
        (["Red", "Green"], None, {"reviewers_disagree": 2}),
        (["Green", "Green", "Red"], None, {"unknown_value": 2, "outvoted": 1}),
    ],
)
def test_more_than_half_of_the_reviewers_decide(
    judged: Any, said: list[str], value: str | None, refused: dict[str, int]
) -> None:
    given = [annotation(place, one, reviewer=place) for place, one in enumerate(said, start=1)]
    verdicts = judged(data(), *given)
    assert [one.value for one in verdicts.answers] == ([] if value is None else [value])
    assert reasons(verdicts) == refused


def test_a_reviewer_has_one_voice_the_last(judged: Any) -> None:
    first = annotation(1, "Blue", reviewer=1, at="2026-03-01T10:00:00Z")
    other = annotation(2, "Red", reviewer=2, at="2026-03-01T09:00:00Z")
    again = annotation(3, "Red", reviewer=1, at="2026-03-01T12:30:00+02:00")
    verdicts = judged(data(), first, other, again)
    assert reasons(verdicts) == {"superseded": 1}
    assert [review.annotation.annotation_id for review in verdicts.answers[0].reviews] == ["3", "2"]


def test_tasks_of_one_query_are_decided_together() -> None:
    tasks = [
        Task(str(number), data(), (said(number, value),))
        for number, value in enumerate(("Red", "Blue", "Blue"))
    ]
    verdicts = decide(tasks, "eval", KNOWN, "reasoning")
    assert [one.value for one in verdicts.answers] == ["Blue"]
    assert reasons(verdicts) == {"outvoted": 1}


def said(reviewer: int, value: str) -> Annotation:
    moment = datetime(2026, 3, 1, tzinfo=UTC)
    return Annotation(f"a{reviewer}", str(reviewer), moment, False, (value,), "")


@pytest.mark.parametrize(
    ("value", "words", "reasoning"),
    [
        ("Blue", "The strap is blue.", "The strap is blue."),
        ("Red", "The upper is red.", "The upper is red."),
        ("Red", MODEL, MODEL),
        ("Red", None, MODEL),
        ("Blue", None, None),
        (
            "Blue",
            f" {MODEL}\n",
            None,
        ),  # the model's words, left run_status, speak for its own answer
    ],
)
def test_a_seed_answer_has_the_reasoning_that_speaks_for_it(
    judged: Any, value: str, words: str | None, reasoning: str | None
) -> None:
    verdicts = judged(data(), annotation(1, value, words), role="seed")
    if reasoning is None:
        assert (verdicts.answers, reasons(verdicts)) == ([], {"no_reasoning": 1})
    else:
        assert answers(verdicts) == [("L1", value, reasoning)]


def test_answers_alone_need_no_reasoning(judged: Any) -> None:
    verdicts = judged(data(), annotation(1, "Blue"), role="seed", form="answer_only")
    assert answers(verdicts) == [("L1", "Blue", "")]
    assert verdicts.answers[0].agrees is False


def test_an_answer_where_the_model_had_none(judged: Any) -> None:
    given = data(model_answer=None, model_reasoning="")
    verdicts = judged(given, annotation(1, "Blue", "It is blue."), role="seed")
    assert answers(verdicts) == [("L1", "Blue", "It is blue.")]
    assert verdicts.answers[0].agrees is None
