"""The attribute schema: which attributes a vertical has and which values are allowed.

It is the user's file, so every fault in it is one line that names the file, the entry and the
remedy. The same object resolves the text of an answer to an allowed value, everywhere.
"""

import difflib
import hashlib
import json
import re
import reprlib
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.fs as pafs
import yaml

from raypipe import storage
from raypipe.errors import InputError
from raypipe.security import textfiles
from raypipe.security.identifiers import MAX_BYTES, bounded
from raypipe.store import parquet

REQUIRED_KEYS = ("vertical", "attribute", "description", "values")
KNOWN_KEYS = (*REQUIRED_KEYS, "aliases")
_LONGEST_WORD = 100  # of which the nearest known one is looked for

# What neutralise() adds, and what invisibly differs between copies of the same text: soft hyphen,
# zero-width space, word joiner, byte order mark.
_INVISIBLE = re.compile("[\u00ad\u200b\u2060\ufeff]")
_GAP = re.compile("[\\s\\-_\u2010-\u2015\u2212]+")


@lru_cache(maxsize=1 << 14)  # chains say the same few things over and over
def fold(text: str) -> str:
    """The form in which two spellings of one value are equal.

    Compatibility-normalised and case-folded; runs of spaces, hyphens and underscores become one
    space; invisible characters and the punctuation and space at both ends are dropped. Folding
    twice changes nothing.
    """
    decomposed = unicodedata.normalize("NFKD", _INVISIBLE.sub("", text))
    folded = _GAP.sub(" ", unicodedata.normalize("NFKC", decomposed.casefold()))
    start, end = 0, len(folded)
    while start < end and _is_edge(folded[start]):
        start += 1
    while end > start and _is_edge(folded[end - 1]):
        end -= 1
    return folded[start:end]


def _is_edge(character: str) -> bool:
    return character in " `" or unicodedata.category(character).startswith("P")


@dataclass(frozen=True)
class Attribute:
    """One attribute of one vertical.

    ``values`` are in the order in which they are asked; ``aliases`` maps other spellings to them.
    """

    vertical: str
    name: str
    description: str
    values: tuple[str, ...]
    aliases: Mapping[str, str] = field(default_factory=dict, hash=False)

    @cached_property
    def _by_fold(self) -> dict[str, str]:
        aliases = {fold(alias): value for alias, value in self.aliases.items()}
        return aliases | {fold(value): value for value in self.values}

    @cached_property
    def version(self) -> str:
        """Twelve hex digits that change with anything that is said of the attribute here."""
        canonical = json.dumps(
            [self.vertical, self.name, self.description, self.values, sorted(self.aliases.items())]
        )
        return hashlib.blake2b(canonical.encode(), digest_size=6).hexdigest()

    def __hash__(self) -> int:
        return hash(self.version)  # which a string keeps, and a tuple of strings does not

    def resolve(self, text: str) -> str | None:
        """The allowed value that ``text``, whole, folds to; None when there is none."""
        return self._by_fold.get(fold(text))


@dataclass(frozen=True)
class AttributeSchema:
    """All attributes, in the order of the user's file."""

    entries: tuple[Attribute, ...]

    @cached_property
    def _by_vertical(self) -> dict[str, dict[str, Attribute]]:
        grouped: dict[str, dict[str, Attribute]] = {}
        for entry in self.entries:
            grouped.setdefault(entry.vertical, {})[entry.name] = entry
        return grouped

    @property
    def verticals(self) -> tuple[str, ...]:
        return tuple(self._by_vertical)

    def attributes(self, vertical: str) -> tuple[Attribute, ...]:
        """The attributes of a vertical. Raises InputError for a vertical that is not there."""
        if vertical not in self._by_vertical:
            raise InputError(f"unknown vertical '{vertical}'{_nearest(vertical, self.verticals)}")
        return tuple(self._by_vertical[vertical].values())

    def get(self, vertical: str, name: str) -> Attribute:
        """One attribute. Raises InputError when the vertical or the attribute is not there."""
        found = {entry.name: entry for entry in self.attributes(vertical)}
        if name not in found:
            raise InputError(
                f"vertical '{vertical}' has no attribute '{name}'{_nearest(name, tuple(found))}"
            )
        return found[name]

    def to_json(self) -> list[dict[str, Any]]:
        """The entries as plain values, in the form that :meth:`from_json` and the YAML take."""
        return [
            {
                "vertical": entry.vertical,
                "attribute": entry.name,
                "description": entry.description,
                "values": list(entry.values),
                "aliases": dict(entry.aliases),
            }
            for entry in self.entries
        ]

    @classmethod
    def from_json(cls, entries: object, source: str = "attribute schema") -> "AttributeSchema":
        """Check plain entries and make the schema of them.

        Args:
            entries: a list of mappings, or ``{"attributes": [...]}`` around one.
            source: the file's name, for messages.

        Raises:
            InputError: the first fault, with the file, the entry and the remedy.
        """
        if isinstance(entries, Mapping) and set(entries) == {"attributes"}:
            entries = entries["attributes"]
        if not isinstance(entries, Sequence) or isinstance(entries, str) or not entries:
            raise InputError(
                f"{source}: expected a list of entries, each with {', '.join(KNOWN_KEYS)}"
            )
        parsed: dict[tuple[str, str], Attribute] = {}
        for index, entry in enumerate(entries, start=1):
            attribute = _attribute(entry, f"{source}: entry {index}")
            key = (attribute.vertical, attribute.name)
            if key in parsed:
                raise InputError(
                    f"{source}: entry {index} ({key[0]}/{key[1]}): the attribute is there twice; "
                    "merge the two entries"
                )
            parsed[key] = attribute
        return cls(tuple(parsed.values()))


def load_attribute_schema(path: str) -> AttributeSchema:
    """Read a schema from YAML, or from Parquet when the file's name ends in ``.parquet``.

    Args:
        path: local path or a URI that pyarrow.fs opens.

    Raises:
        InputError: unreadable file, missing or unknown key, a duplicate attribute, an attribute
            without values, two values or aliases that fold to the same text, an alias to an
            unknown value, an unquoted boolean.
        StorageError: the storage is out of reach.
    """
    try:
        location = path if "://" in path else str(Path(path).resolve())
        filesystem, name = pafs.FileSystem.from_uri(location)
        if path.endswith(".parquet"):
            return AttributeSchema.from_json(_parquet_entries(filesystem, name), path)
        with filesystem.open_input_stream(name) as stream:
            content = stream.read(textfiles.MAX_YAML_BYTES + 1)
    except (OSError, pa.ArrowException) as error:
        unknown = InputError(f"cannot read the attribute schema {path}: {error}")
        raise storage.unreadable(path, error, unknown) from error
    try:
        entries = textfiles.parse_yaml(content, _TextLoader)
    except textfiles.MalformedError as error:
        raise InputError(f"{path} is not YAML: {error}") from error
    return AttributeSchema.from_json(entries, path)


def _attribute(entry: object, place: str) -> Attribute:
    if not isinstance(entry, Mapping):
        known = ", ".join(KNOWN_KEYS)
        raise InputError(f"{place}: expected keys {known}, found {reprlib.repr(entry)}")
    for key in entry:
        if key not in KNOWN_KEYS:
            raise InputError(f"{place}: unknown key '{key}'{_nearest(str(key), KNOWN_KEYS)}")
    for key in REQUIRED_KEYS:
        if key not in entry:
            raise InputError(f"{place}: the key '{key}' is missing")
    vertical = _name(entry["vertical"], f"{place}: vertical")
    name = _name(entry["attribute"], f"{place}: attribute")
    place = f"{place} ({vertical}/{name})"
    if entry["values"] is not None and not isinstance(entry["values"], list | tuple):
        raise InputError(f"{place}: values must be a list, found {reprlib.repr(entry['values'])}")
    values = tuple(_name(value, f"{place}: value") for value in entry["values"] or ())
    if not values:
        raise InputError(f"{place}: no values; list the allowed values or remove the entry")
    aliases = _aliases(entry.get("aliases"), place)
    _refuse_ambiguity(values, aliases, place)
    description = _text(entry["description"], f"{place}: description")
    return Attribute(vertical, name, description, values, aliases)


def _aliases(given: object, place: str) -> dict[str, str]:
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        raise InputError(
            f"{place}: aliases must map each alias to a value, found {reprlib.repr(given)}"
        )
    return {
        _name(alias, f"{place}: alias"): _text(value, f"{place}: value of alias '{alias}'")
        for alias, value in given.items()
    }


def _refuse_ambiguity(values: tuple[str, ...], aliases: Mapping[str, str], place: str) -> None:
    seen: dict[str, str] = {}
    for kind, text in [*(("value", v) for v in values), *(("alias", a) for a in aliases)]:
        folded = fold(text)
        if not folded:
            raise InputError(
                f"{place}: {kind} '{text}' is nothing but punctuation or space; spell it out"
            )
        if folded in seen:
            raise InputError(
                f"{place}: {kind} '{text}' and {seen[folded]} are the same text after folding "
                "case, spaces, hyphens and outer punctuation; keep one"
            )
        seen[folded] = f"{kind} '{text}'"
    for alias, value in aliases.items():
        if value not in values:
            raise InputError(
                f"{place}: alias '{alias}' points to '{value}', which is not among the values"
                f"{_nearest(value, values)}"
            )


def _text(given: object, place: str) -> str:
    """Text as given; numbers become text, booleans and nulls do not."""
    if isinstance(given, bool):
        raise InputError(f"{place}: {given} is a boolean; put the word in quotes, such as 'yes'")
    if given is None:
        raise InputError(f"{place}: is empty; write a text, in quotes if it reads like null")
    if not isinstance(given, str | int | float):
        raise InputError(f"{place}: expected text, found {reprlib.repr(given)}")
    text = str(given).strip()
    if not text:
        raise InputError(f"{place}: is empty; write a text")
    return text


def _name(given: object, place: str) -> str:
    """A text that rows are compared with."""
    text = _text(given, place)
    if bounded(text) != text:
        raise InputError(
            f"{place}: '{bounded(text)}' is longer than {MAX_BYTES} bytes or holds a NUL"
        )
    return text


def _nearest(word: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(word[:_LONGEST_WORD], known, n=1, cutoff=0.0)
    return f"; the nearest known one is '{near[0]}'" if near else ""


class _TextLoader(yaml.SafeLoader):
    """YAML in which numbers and dates stay the text they are ('010', '12:30', '1.50')."""


_NOT_TEXT = {f"tag:yaml.org,2002:{kind}" for kind in ("bool", "null", "merge")}
_TextLoader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag in _NOT_TEXT]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def _parquet_entries(filesystem: pafs.FileSystem, path: str) -> list[dict[str, Any]]:
    try:
        with parquet.opened(path, filesystem) as file:
            names = file.schema_arrow.names
            missing = [name for name in REQUIRED_KEYS if name not in names]
            if missing:
                raise InputError(f"{path}: the column '{missing[0]}' is missing")
            unknown = [name for name in names if name not in KNOWN_KEYS]
            if unknown:
                near = _nearest(unknown[0], KNOWN_KEYS)
                raise InputError(f"{path}: unknown column '{unknown[0]}'{near}")
            rows = file.read().to_pylist()
    except (pa.ArrowException, OSError, ValueError, OverflowError) as error:
        corrupt = InputError(f"{path} is not a readable Parquet file: {error}")
        raise storage.unreadable(path, error, corrupt) from error
    return [
        {key: _plain_aliases(value) if key == "aliases" else value for key, value in row.items()}
        for row in rows
    ]


def _plain_aliases(given: object) -> object:
    """A map or a list of (alias, value) structs as a dict; a struct's absent fields dropped."""
    if isinstance(given, Mapping):
        return {alias: value for alias, value in given.items() if value is not None}
    if not isinstance(given, list):
        return given
    return dict(_alias_pairs(given))


def _alias_pairs(given: Sequence[Any]) -> Iterator[tuple[Any, Any]]:
    for pair in given:
        if isinstance(pair, Mapping):
            pair = tuple(pair.get(name) for name in ("alias", "value"))
        yield pair
