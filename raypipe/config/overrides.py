"""Configuration from the command line: ``section.key=value``, with a value in YAML."""

import re
from typing import Any

from raypipe.errors import ConfigError
from raypipe.security.textfiles import MalformedError, parse_yaml

_KEY = re.compile(r"[a-z_]+(\.\w+)+")


def apply_override(values: dict[str, Any], override: str) -> None:
    """Set a key, and make the sections on the way to it. Raises ConfigError when it is malformed;
    the message names the key, and never repeats the value."""
    name, separator, text = override.partition("=")
    if not separator or not name:
        said = name if _KEY.fullmatch(name) else "what is given"
        raise ConfigError(f"'{said}{separator}': an override reads section.key=value")
    *sections, key = name.split(".")
    here = values
    for section in sections:
        inner = here.setdefault(section, {})
        if inner is None:
            inner = here[section] = {}
        if not isinstance(inner, dict):
            raise ConfigError(f"'{name}': {section} has no keys of its own")
        here = inner
    try:
        here[key] = _value(text)
    except MalformedError:
        raise ConfigError(f"'{name}': what follows '=' is not a YAML value") from None


def _value(text: str) -> Any:
    """What YAML reads, but for 1e-4: YAML 1.1 takes it for text, a person means the number."""
    value = parse_yaml(text)
    if value != text.strip():  # not plain text: another type, or text in quotes
        return value
    try:
        return float(text)
    except ValueError:
        return value
