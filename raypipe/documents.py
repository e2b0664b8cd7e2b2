"""JSON documents of a run, read with one check: whatever is wrong with one is one line.

A document may be cut short, empty, not text, nested without end, or of another shape than agreed.
"""

import json
from typing import Any

from raypipe.errors import ArtifactError

_LONGEST = 300


def parse(content: bytes, place: str, remedy: str = "") -> Any:
    """The value of a JSON document.

    Args:
        place: what the error names.
        remedy: what to do about a broken one, as the end of a sentence.

    Raises:
        ArtifactError: it is no JSON.
    """
    try:
        return json.loads(content)
    except RecursionError:
        raise unreadable(place, "nested too deeply", remedy) from None
    except ValueError as error:  # JSONDecodeError and UnicodeDecodeError among them
        raise unreadable(place, error if content else "empty", remedy) from error


def parse_object(content: bytes, place: str, remedy: str = "") -> dict[str, Any]:
    """The same of a document that is an object."""
    values = parse(content, place, remedy)
    if not isinstance(values, dict):
        raise unreadable(place, "not an object", remedy)
    return values


def unreadable(place: str, fault: object, remedy: str = "") -> ArtifactError:
    """The error for a document that is broken."""
    said = " ".join((str(fault) or type(fault).__name__).split())[:_LONGEST]
    return ArtifactError(f"{place} is unreadable: {said}{f'; {remedy}' if remedy else ''}")
