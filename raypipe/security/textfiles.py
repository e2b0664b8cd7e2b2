"""JSON and YAML that somebody else wrote: read within bounds, and refused with one reason.

Both formats let a few bytes ask for all the memory or stack that there is: nesting, references to
references, integers of a million digits. What is beyond the bounds is a :class:`MalformedError`.
"""

import json
import math
import re
from collections.abc import Hashable
from typing import Any

import yaml

MAX_YAML_BYTES = 1 << 24
MAX_JSON_BYTES = 1 << 29
MAX_DEPTH = 100
MAX_NODES = 1_000_000
_MAX_DIGITS = 1000
_NUMBERS = {"tag:yaml.org,2002:int", "tag:yaml.org,2002:float"}
_TOO_DEEP = f"it is nested more than {MAX_DEPTH} levels deep"
_HALF = "it holds half a character (a lone surrogate)"
_SURROGATE = re.compile("[\ud800-\udfff]")


class MalformedError(ValueError):
    """Text that is not what it should be; the message is one line."""


def parse_json(content: str | bytes) -> Any:
    """The value that a JSON text holds; NaN and Infinity, which some write, are null.

    Raises:
        MalformedError: not JSON, nested too deeply, a key that is there twice, a number that no
            computer holds, half a character.
    """
    text = _decoded(content, MAX_JSON_BYTES)
    try:
        value = json.loads(
            text, object_pairs_hook=_object, parse_int=_integer, parse_constant=lambda _: None
        )
    except RecursionError:
        raise MalformedError(_TOO_DEEP) from None
    except json.JSONDecodeError as error:
        raise MalformedError(str(error)) from error
    _check(value)
    return value


def parse_yaml(content: str | bytes, loader: type[yaml.SafeLoader] = yaml.SafeLoader) -> Any:
    """The value that one YAML document holds.

    Args:
        loader: may read scalars in another way.

    Raises:
        MalformedError: not YAML, nested too deeply, too large once its anchors are expanded, a key
            that is there twice.
    """
    text = _decoded(content, MAX_YAML_BYTES)
    try:
        reader = loader(text)
        try:
            node = reader.get_single_node()
            if node is None:
                return None
            _measured(node, {}, 0)
            return reader.construct_document(node)
        finally:
            reader.dispose()
    except RecursionError:
        raise MalformedError(_TOO_DEEP) from None
    except MalformedError:
        raise
    except yaml.YAMLError as error:
        raise MalformedError(_fault_of(error)) from None
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        # PyYAML makes of a value that is none of its tag (!!bool x, 2024-13-45) whatever comes up.
        raise MalformedError(f"a value is none of its type ({type(error).__name__})") from None


def _fault_of(error: yaml.YAMLError) -> str:
    """What is wrong and where; PyYAML's own words repeat the line, which may hold a secret."""
    mark = getattr(error, "problem_mark", None)
    where = f", line {mark.line + 1}, column {mark.column + 1}" if mark is not None else ""
    return f"{getattr(error, 'problem', None) or type(error).__name__}{where}"


def _decoded(content: str | bytes, limit: int) -> str:
    if len(content) > limit:
        raise MalformedError(f"it has more than {limit >> 20} MiB")
    if isinstance(content, bytes):
        try:
            content = content.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise MalformedError(f"it is not UTF-8 text: {error}") from error
    return content.removeprefix("\ufeff")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise MalformedError(f"the key '{twice[:100]}' is there twice")
    return value


def _integer(digits: str) -> int:
    if len(digits) > _MAX_DIGITS:
        raise MalformedError(f"it holds a number of {len(digits):,} digits")
    return int(digits)


def _check(value: Any, depth: int = 0) -> None:
    """Refuse half characters, infinite numbers and deep nesting."""
    if depth > MAX_DEPTH:
        raise MalformedError(_TOO_DEEP)
    if isinstance(value, str):
        if _SURROGATE.search(value):
            raise MalformedError(_HALF)
    elif isinstance(value, float):
        if not math.isfinite(value):
            raise MalformedError("it holds a number that is too large")
    elif isinstance(value, dict):
        for key, inner in value.items():
            _check(key, depth + 1)
            _check(inner, depth + 1)
    elif isinstance(value, list):
        for inner in value:
            _check(inner, depth + 1)


def _measured(
    node: yaml.Node, known: dict[int, tuple[int, int] | None], depth: int
) -> tuple[int, int]:
    """Values and levels of a node once its anchors are expanded; each is looked at once."""
    if id(node) not in known:
        known[id(node)] = None
        count, height = 1, 0
        for part in _parts(node):
            inner = _measured(part, known, depth + 1)
            count, height = count + inner[0], max(height, inner[1] + 1)
            if count > MAX_NODES:
                raise MalformedError(f"its anchors expand to more than {MAX_NODES:,} values")
        known[id(node)] = count, height
    size = known[id(node)]
    if size is None:
        raise MalformedError("an anchor refers to itself")
    if depth + size[1] > MAX_DEPTH:
        raise MalformedError(_TOO_DEEP)
    return size


def _parts(node: yaml.Node) -> list[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        _check_keys(node)
        return [part for pair in node.value for part in pair]
    if isinstance(node, yaml.SequenceNode):
        return list(node.value)
    if _SURROGATE.search(node.value):
        raise MalformedError(_HALF)
    if node.tag in _NUMBERS and len(node.value) > _MAX_DIGITS:
        raise MalformedError(f"it holds a number of {len(node.value):,} digits")
    return []


def _check_keys(node: yaml.MappingNode) -> None:
    seen: set[Hashable] = set()
    for key, _ in node.value:
        name = (key.tag, key.value) if isinstance(key, yaml.ScalarNode) else id(key)
        if name in seen:
            line = key.start_mark.line + 1
            raise MalformedError(f"the key '{str(key.value)[:100]}' is there twice, in line {line}")
        seen.add(name)
