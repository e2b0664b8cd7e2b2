"""The manifest of an artifact: its files, its digest, and what it was made from.

A manifest holds the sha256 of every file it names and of its own other values, and is accepted only
if its bytes are exactly those that its values encode to.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from functools import cache
from importlib import metadata
from typing import Any, Literal

from pydantic import TypeAdapter

from raypipe.store.documents import parse_object, unreadable_document

COMMIT = "_COMMIT.json"
MANIFEST_VERSION = 3
_UNSEALED = 2  # the last version that does not hold its own sha256
_CHECKSUM = "sha256"
_VERSIONS = "versions."
_PART = re.compile(r"(?!\.{1,2}$)[^/\\\x00-\x1f]{1,255}")  # of a path: one name, not '.' or '..'
RESTORE = (
    "restore it from a copy, or delete the artifact and what was made from it, and run the same "
    "command again"
)
"""The remedy for a damaged artifact."""
FileKind = Literal["data", "quarantine", "files"]
Fingerprint = Mapping[str, Any]


@dataclass(frozen=True)
class File:
    """One immutable file of a committed artifact; ``path`` is relative to the artifact."""

    path: str
    kind: FileKind
    size: int
    sha256: str
    rows: int | None = None


@dataclass(frozen=True)
class CommittedPart:
    """A committed artifact that is part of a larger one; ``files`` are relative to it."""

    name: str
    digest: str
    files: tuple[File, ...]
    rows: int
    quarantined: int
    counts: dict[str, Any]

    @classmethod
    def of(cls, commit: "Commit") -> "CommittedPart":
        """The entry of a committed artifact."""
        return cls(
            commit.artifact,
            commit.digest,
            commit.files,
            commit.rows,
            commit.quarantined,
            commit.counts,
        )


@dataclass(frozen=True)
class Commit:
    """A manifest: what an artifact holds and what it was made from.

    An artifact in ``parts`` has no files of its own: its rows are those of its parts.
    """

    artifact: str
    digest: str
    files: tuple[File, ...]
    rows: int
    quarantined: int
    fingerprint: dict[str, Any]
    counts: dict[str, Any]
    seconds: float
    attempt: str
    version: int = MANIFEST_VERSION
    parts: tuple[CommittedPart, ...] = ()
    # Whether the manifest existed before this job.
    reused: bool = field(default=False, compare=False)


def encode(commit: Commit) -> bytes:
    """The manifest's file."""
    values = plain_fingerprint(asdict(commit))
    del values["reused"]
    if not commit.parts:
        del values["parts"]
    return _written(values | {_CHECKSUM: _checksum(values)})


def decode(content: bytes, place: str) -> Commit:
    """The manifest that a file holds. Raises ArtifactError when it is truncated, changed, or no
    manifest; the message names ``place``."""
    values = parse_object(content, place, RESTORE)
    checksum = values.pop(_CHECKSUM, None)
    sealed = values | {_CHECKSUM: _checksum(values)}
    is_older = checksum is None and values.get("version") == _UNSEALED
    if not is_older and (checksum != sealed[_CHECKSUM] or content != _written(sealed)):
        raise unreadable_document(place, "not what was committed", RESTORE)
    try:
        parts = tuple(
            CommittedPart(**part | {"files": _files(part["files"])})
            for part in values.get("parts", ())
        )
        held = {"files": _files(values["files"]), "parts": parts, "reused": True}
        commit = Commit(**values | held)
        _validator().validate_python(values, strict=False)
        _check_places(commit)
    except (TypeError, KeyError, ValueError) as error:  # ValidationError among them
        raise unreadable_document(place, error, RESTORE) from error
    return commit


def _files(values: Iterable[dict[str, Any]]) -> tuple[File, ...]:
    return tuple(File(**file) for file in values)


@cache
def _validator() -> TypeAdapter[Commit]:
    return TypeAdapter(Commit)


def _check_places(commit: Commit) -> None:
    """Check that no path in a manifest leads out of the artifact's directory.

    Raises:
        ValueError: one does.
    """
    if not (_PART.fullmatch(commit.digest) and _PART.fullmatch(commit.attempt)):
        raise ValueError("digest or attempt is no name")
    for part in commit.parts:
        if not all(map(_PART.fullmatch, part.name.split("/"))):
            raise ValueError(f"{part.name[:100]!r} is no name of an artifact")
    for file in (*commit.files, *(file for part in commit.parts for file in part.files)):
        kind, *parts = file.path.split("/")
        if kind != file.kind or len(parts) < 2 or not all(map(_PART.fullmatch, parts)):
            raise ValueError(f"{file.path[:100]!r} is no place of a file")
        if file.size < 0:
            raise ValueError(f"{file.path[:100]!r} has no size")


def _written(values: Mapping[str, Any]) -> bytes:
    return json.dumps(values, indent=1, sort_keys=True).encode()


def _checksum(values: Mapping[str, Any]) -> str:
    return hashlib.sha256(_written(values)).hexdigest()


def versions(*packages: str) -> dict[str, str]:
    """Installed versions, for fingerprints; vLLM's CPU build counts as vLLM."""
    found: dict[str, str] = {}
    for package in packages:
        for name in (package, f"{package}-cpu"):
            try:
                found[f"{_VERSIONS}{package}"] = metadata.version(name)
                break
            except metadata.PackageNotFoundError:
                continue
    return found


def but_versions(fingerprint: Fingerprint) -> dict[str, Any]:
    """A fingerprint without the versions of packages."""
    return {key: value for key, value in fingerprint.items() if not key.startswith(_VERSIONS)}


def told_versions(fingerprint: Fingerprint) -> str:
    """The versions in a fingerprint, such as "raypipe 1.0, torch 2.13.0"."""
    found = sorted(key for key in fingerprint if key.startswith(_VERSIONS))
    return ", ".join(f"{key.removeprefix(_VERSIONS)} {fingerprint[key]}" for key in found)


def differing_keys(before: Fingerprint, now: Fingerprint) -> list[str]:
    """One line per key whose value differs between two fingerprints."""
    lines = []
    for key in sorted(set(before) | set(now)):
        old, new = before.get(key, "absent"), now.get(key, "absent")
        if old != new:
            lines.append(f"{key}: {old!r} -> {new!r}")
    return lines


def plain_fingerprint(fingerprint: Fingerprint) -> dict[str, Any]:
    """The fingerprint as it reads back from JSON, so that tuples equal lists."""
    return dict(json.loads(json.dumps(dict(fingerprint))))
