"""What a chain answers (paper §3.1: the value between the answer tags, or nothing).

Consensus and evaluation read chains with the same parser, so that a vote and an accuracy mean the
same thing.
"""

from dataclasses import dataclass
from functools import lru_cache

from raypipe.attributes.schema import Attribute
from raypipe.config.models import AnswerFormat
from raypipe.errors import Reason

# Part of every fingerprint that depends on what a chain answers.
PARSER_VERSION = "tags-v1"


class ChainReason(Reason):
    """Why a chain has an answer or none, the first that applies."""


OK = ChainReason("ok", "it answers exactly one allowed value")
TRUNCATED = ChainReason("truncated", "the engine cut it off: token limit or abort")
MALFORMED = ChainReason("malformed", "not one closed <answer> after one closed <reasoning>")
SPILLED = ChainReason("spilled", "text goes on after </answer>")
OUT_OF_SCHEMA = ChainReason("out_of_schema", "it answers none of the allowed values and aliases")
MISSING = ChainReason("missing", "the engine never returned it")


def chain_losses() -> list[ChainReason]:
    """The reasons why a requested chain does not vote."""
    return [reason for reason in ChainReason.declared.values() if reason != OK]


@dataclass(frozen=True, slots=True)
class Answer:
    """The allowed value that a chain resolves to, or None and the reason why not."""

    value: str | None
    reason: ChainReason


_NO_ANSWER = {reason: Answer(None, reason) for reason in chain_losses()}
_ANSWER_TAGS = ("<answer>", "</answer>")
_REASONING_TAGS = ("<reasoning>", "</reasoning>")


def parse(
    text: str, finish_reason: str, attribute: Attribute, answer_format: AnswerFormat
) -> Answer:
    """Read the answer out of a chain.

    A truncated chain has no answer even when the answer's tags are complete: it did not end where
    the model would have ended it, it is never chosen, and so it does not vote either. Words such
    as "None" and "0" are values like any other.

    Args:
        text: the completion, without control tokens.
        finish_reason: as the engine gave it; only "stop" is an end of the model's own.
        attribute: the attribute that was asked for, with its allowed values and aliases.
        answer_format: "reasoning" wants one closed ``<reasoning>`` before the answer;
            "answer_only" does not ask for one.
    """
    if finish_reason != "stop":
        return _NO_ANSWER[TRUNCATED]
    answer = _span(text, *_ANSWER_TAGS)
    if answer is None:
        return _NO_ANSWER[MALFORMED]
    start, end = answer
    if answer_format == "reasoning":
        reasoning = _span(text, *_REASONING_TAGS)
        if reasoning is None or reasoning[1] > start:
            return _NO_ANSWER[MALFORMED]
    if text[end + len(_ANSWER_TAGS[1]) :].strip():
        return _NO_ANSWER[SPILLED]
    return _resolved(attribute, text[start:end])


def reasoning_of(text: str) -> str | None:
    """What stands in a chain's only, closed reasoning; None without one."""
    span = _span(text, *_REASONING_TAGS)
    return text[slice(*span)].strip() if span else None


@lru_cache(maxsize=1 << 14)
def _resolved(attribute: Attribute, text: str) -> Answer:
    """Chains say the same few things over and over, and folding is most of what parsing costs."""
    value = attribute.resolve(text)
    return _NO_ANSWER[OUT_OF_SCHEMA] if value is None else Answer(value, OK)


def _span(text: str, opening: str, closing: str) -> tuple[int, int] | None:
    """Where the content of the only, closed tag starts and ends; None without one."""
    before, end = text.find(opening), text.find(closing)
    if before < 0 or end < 0 or text.rfind(opening) != before or text.rfind(closing) != end:
        return None
    start = before + len(opening)
    return (start, end) if start <= end else None
