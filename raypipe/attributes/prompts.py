"""The one versioned prompt template (paper, Table 3), and the conversation that it is part of.

Two typos of the paper's table are corrected: "for >this" and the missing space before "Options".
Text that comes from data never becomes a control token of the model: :func:`neutralise` breaks
every string that a tokenizer, or our own parser, would read as one.
"""

import hashlib
import json
import re
from dataclasses import dataclass
from typing import Any

from raypipe.config.models import AnswerFormat

TEMPLATE_VERSION = "table3-v1"

SYSTEM_PROMPTS: dict[AnswerFormat, str] = {
    "reasoning": (
        "Respond in the following format:<reasoning> ... </reasoning><answer> ... </answer>"
    ),
    "answer_only": "Respond in the following format:<answer> ... </answer>",
}

# Every control token, and every tag of our parser, opens with "<" and goes on without a space, or
# is a word of capitals in brackets: [IMG], [/INST], [gMASK]. A word joiner after what opens it
# leaves the text readable and no longer matches one; the parser drops it when it folds an answer.
WORD_JOINER = "\u2060"
_BRACKETED = r"\[(?=/?[a-z]?[A-Z][A-Z0-9_]{2,}\])"
_CONTROL = re.compile(rf"<(?=[^\s{WORD_JOINER}])|{_BRACKETED}")
# In a chain only whole tokens are broken: a tag that the model misspelled stays what it wrote, and
# is trained on as such.
_TAG = r"/?(?:reasoning|answer)>"
_TOKEN = re.compile(rf"<(?=\|)|<(?!{_TAG})(?=[^\s<>{WORD_JOINER}][^\s<>]*>)|{_BRACKETED}")
# Almost every chain is of this form, without a token. Looking for tokens takes ten times as long.
_WITHOUT_TOKEN = re.compile(rf"[^<\[]*+(?:<{_TAG}[^<\[]*+)*+")


@dataclass(frozen=True)
class Question:
    """What the user prompt is made of."""

    vertical: str
    attribute: str
    description: str
    options: tuple[str, ...]


def neutralise(text: str) -> str:
    """Break every ``<|…|>``, ``<tag>`` and ``[TOKEN]`` in text that comes from data, and drop NULs.

    Doing so twice changes nothing.
    """
    return _CONTROL.sub(rf"\g<0>{WORD_JOINER}", text.replace("\0", ""))


def without_control_tokens(text: str) -> str:
    """A chain that a trainer can tokenize: with the tags of the answer format, and no other.

    A model can spell out ``<|image_pad|>`` or ``[IMG]`` letter by letter; tokenized again as the
    control token, it would refer to an image that does not exist.
    """
    if _WITHOUT_TOKEN.fullmatch(text):
        return text
    return _TOKEN.sub(rf"\g<0>{WORD_JOINER}", text)


def user_prompt(question: Question) -> str:
    """The text that follows the images in the user's turn (paper, Table 3)."""
    vertical, attribute = neutralise(question.vertical), neutralise(question.attribute)
    description = neutralise(question.description)
    options = ", ".join(_quoted(neutralise(option)) for option in question.options)
    return (
        f"what is the most suitable value for {attribute} for this {vertical}. "
        f"{description} Options: [{options}]"
    )


def _quoted(option: str) -> str:
    """As Python's list shows a text, but without escapes: the model copies what it reads."""
    line = " ".join(option.split())
    return f'"{line}"' if "'" in line and '"' not in line else f"'{line}'"


def completion(answer: str, reasoning: str | None, answer_format: AnswerFormat) -> str:
    """The assistant's turn: the target of SFT and the form that a chain should have."""
    tagged = f"<answer>{neutralise(answer)}</answer>"
    if answer_format == "answer_only":
        return tagged
    return f"<reasoning>{neutralise(reasoning or '')}</reasoning>{tagged}"


def conversation(
    prompt: str, answer_format: AnswerFormat, *, system: str | None = None
) -> list[dict[str, str]]:
    """The turns before the answer, as TRL takes them: it puts a row's images before the question.

    Args:
        system: another system prompt than the template's.
    """
    return [
        {"role": "system", "content": SYSTEM_PROMPTS[answer_format] if system is None else system},
        {"role": "user", "content": prompt},
    ]


def answer_turn(text: str) -> dict[str, str]:
    """The assistant's turn, as TRL takes it."""
    return {"role": "assistant", "content": text}


def messages(
    prompt: str, num_images: int, answer_format: AnswerFormat, *, system: str | None = None
) -> list[dict[str, Any]]:
    """:func:`conversation` for a chat template of Hugging Face, with a place for every image."""
    made: list[dict[str, Any]] = []
    for turn in conversation(prompt, answer_format, system=system):
        images = [{"type": "image"}] * (num_images if turn["role"] == "user" else 0)
        content = [*images, {"type": "text", "text": turn["content"]}]
        made.append({"role": turn["role"], "content": content})
    return made


def template_digest() -> str:
    """Changes with every word of the template, in either answer format."""
    question = Question("vertical", "attribute", "Description.", ("first", "it's", '"second"'))
    formats: list[AnswerFormat] = list(SYSTEM_PROMPTS)
    rendered = [
        [*messages(user_prompt(question), 1, form), completion("first", "reasoning", form)]
        for form in formats
    ]
    return hashlib.sha256(json.dumps(rendered).encode()).hexdigest()[:32]
