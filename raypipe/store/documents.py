"""Reads JSON documents of a run; any fault becomes a one-line error.

A document may be truncated, empty, binary, nested too deeply, or of the wrong shape.
"""

import json
from typing import Any

from raypipe.errors import ArtifactError

_LONGEST = 300


def parse_document(content: bytes, place: str, remedy: str = "") -> Any:
    """The value of a JSON document.

    Args:
        place: what the error names.
        remedy: what to do about a broken one, as the end of the message.

    Raises:
        ArtifactError: it is not JSON.
    """
    try:
        return json.loads(content)
    except RecursionError:
        raise unreadable_document(place, "nested too deeply", remedy) from None
    except ValueError as error:  # JSONDecodeError and UnicodeDecodeError among them
        raise unreadable_document(place, error if content else "empty", remedy) from error


def parse_object(content: bytes, place: str, remedy: str = "") -> dict[str, Any]:
    """The same for a document that must be an object."""
    values = parse_document(content, place, remedy)
    if not isinstance(values, dict):
        raise unreadable_document(place, "not an object", remedy)
    return values


def unreadable_document(place: str, fault: object, remedy: str = "") -> ArtifactError:
    """The error for a document that is broken."""
    detail = " ".join((str(fault) or type(fault).__name__).split())[:_LONGEST]
    return ArtifactError(f"{place} is unreadable: {detail}{f'; {remedy}' if remedy else ''}")
