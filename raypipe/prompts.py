"""The one versioned prompt template (paper, Table 3).

Two oddities of the paper's table are mended: "for >this" and the missing space before "Options".
Text that comes from data never becomes a control token of the model: :func:`neutralise` breaks
every string that a tokenizer, or our own parser, would read as one.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

AnswerFormat = Literal["reasoning", "answer_only"]

TEMPLATE_VERSION = "table3-v1"

SYSTEM_PROMPTS: dict[AnswerFormat, str] = {
    "reasoning": (
        "Respond in the following format:<reasoning> ... </reasoning><answer> ... </answer>"
    ),
    "answer_only": "Respond in the following format:<answer> ... </answer>",
}

# Every control token, and every tag of our parser, opens with "<" and goes on without a space, or
# is a word of capitals in brackets: [IMG], [/INST], [gMASK]. A word joiner after what opens it
# leaves the text readable and no longer matches one; folding an answer drops it.
WORD_JOINER = "\u2060"
_BRACKETED = r"\[(?=/?[a-z]?[A-Z][A-Z0-9_]{2,}\])"
_CONTROL = re.compile(rf"<(?=[^\s{WORD_JOINER}])|{_BRACKETED}")
# Of a chain no more is broken than what is a whole token: a tag that the model misspelled is what
# it said, and is trained on as such.
_TAG = r"/?(?:reasoning|answer)>"
_TOKEN = re.compile(rf"<(?=\|)|<(?!{_TAG})(?=[^\s<>{WORD_JOINER}][^\s<>]*>)|{_BRACKETED}")


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
    """A chain as a trainer may tokenize it: with the tags of its form, and no other.

    A model can spell out ``<|image_pad|>`` or ``[IMG]`` letter by letter; read back as the token,
    it would ask for an image that is not there.
    """
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
    """As Python's list shows a text, but never with escapes: the model copies what it reads."""
    line = " ".join(option.split())
    return f'"{line}"' if "'" in line and '"' not in line else f"'{line}'"


def completion(answer: str, reasoning: str | None, answer_format: AnswerFormat) -> str:
    """The assistant's turn: the target of SFT and the form that a chain should have."""
    tagged = f"<answer>{neutralise(answer)}</answer>"
    if answer_format == "answer_only":
        return tagged
    return f"<reasoning>{neutralise(reasoning or '')}</reasoning>{tagged}"


def messages(prompt: str, num_images: int, answer_format: AnswerFormat) -> list[dict[str, Any]]:
    """The conversation in the chat-template form of Hugging Face: images before the question."""
    images: Sequence[dict[str, str]] = [{"type": "image"}] * num_images
    return [
        {
            "role": "system",
            "content": [{"type": "text", "text": SYSTEM_PROMPTS[answer_format]}],
        },
        {"role": "user", "content": [*images, {"type": "text", "text": prompt}]},
    ]
