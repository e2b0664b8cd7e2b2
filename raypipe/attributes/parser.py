"""What a chain answers (paper §3.1: the value between the answer tags, or nothing).

Consensus and evaluation read chains with the same parser, so that a vote and an accuracy mean the
same thing.
"""

import re
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
_REASONING_TAGS = ("<reasoning>", "</reasoning>")


def _pattern(tags: str, until_answer: str) -> re.Pattern[str]:
    """Matches a whole chain in which each of the tags stands once; TEXT is text without them."""
    text = f"[^<]*+(?:<(?!/?(?:{tags})>)[^<]*+)*+"
    return re.compile(f"{until_answer}TEXT)</answer>(?P<after>TEXT)".replace("TEXT", text))


_PATTERNS: dict[AnswerFormat, re.Pattern[str]] = {
    "answer_only": _pattern("answer", "TEXT<answer>(?P<answer>"),
    # The reasoning may end with the first thing in the answer.
    "reasoning": _pattern(
        "reasoning|answer",
        "TEXT<reasoning>TEXT(?:</reasoning>TEXT<answer>|(?P<late><answer>))"
        "(?P<answer>(?(late)</reasoning>)",
    ),
}


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
    found = _PATTERNS[answer_format].fullmatch(text)
    if found is None:
        return _NO_ANSWER[MALFORMED]
    answer, after = found.group("answer", "after")
    if after and not after.isspace():
        return _NO_ANSWER[SPILLED]
    value = attribute.resolve(answer)
    return _NO_ANSWER[OUT_OF_SCHEMA] if value is None else _answer(value)


def reasoning_of(text: str) -> str | None:
    """What stands in a chain's only, closed reasoning; None without one."""
    span = _span(text, *_REASONING_TAGS)
    return text[slice(*span)].strip() if span else None


@lru_cache(maxsize=1 << 14)
def _answer(value: str) -> Answer:
    return Answer(value, OK)


def _span(text: str, opening: str, closing: str) -> tuple[int, int] | None:
    """Where the content of the only, closed tag starts and ends; None without one."""
    before, end = text.find(opening), text.find(closing)
    if before < 0 or end < 0 or text.rfind(opening) != before or text.rfind(closing) != end:
        return None
    start = before + len(opening)
    return (start, end) if start <= end else None
