"""Decides each query by its reviewers' answers, or gives the reason why it cannot.

Every annotation is part of an answer or has a refusal. The answer to a query is what more than half
of its reviewers say; a reviewer counts once, with the latest answer.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from raypipe.attributes.schema import Attribute, AttributeSchema
from raypipe.config.models import AnswerFormat
from raypipe.review.label_studio import Annotation, Task
from raypipe.review.tasks import CANNOT_TELL

ReviewRole = Literal["seed", "anchor", "eval"]
ReviewReason = Literal[
    "not_a_query",
    "skipped",
    "undated",
    "no_answer",
    "several_answers",
    "superseded",
    "unknown_listing",
    "other_role",
    "undecided_split",
    "unknown_attribute",
    "abstained",
    "reviewers_disagree",
    "outvoted",
    "unknown_value",
    "no_reasoning",
]
"""Why an annotation is no part of an answer, the first that applies:

not_a_query         the task does not say which listing and attribute it asks for
skipped             the reviewer skipped the task
undated             the export does not say when it was made
no_answer           no choice was ticked
several_answers     more than one choice was ticked
superseded          the same reviewer answered the same query again, later
unknown_listing     the catalog has no such listing
other_role          the listing is in another split
undecided_split     the listing is verified and only prepare could say whether eval or anchor
unknown_attribute   the schema does not ask this of the listing's vertical
abstained           the reviewer ticked that none fits, or that one cannot tell
reviewers_disagree  no answer has more than half of the reviewers
outvoted            more than half of the reviewers say something else
unknown_value       what was ticked is no longer allowed
no_reasoning        neither the reviewer nor, for this answer, the model says why; seed alone
"""


@dataclass(frozen=True)
class Known:
    """What the catalog knows of the listings that were reviewed.

    ``verticals`` has those that are there. ``splits`` has those that are annotated or verified;
    None where a verified listing's split is not stated.
    """

    schema: AttributeSchema
    verticals: Mapping[str, str]
    splits: Mapping[str, str | None]


@dataclass(frozen=True)
class ReviewerAnswer:
    """An annotation and the task that it is of."""

    task: Task
    annotation: Annotation

    @property
    def free_text(self) -> str:
        """The reviewer's text, unless it is what the model's was left as; empty without one."""
        text = self.annotation.reasoning
        given = str(self.task.data.get("model_reasoning") or "")
        return "" if text.split() == given.split() else text


@dataclass(frozen=True)
class RejectedAnswer:
    """A review that is not part of an answer."""

    review: ReviewerAnswer
    reason: ReviewReason
    detail: str

    def to_json(self) -> dict[str, Any]:
        data, annotation = self.review.task.data, self.review.annotation
        return {
            "task_id": self.review.task.task_id,
            "annotation_id": annotation.annotation_id,
            "reviewer": annotation.reviewer,
            "reviewed_at": annotation.reviewed_at and annotation.reviewed_at.isoformat(),
            "listing_id": data.get("listing_id"),
            "attribute": data.get("attribute"),
            "policy_id": data.get("policy_id"),
            "model_answer": data.get("model_answer"),
            "choices": list(annotation.choices),
            "reasoning": self.review.free_text,
            "reason": self.reason,
            "detail": self.detail,
        }


@dataclass(frozen=True)
class Reviewed:
    """The answer to a query, and all who gave it, the latest first."""

    listing_id: str
    attribute: Attribute
    value: str
    reasoning: str
    reviews: tuple[ReviewerAnswer, ...]

    @property
    def data(self) -> Mapping[str, Any]:
        """Of the task that the latest of them saw."""
        return self.reviews[0].task.data

    @property
    def model_answer(self) -> str | None:
        given = self.data.get("model_answer")
        return None if given is None else str(given)

    @property
    def agrees(self) -> bool | None:
        """Whether it is what the model says; None when the model has no answer."""
        if self.model_answer is None:
            return None
        return self.attribute.resolve(self.model_answer) == self.value


@dataclass
class Decisions:
    """What came of an export; ``not_reviewed`` counts tasks that nobody has annotated."""

    answers: list[Reviewed] = field(default_factory=list)
    refusals: list[RejectedAnswer] = field(default_factory=list)
    not_reviewed: int = 0

    def refuse(self, reviews: Sequence[ReviewerAnswer], reason: ReviewReason, detail: str) -> None:
        self.refusals += [RejectedAnswer(review, reason, detail) for review in reviews]


def decide(
    tasks: Sequence[Task], role: ReviewRole, known: Known, answer_format: AnswerFormat
) -> Decisions:
    """Decide every query of an export.

    Args:
        tasks: with their annotations.
        role: what the answers are for.
        known: of the listings.
        answer_format: "reasoning" wants a reasoning of every seed answer.
    """
    decisions = Decisions()
    queries: dict[tuple[str, str], list[ReviewerAnswer]] = {}
    for task in tasks:
        reviews = [ReviewerAnswer(task, annotation) for annotation in task.annotations]
        listing_id, attribute = task.data.get("listing_id"), task.data.get("attribute")
        if not reviews:
            decisions.not_reviewed += 1
        elif isinstance(listing_id, str) and isinstance(attribute, str):
            queries.setdefault((listing_id, attribute), []).extend(reviews)
        else:
            decisions.refuse(reviews, "not_a_query", "its data name no listing_id and attribute")
    for (listing_id, name), reviews in sorted(queries.items()):
        valid = _valid_answers(reviews, decisions)
        attribute_or_refusal = _requested_attribute(listing_id, name, role, known)
        if isinstance(attribute_or_refusal, Attribute):
            _decide(listing_id, attribute_or_refusal, valid, decisions, role, answer_format)
        else:
            decisions.refuse(valid, *attribute_or_refusal)
    return decisions


def _valid_answers(reviews: Sequence[ReviewerAnswer], decisions: Decisions) -> list[ReviewerAnswer]:
    """The usable reviews, each reviewer's last, the latest first."""
    valid: list[ReviewerAnswer] = []
    last: dict[str, str] = {}
    answering: list[tuple[float, str, ReviewerAnswer]] = []
    for review in reviews:
        annotation = review.annotation
        if annotation.skipped:
            decisions.refuse([review], "skipped", "the reviewer skipped the task")
        elif annotation.reviewed_at is None:
            decisions.refuse([review], "undated", "neither updated_at nor created_at is a time")
        elif not annotation.choices:
            decisions.refuse([review], "no_answer", "no choice was ticked")
        elif len(set(annotation.choices)) > 1:
            decisions.refuse([review], "several_answers", ", ".join(annotation.choices))
        else:
            moment = annotation.reviewed_at.timestamp()
            answering.append((moment, annotation.annotation_id, review))
    for _, annotation_id, review in sorted(answering, key=lambda one: one[:2], reverse=True):
        reviewer = review.annotation.reviewer
        if reviewer is not None and reviewer in last:
            detail = f"reviewer {reviewer} answered again in annotation {last[reviewer]}"
            decisions.refuse([review], "superseded", detail)
            continue
        valid.append(review)
        if reviewer is not None:
            last[reviewer] = annotation_id
    return valid


def _requested_attribute(
    listing_id: str, name: str, role: ReviewRole, known: Known
) -> Attribute | tuple[ReviewReason, str]:
    """The attribute that a query asks for, or why its answer cannot be used as ``role``."""
    if listing_id not in known.verticals:
        return "unknown_listing", f"catalog.listings has no '{listing_id}'"
    if listing_id in known.splits:
        split = known.splits[listing_id]
        if split is None:
            return (
                "undecided_split",
                "catalog.truth states no split for it and the run has not been prepared",
            )
        if split != role:
            return "other_role", f"it is in the {split} split, and a listing is in one alone"
    vertical = known.verticals[listing_id]
    vertical_known = vertical in known.schema.verticals
    attributes = known.schema.attributes(vertical) if vertical_known else ()
    for attribute in attributes:
        if attribute.name == name:
            return attribute
    return "unknown_attribute", f"the schema of '{vertical}' has no '{name}'"


def _decide(
    listing_id: str,
    attribute: Attribute,
    valid: Sequence[ReviewerAnswer],
    decisions: Decisions,
    role: ReviewRole,
    answer_format: AnswerFormat,
) -> None:
    """The answer that more than half give, or why there is none."""
    choices = [_choice(review, attribute) for review in valid]
    counted = Counter(choices)
    majority = next((one for one, count in counted.items() if 2 * count > len(valid)), None)
    winners: list[ReviewerAnswer] = []
    tally = ", ".join(f"{count} '{one}'" for one, count in sorted(counted.items()))
    for review, one in zip(valid, choices, strict=True):
        if one == CANNOT_TELL:
            decisions.refuse([review], "abstained", one)
        elif majority is None:
            decisions.refuse([review], "reviewers_disagree", tally)
        elif one != majority:
            decisions.refuse([review], "outvoted", tally)
        elif attribute.resolve(one) is None:
            allowed = ", ".join(attribute.values)
            decisions.refuse([review], "unknown_value", f"'{one}' is none of {allowed}")
        else:
            winners.append(review)
    if not winners:
        return
    value = _choice(winners[0], attribute)
    reasoning = _reasoning(winners, attribute, value)
    if role == "seed" and answer_format == "reasoning" and not reasoning:
        decisions.refuse(winners, "no_reasoning", f"'{value}', and nobody says why")
    else:
        decisions.answers.append(Reviewed(listing_id, attribute, value, reasoning, tuple(winners)))


def _choice(review: ReviewerAnswer, attribute: Attribute) -> str:
    """The choice of a review, as the schema spells it where it is allowed."""
    text = review.annotation.choices[0]
    if text == CANNOT_TELL:
        return text
    return attribute.resolve(text) or text


def _reasoning(winners: Sequence[ReviewerAnswer], attribute: Attribute, value: str) -> str:
    """A reviewer's own text, else the model's if it says the same; empty without either."""
    for review in winners:
        if review.free_text:
            return review.free_text
    for review in winners:
        answer = review.task.data.get("model_answer")
        if answer is not None and attribute.resolve(str(answer)) == value:
            return str(review.task.data.get("model_reasoning") or "")
    return ""
