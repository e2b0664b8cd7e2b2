"""The manifest that makes an artifact: its files, its digest, and what it was made from."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import metadata
from typing import Any, Literal

COMMIT = "_COMMIT.json"
MANIFEST_VERSION = 2
Kind = Literal["data", "quarantine", "files"]
Fingerprint = Mapping[str, Any]


@dataclass(frozen=True)
class File:
    """One immutable file of a committed artifact; ``path`` is relative to the artifact."""

    path: str
    kind: Kind
    size: int
    sha256: str
    rows: int | None = None


@dataclass(frozen=True)
class Commit:
    """A manifest: what an artifact holds and what it was made from."""

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
    # Whether the manifest was already there when the stage was asked for it.
    reused: bool = field(default=False, compare=False)


def versions(*packages: str) -> dict[str, str]:
    """Installed versions, for fingerprints; vLLM's CPU build counts as vLLM."""
    found: dict[str, str] = {}
    for package in packages:
        for name in (package, f"{package}-cpu"):
            try:
                found[f"versions.{package}"] = metadata.version(name)
                break
            except metadata.PackageNotFoundError:
                continue
    return found


def differing_keys(before: Fingerprint, now: Fingerprint) -> list[str]:
    """One line per key whose value differs between two fingerprints."""
    lines = []
    for key in sorted(set(before) | set(now)):
        old, new = before.get(key, "absent"), now.get(key, "absent")
        if old != new:
            lines.append(f"{key}: {old!r} -> {new!r}")
    return lines


def plain(fingerprint: Fingerprint) -> dict[str, Any]:
    """The fingerprint as it reads back from JSON, so that tuples equal lists."""
    return dict(json.loads(json.dumps(dict(fingerprint))))
