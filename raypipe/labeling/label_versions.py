"""Labels are kept in versions: ``labels/000001``, ``labels/000002``, …

A label version belongs to one request: a catalog, a policy and a mode. The same request resumes its
label version; another request begins the next one, which copies what has not changed from the last
finished one. Which of its labels are published is a decision below it, one for each precision;
``decision.json`` names the current one. While the newest label version is unfinished, a newer
snapshot of its table is no new request: the version is finished first, at the snapshot it was begun
with.
"""

import json
import logging
import re
from dataclasses import dataclass
from typing import Any

import pyarrow.fs as pafs

from raypipe.attributes.publishing import CurrentDecision, PublishingRule
from raypipe.errors import ArtifactError
from raypipe.schemas import LABELS
from raypipe.store.artifacts import Artifact, Run
from raypipe.store.manifest import Fingerprint, plain_fingerprint
from raypipe.store.paths import LABEL_VERSION_SCOPE, LABELS_ROOT, Paths

logger = logging.getLogger("raypipe.labeling")


@dataclass(frozen=True)
class LabelVersion:
    """One label version: its scope in the run, and the finished one before it."""

    scope: str
    previous: Artifact | None

    def labels(self, run: Run) -> Artifact:
        return run.artifact(Paths(self.scope).labels, LABELS)


def open_label_version(run: Run, request: Fingerprint) -> LabelVersion:
    """The label version of this request, or the next one."""
    scopes = label_versions(run)
    for scope in reversed(scopes):
        if _request(run, scope) == plain_fingerprint(request):
            return LabelVersion(scope, newest(run, scopes[: scopes.index(scope)]))
    # Of those that were deleted none leaves its number to another request.
    number = max((int(scope.rpartition("/")[2]) for scope in scopes), default=0) + 1
    while not run.create(Paths.of_label_version(number).request, _encoded(request)):
        number += 1  # another driver was faster; its request is another one
    return LabelVersion(Paths.of_label_version(number), newest(run, scopes))


def unfinished(run: Run, request: Fingerprint) -> tuple[str, Any] | None:
    """The newest label version and the ``listings`` of its request, when it has no labels yet
    and its request is this one, in which they are left out."""
    scopes = label_versions(run)
    if not scopes or newest(run, scopes[-1:]) is not None:
        return None
    begun = _request(run, scopes[-1]) or {}
    listings = begun.pop("listings", None)
    return (scopes[-1], listings) if begun == plain_fingerprint(request) else None


def made_for(run: Run, recipe: str) -> str | None:
    """The versions that the newest label version of this recipe was labeled again for; None when it
    never was."""
    for scope in reversed(label_versions(run)):
        request = _request(run, scope) or {}
        if request.get("recipe") == recipe:
            versions = request.get("made_for")
            return None if versions is None else str(versions)
    return None


def request_of(run: Run, scope: str) -> dict[str, Any]:
    """What a label version was begun for; empty where it cannot be read."""
    return _request(run, scope) or {}


def _request(run: Run, scope: str) -> dict[str, Any] | None:
    """:func:`request_of`, but None where it cannot be read."""
    try:
        return run.read_json(Paths(scope).request)
    except ArtifactError as error:
        logger.warning("%s; %s stays as it is and cannot be resumed", error, scope)
        return None


def label_versions(run: Run) -> list[str]:
    """The scopes of all label versions, oldest first."""
    selector = pafs.FileSelector(run.path(LABELS_ROOT), allow_not_found=True)
    names = (info.base_name for info in run.filesystem.get_file_info(selector))
    scopes = (f"{LABELS_ROOT}/{name}" for name in sorted(names))
    return [scope for scope in scopes if re.fullmatch(LABEL_VERSION_SCOPE, scope)]


def newest(run: Run, scopes: list[str]) -> Artifact | None:
    """The labels of the last of these label versions that is finished."""
    for scope in reversed(scopes):
        artifact = run.artifact(Paths(scope).labels, LABELS)
        if artifact.commit() is not None:
            return artifact
    return None


def set_decision(run: Run, scope: str, digest: str) -> bool:
    """Make a committed decision the current one of a label version with labels; whether it was not
    yet."""
    decision = CurrentDecision(digest=digest[:12])
    content = json.dumps(decision.to_json(), indent=1).encode()
    if run.read(Paths(scope).decision) == content:
        return False
    run.replace(Paths(scope).decision, content)
    return True


def newest_published(run: Run) -> tuple[Artifact, PublishingRule] | None:
    """The labels of the newest label version that has a decision, and its current rule; None
    without one. Raises ArtifactError when the decision cannot be read."""
    for scope in reversed(label_versions(run)):
        content = run.read(Paths(scope).decision)
        if content is not None:
            current = CurrentDecision.parse(content, run.path(Paths(scope).decision))
            decision = Paths.of_decision(scope, current.digest)
            rule = PublishingRule.of(run.artifact(decision.calibration))
            return run.artifact(Paths(scope).labels, LABELS), rule
    return None


def _encoded(request: Fingerprint) -> bytes:
    return json.dumps(dict[str, Any](plain_fingerprint(request)), indent=1).encode()
