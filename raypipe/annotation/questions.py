"""A query as an annotator is asked it, and what the annotator's reply says.

Asked for JSON, a server holds itself to a schema that names the allowed values. Asked in tags, it
gets the words of the training prompt (paper, Table 3) and is read by the parser of chains.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from raypipe.answers import parse, reasoning_of
from raypipe.attributes import Attribute
from raypipe.chat import Reply, with_images
from raypipe.prompts import TEMPLATE_VERSION, AnswerFormat, messages
from raypipe.textfiles import parse_json

Form = Literal["json", "tags"]
JSON_TEMPLATE = "annotate-v1"
TEMPLATES = {"json": JSON_TEMPLATE, "tags": TEMPLATE_VERSION}
_FENCE = re.compile(r"```(?:json)?\s*(.*?)\s*```", re.DOTALL)
# Reasoning is what the compact model will learn to write, within its own limit of tokens.
_JSON_PROMPT = (
    "You annotate the photos of a product for a catalog. Answer in JSON with two keys. First "
    '"reasoning": in one to three short sentences, what in the photos decides the question. Then '
    '"answer": exactly one of the options, the one that fits best.'
)


@dataclass(frozen=True)
class Annotation:
    """What a reply says of a query.

    ``outcome`` is "ok", a reason of :data:`raypipe.answers.Reason`, or "refused". ``detail`` is
    the server's own word for a refusal.
    """

    answer: str | None
    reasoning: str | None
    outcome: str
    detail: str = ""


def conversation(
    prompt: str, images: Sequence[bytes], answer_format: AnswerFormat, form: Form
) -> list[dict[str, Any]]:
    """Chat messages, images (JPEG) before the question."""
    turns = messages(prompt, len(images), answer_format)
    if form == "json":
        turns[0]["content"][0]["text"] = _JSON_PROMPT
    return with_images(turns, images)


def response_format(options: Sequence[str]) -> dict[str, Any]:
    """The protocol's ``response_format``: reasoning, and an answer out of the options."""
    fields = {
        "reasoning": {"type": "string"},
        "answer": {"type": "string", "enum": list(options)},
    }
    schema = {
        "type": "object",
        "properties": fields,
        "required": list(fields),
        "additionalProperties": False,
    }
    return {
        "type": "json_schema",
        "json_schema": {"name": "annotation", "strict": True, "schema": schema},
    }


def read(reply: Reply, attribute: Attribute, answer_format: AnswerFormat, form: Form) -> Annotation:
    """What a reply answers; the reasons of chains hold here too."""
    if reply.refusal or reply.finish_reason == "content_filter":
        return Annotation(None, None, "refused", (reply.refusal or "content_filter")[:500])
    if reply.finish_reason == "no_choice":
        return Annotation(None, None, "malformed", "the server gave no choice")
    if form == "json":
        return _read_json(reply, attribute)
    answer = parse(reply.text, reply.finish_reason, attribute, answer_format)
    return Annotation(answer.value, reasoning_of(reply.text), answer.reason)


def _read_json(reply: Reply, attribute: Attribute) -> Annotation:
    """Servers that only half know schemas wrap the JSON as a block of code."""
    if reply.finish_reason == "length":
        return Annotation(None, None, "truncated")
    fenced = _FENCE.fullmatch(reply.text.strip())
    try:
        said = parse_json(fenced.group(1) if fenced else reply.text)
        reasoning, text = said["reasoning"], said["answer"]
    except (ValueError, TypeError, KeyError):
        return Annotation(None, None, "malformed")
    if not isinstance(reasoning, str) or not isinstance(text, str):
        return Annotation(None, None, "malformed")
    value = attribute.resolve(text)
    return Annotation(value, reasoning.strip(), "out_of_schema" if value is None else "ok")
