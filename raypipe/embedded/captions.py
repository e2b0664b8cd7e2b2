"""What is written about a listing: which view is looked at, what is seen there, and the answer.

A caption names its view first, and everything after depends on the view: where the view hides the
attribute, the value is a guess, whatever the other photos show. So a chain's words carry the
information, guesses scatter over several chains while informative views agree, and what there is
to learn is where to look.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass

from raypipe.attributes.prompts import completion
from raypipe.config.models import AnswerFormat
from raypipe.embedded.schema import VIEWS, RenderedAttribute

_SENTENCES = (
    "The {view} view shows the {attribute}: {value}.",
    "In the {view} view the {attribute} is {value}.",
)
# The views that a noisy captioner likes to talk about, whatever it is asked.
_FONDNESS = {"detail": 1.7, "sole": 1.7, "sketch": 1.3, "box": 1.3, "folded": 1.2, "top": 0.9}


@dataclass(frozen=True)
class Noise:
    """How careless a captioner is; all are shares, 0-1."""

    looks_anywhere: float
    """Picks its view by fondness, not because it shows what is asked."""
    absent_view: float
    """Of those: talks about a view that the listing may not have."""
    wrong_value: float
    """Misreads a value that it could see."""
    broken_format: float
    """Does not keep to the format that the system prompt asks for."""


HABITS = Noise(looks_anywhere=0.9, absent_view=0.02, wrong_value=0.02, broken_format=0.05)
ANNOTATION = Noise(looks_anywhere=0.0, absent_view=0.0, wrong_value=0.05, broken_format=0.0)


@dataclass(frozen=True)
class Caption:
    reasoning: str
    answer: str


def reasoning(view: str, attribute: str, value: str, *, phrasing: int = 0) -> str:
    """One sentence that names the view first, so that what follows depends on the view."""
    sentence = _SENTENCES[phrasing % len(_SENTENCES)]
    return sentence.format(view=view, attribute=attribute.replace("_", " "), value=value)


def opening(view: str, attribute: str, *, phrasing: int = 0) -> str:
    """A completion in the asked format up to where :func:`reasoning` names the value."""
    return f"<reasoning>{reasoning(view, attribute, '', phrasing=phrasing).rstrip(' .')}"


def caption(
    entry: RenderedAttribute,
    value: str,
    views: Sequence[str],
    noise: Noise,
    lottery: random.Random,
) -> Caption:
    """One caption of an attribute.

    Args:
        value: the true value.
        views: the views that the listing's photos show.
    """
    view = _chosen_view(entry, views, noise, lottery)
    if view not in views or view not in entry.shown_in:
        told = lottery.choice(entry.values)
    elif lottery.random() < noise.wrong_value:
        told = lottery.choice([other for other in entry.values if other != value])
    else:
        told = value
    words = reasoning(view, entry.name, told, phrasing=lottery.randrange(len(_SENTENCES)))
    return Caption(words, told)


def written(
    said: Caption, noise: Noise, answer_format: AnswerFormat, lottery: random.Random
) -> str:
    """A caption as the assistant's turn, sometimes not in the format asked for."""
    if lottery.random() >= noise.broken_format:
        return completion(said.answer, said.reasoning, answer_format)
    return lottery.choice(
        [
            said.reasoning,
            f"<reasoning>{said.reasoning}</reasoning>{said.answer}",
            f"<answer>{said.answer}</answer><reasoning>{said.reasoning}</reasoning>",
            f"<reasoning>{said.reasoning}<answer>{said.answer}</answer>",
        ]
    )


def _chosen_view(
    entry: RenderedAttribute, views: Sequence[str], noise: Noise, lottery: random.Random
) -> str:
    if lottery.random() >= noise.looks_anywhere:
        informative = [view for view in views if view in entry.shown_in]
        return lottery.choice(informative or list(views))
    known: Sequence[str] = views
    if lottery.random() < noise.absent_view:
        known = VIEWS[entry.vertical]
    return lottery.choices(known, [_FONDNESS.get(view, 1.0) for view in known])[0]
