"""The prompt of a query for an annotator, and the parser of its reply.

The JSON form uses structured output, with a schema of the allowed values. The tags form uses the
training prompt (paper, Table 3) and the parser of chains.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from raypipe.attributes.parser import MALFORMED, OK, OUT_OF_SCHEMA, TRUNCATED, parse, reasoning_of
from raypipe.attributes.prompts import TEMPLATE_VERSION, messages
from raypipe.attributes.schema import Attribute
from raypipe.config.models import AnswerFormat
from raypipe.errors import Reason
from raypipe.runtime.openai_client import Reply, with_images
from raypipe.security.textfiles import parse_json

Form = Literal["json", "tags"]
JSON_TEMPLATE = "annotate-v1"
TEMPLATES = {"json": JSON_TEMPLATE, "tags": TEMPLATE_VERSION}
_FENCE = re.compile(r"```(?:json)?\s*(.*?)\s*```", re.DOTALL)
# The compact model is trained on this reasoning, so it must fit its token limit.
_JSON_PROMPT = (
    "You annotate the photos of a product for a catalog. Answer in JSON with two keys. First "
    '"reasoning": in one to three short sentences, what in the photos decides the question. Then '
    '"answer": exactly one of the options, the one that fits best.'
)


class ReplyReason(Reason):
    """Why an endpoint gave no answer, in addition to the reasons of chains."""


REPLY_REFUSED = ReplyReason("refused", "the model or the server's filter refuses to answer")
NO_REPLY = ReplyReason("endpoint_error", "there is no reply")


@dataclass(frozen=True)
class ParsedReply:
    """The parsed answer to a query.

    ``reason`` is a :class:`~raypipe.attributes.parser.ChainReason` or a :class:`ReplyReason`.
    ``detail`` is the server's text of a refusal.
    """

    answer: str | None
    reasoning: str | None
    reason: Reason
    detail: str = ""


def conversation(
    prompt: str, images: Sequence[bytes], answer_format: AnswerFormat, form: Form
) -> list[dict[str, Any]]:
    """Chat messages, images (JPEG) before the question."""
    system = _JSON_PROMPT if form == "json" else None
    return with_images(messages(prompt, len(images), answer_format, system=system), images)


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


def parse_reply(
    reply: Reply, attribute: Attribute, answer_format: AnswerFormat, form: Form
) -> ParsedReply:
    """Parse a reply; its reason may be one of chains."""
    if reply.refusal or reply.finish_reason == "content_filter":
        return ParsedReply(None, None, REPLY_REFUSED, (reply.refusal or "content_filter")[:500])
    if reply.finish_reason == "no_choice":
        return ParsedReply(None, None, MALFORMED, "the server gave no choice")
    if form == "json":
        return _read_json(reply, attribute)
    answer = parse(reply.text, reply.finish_reason, attribute, answer_format)
    return ParsedReply(answer.value, reasoning_of(reply.text), answer.reason)


def _read_json(reply: Reply, attribute: Attribute) -> ParsedReply:
    """Some servers wrap the JSON in a Markdown code block."""
    if reply.finish_reason == "length":
        return ParsedReply(None, None, TRUNCATED)
    fenced = _FENCE.fullmatch(reply.text.strip())
    try:
        fields = parse_json(fenced.group(1) if fenced else reply.text)
        reasoning, text = fields["reasoning"], fields["answer"]
    except (ValueError, TypeError, KeyError):
        return ParsedReply(None, None, MALFORMED)
    if not isinstance(reasoning, str) or not isinstance(text, str):
        return ParsedReply(None, None, MALFORMED)
    value = attribute.resolve(text)
    return ParsedReply(value, reasoning.strip(), OUT_OF_SCHEMA if value is None else OK)
