"""A first attribute schema, drafted from what sellers say; people edit it."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

import yaml

from raypipe.ingest.survey import MAX_DISTINCT, Survey, Values

MAX_VALUES = 30
MIN_COUNT = 2
# Of the values that sellers gave, the share that the kept ones must cover.
MIN_COVERAGE = 0.5
MAX_NUMBERS = 12
MAX_LETTERS = 60
_NUMBER = re.compile(r"[-+]?\d+([.,]\d+)*")
_SILENT = ("n/a", "na", "unknown", "unspecified", "not specified", "not available", "null", "tbd")
_COLORS = (
    "Black",
    "White",
    "Grey",
    "Red",
    "Blue",
    "Green",
    "Yellow",
    "Brown",
    "Pink",
    "Multicolor",
)
_HEAD = f"""\
# What raypipe asks about your listings, drafted from what sellers say: edit it, it is yours.
#
# An entry is one question: an attribute of a vertical, a description that becomes part of the
# question, and the values that may be answered, in the order in which they are shown. Another
# spelling of a value is an alias, a line below the values: "  aliases: {{Crimson: Red}}". Case,
# spaces and hyphens do not matter.
# Keep attributes that a photo can show and values that a photo can tell apart, and let the
# description say what tells them apart.
#
# Behind a value stands how many listings have it. Values seen less than {MIN_COUNT} times and those
# beyond the {MAX_VALUES} most frequent are left out, and named where they were.
"""


@dataclass(frozen=True)
class Draft:
    """The text of a schema, how many attributes it asks, and those that it does not, with why."""

    text: str
    asked: int
    left_out: tuple[tuple[str, str, str], ...]
    invented: tuple[str, ...]


def draft_schema(survey: Survey) -> Draft:
    """Write a schema that :func:`raypipe.attributes.schema.load_attribute_schema` reads.

    A vertical of which sellers say nothing that can be asked gets one invented entry, so that its
    listings are not refused.
    """
    pieces = [_HEAD]
    asked, left_out, invented = 0, [], []
    for vertical in sorted(survey.verticals, key=lambda name: (-survey.verticals[name], name)):
        if not vertical:
            continue
        pieces.append(f"\n# ---- {_line(vertical)}: {survey.verticals[vertical]:,} listings ----\n")
        entries = 0
        for name, values in survey.attributes(vertical).items():
            reason = _unfit(values)
            if reason is not None:
                left_out.append((vertical, name, reason))
                pieces.append(f"# Not asked: {_line(name)}: {reason}.\n")
                continue
            pieces.append(_entry(vertical, name, values))
            entries += 1
        if not entries:
            invented.append(vertical)
            pieces.append(_invented(vertical))
        asked += entries
    return Draft("".join(pieces), asked, tuple(left_out), tuple(invented))


def _unfit(values: Values) -> str | None:
    """Why an attribute is no choice among a few values; None when it is one."""
    if values.overflown:
        return f"more than {MAX_DISTINCT:,} different values, so it is free text or a number"
    counted = _counted(values)
    kept = _kept(values)
    covered = sum(count for _, count in kept)
    if not counted:
        return "no value says anything"
    if len(counted) == 1:
        return f"always '{_line(counted[0][0])}'"
    if not kept:
        return "no value is there twice"
    numbers = sum(_NUMBER.fullmatch(text) is not None for text, _ in counted)
    if 2 * numbers > len(counted) and len(counted) > MAX_NUMBERS:
        return f"{len(counted):,} different numbers; ask for ranges if a photo shows them"
    if covered < MIN_COVERAGE * sum(count for _, count in counted):
        return (
            f"{len(counted):,} different values, of which the frequent ones are less than half; "
            "ask for a few groups of them if a photo shows them"
        )
    if len(kept) == 1:
        return (
            f"of {len(counted):,} different values only '{_line(kept[0][0])}' is there twice and "
            f"has no more than {MAX_LETTERS} letters, and a question needs two to choose from"
        )
    return None


def _counted(values: Values) -> list[tuple[str, int]]:
    """The most frequent spelling of each value, and how often it is there in any, most first."""
    counts = [
        (min(spellings, key=lambda text: (-spellings[text], text)), spellings.total())
        for folded, spellings in values.spellings.items()
        if folded and folded not in _SILENT
    ]
    return sorted(counts, key=lambda pair: (-pair[1], pair[0]))


def _kept(values: Values) -> list[tuple[str, int]]:
    frequent = [
        (text, count)
        for text, count in _counted(values)
        if count >= MIN_COUNT and len(text) <= MAX_LETTERS
    ]
    return frequent[:MAX_VALUES]


def _entry(vertical: str, name: str, values: Values) -> str:
    kept = _kept(values)
    known = {text for text, _ in kept}
    rare = [pair for pair in _counted(values) if pair[0] not in known]
    lines = [
        *_opening(vertical, name),
        *(f"    - {_quoted(text)}  # {count:,}" for text, count in kept),
        *_rare(rare),
    ]
    return "\n".join(lines) + "\n"


def _opening(vertical: str, name: str) -> Iterator[str]:
    words = re.sub(r"[\s_]+", " ", name).strip()
    description = f"{words[:1].upper()}{words[1:]} is the {words.lower()} of the {vertical}."
    yield f"- vertical: {_quoted(vertical)}"
    yield f"  attribute: {_quoted(name)}"
    yield f"  description: {_quoted(description)}  # edit"
    yield "  values:"


def _rare(rare: list[tuple[str, int]]) -> Iterator[str]:
    if rare:
        first = ", ".join(f"'{_line(text)}' ({count})" for text, count in rare[:5])
        more = f" and {len(rare) - 5:,} more" if len(rare) > 5 else ""
        yield f"    # left out: {first}{more}"


def _invented(vertical: str) -> str:
    lines = [
        "# AN EXAMPLE: sellers say nothing here that can be asked. Replace it with your questions.",
        *_opening(vertical, "color"),
        *(f"    - {_quoted(color)}" for color in _COLORS),
    ]
    return "\n".join(lines) + "\n"


def _quoted(text: str) -> str:
    dumped: str = yaml.safe_dump(text, default_style='"', allow_unicode=True, width=1 << 30)
    return dumped.strip()


def _line(text: str) -> str:
    """Text that fits into a comment."""
    return "".join(c if c.isprintable() else " " for c in text)[:60]
