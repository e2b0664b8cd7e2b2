"""Text of strangers that is printed: a terminal does what some characters say."""

import re

# Control characters but for tab and new line, what changes the direction of writing, and halves of
# characters, which no terminal's encoding has.
_COMMANDS = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)


def printable(text: str) -> str:
    """A text whose control characters are written out, as ``\\x1b`` is."""
    return _COMMANDS.sub(lambda found: ascii(found[0])[1:-1], text)
