"""Labels are made in generations: ``labels/000001``, ``labels/000002``, …

A generation belongs to one request: which catalog, which policy, which precision. The same request
resumes or repeats its generation; another one begins the next, and takes over from the last
finished one what has not changed. A table that has moved on does not make another request while the
newest generation is unfinished: it is finished first, at the snapshot that it was begun with.
"""

import json
import logging
import re
from collections import Counter
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.fs as pafs

from raypipe.artifacts import Artifact, Run
from raypipe.errors import ArtifactError
from raypipe.manifest import Fingerprint, plain
from raypipe.schemas import LABELS

logger = logging.getLogger("raypipe.labeling")
REQUEST = "request.json"
_GENERATION = re.compile(r"\d{6}")


@dataclass(frozen=True)
class Generation:
    """One generation: its scope in the run, and the finished one before it."""

    scope: str
    previous: Artifact | None

    def labels(self, run: Run) -> Artifact:
        return run.artifact(f"{self.scope}/labels", LABELS)


def open_generation(run: Run, request: Fingerprint) -> Generation:
    """The generation of this request, or the next one."""
    scopes = generations(run)
    for scope in reversed(scopes):
        if _request(run, scope) == plain(request):
            return Generation(scope, newest(run, scopes[: scopes.index(scope)]))
    # Of those that were deleted none leaves its number to another request.
    number = max((int(scope.rpartition("/")[2]) for scope in scopes), default=0) + 1
    while not run.create(f"labels/{number:06d}/{REQUEST}", _encoded(request)):
        number += 1  # another driver was faster; its request is another one
    return Generation(f"labels/{number:06d}", newest(run, scopes))


def unfinished(run: Run, request: Fingerprint) -> tuple[str, Any] | None:
    """The newest generation and the ``listings`` of its request, when it has no labels yet and its
    request is this one, in which they are left out."""
    scopes = generations(run)
    if not scopes or newest(run, scopes[-1:]) is not None:
        return None
    begun = _request(run, scopes[-1]) or {}
    listings = begun.pop("listings", None)
    return (scopes[-1], listings) if begun == plain(request) else None


def made_for(run: Run, recipe: str) -> str | None:
    """The versions that the newest generation of this recipe was labeled again for; None when it
    never was."""
    for scope in reversed(generations(run)):
        request = _request(run, scope) or {}
        if request.get("recipe") == recipe:
            versions = request.get("made_for")
            return None if versions is None else str(versions)
    return None


def _request(run: Run, scope: str) -> dict[str, Any] | None:
    """What a generation was begun for; None where nobody can tell."""
    try:
        return run.read_json(f"{scope}/{REQUEST}")
    except ArtifactError as error:
        logger.warning("%s; %s stays as it is, and is nobody's to resume", error, scope)
        return None


def generations(run: Run) -> list[str]:
    """The scopes of all generations, oldest first."""
    selector = pafs.FileSelector(run.path("labels"), allow_not_found=True)
    names = (info.base_name for info in run.filesystem.get_file_info(selector))
    return [f"labels/{name}" for name in sorted(names) if _GENERATION.fullmatch(name)]


def newest(run: Run, scopes: list[str]) -> Artifact | None:
    """The labels of the last of these generations that is finished."""
    for scope in reversed(scopes):
        artifact = run.artifact(f"{scope}/labels", LABELS)
        if artifact.commit() is not None:
            return artifact
    return None


def unchanged(previous: Artifact | None, keys: pa.Table) -> pa.Array:
    """The listings whose labels of the previous generation still hold.

    Args:
        keys: ``listing_id`` and ``label_key`` of every listing now.
    """
    if previous is None:
        return pa.array([], pa.string())
    known = pa.concat_tables(
        table.group_by(["listing_id", "label_key"]).aggregate([])
        for table in previous.read_files(["listing_id", "label_key"])
    )
    same = keys.join(known, ["listing_id", "label_key"], join_type="inner")
    return pc.unique(same.column("listing_id"))


def outdated(previous: Artifact, kept: pa.Array, versions: str) -> Counter[str]:
    """Of the labels of ``kept`` listings, how many were made with which other versions."""
    found: Counter[str] = Counter()
    for table in previous.read_files(["listing_id", "versions"]):
        others = pc.not_equal(table.column("versions"), versions)
        mask = pc.and_(others, pc.is_in(table.column("listing_id"), kept))
        for count in pc.value_counts(table.filter(mask).column("versions")).to_pylist():
            found[count["values"]] += count["counts"]
    return found


def _encoded(request: Fingerprint) -> bytes:
    return json.dumps(dict[str, Any](plain(request)), indent=1).encode()
