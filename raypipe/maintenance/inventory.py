"""Everything that lies in a run, from one listing: artifacts, trainings, what writers left.

Readers of artifacts never list a directory; this is for those who look after a run.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from posixpath import dirname

import pyarrow.fs as pafs

from raypipe.errors import ArtifactError
from raypipe.store.artifacts import Run
from raypipe.store.lease import LEASES
from raypipe.store.manifest import COMMIT, Commit, File
from raypipe.store.paths import (
    COMPARED,
    DECISION,
    EXPORTS,
    LABEL_VERSION_SCOPE,
    REPLIES,
    REPORTS,
    REQUEST,
    RESULTS,
    RUN,
    RUN_EVENTS,
    SUMMARY,
    SURVEYS,
    TENSORBOARD,
    TRACKING,
    TRAININGS,
)
from raypipe.store.read_ahead import read_ahead

# <artifact>/<kind>/<attempt>/<file>, as artifacts.Attempt names them.
_ATTEMPT_FILE = re.compile(
    r"(?P<artifact>.+?)/(?:data|quarantine|files)/(?P<attempt>[0-9a-f]{12}-[0-9a-f]{8})/.+"
)
_TRAINING_FILE = re.compile(
    rf"{re.escape(TRAININGS)}/(?P<policy>.+?)/(?P<family>[0-9a-f]{{12}})/.+"
)
_BOARD_FILE = re.compile(rf"(?!{RUN_EVENTS}/){TENSORBOARD}/(?P<policy>.+)/[^/]+")
# What obstore writes on a local disk before it gives the file its name.
_HALF_CREATED = re.compile(r".+\.(?:json|html|md)#\d+")
_DOCUMENT = re.compile(
    "|".join(
        (
            *map(re.escape, (RUN, SUMMARY, RESULTS, TRACKING)),
            *(
                rf"{LABEL_VERSION_SCOPE}/{re.escape(name)}"
                for name in (REQUEST, DECISION, COMPARED)
            ),
            rf"{SURVEYS}/[0-9a-f]+\.json",
            rf"{REPLIES}/.+\.json",
        )
    )
)
# Replies to an annotation were paid for: not even a half-created one is anybody's to delete.
_NO_ARTIFACTS = (
    f"{TENSORBOARD}/",
    f"{TRAININGS}/",
    f"{EXPORTS}/",
    f"{REPORTS}/",
    "wandb/",
    f"{REPLIES}/",
    f"{LEASES}/",
    f"{SURVEYS}/",
)


@dataclass(frozen=True)
class Stored:
    """One file: its path in the run, bytes, and when it was last written (seconds of the epoch).

    ``is_elsewhere`` says that a link in the run leads to a folder out of it, and to this file.
    """

    path: str
    size: int
    modified: float
    is_elsewhere: bool = False


@dataclass(frozen=True)
class Holding:
    """An artifact as it lies there: its manifest, if it has one, and all files of all attempts.

    ``fault`` says what is wrong with an artifact that has a manifest: unreadable, or it names files
    that are gone or cut.
    """

    name: str
    commit: Commit | None
    fault: str | None
    files: tuple[Stored, ...]

    @cached_property
    def named(self) -> frozenset[str]:
        """Paths in the run that the manifest names, whichever attempt wrote them."""
        files = self.commit.files if self.commit is not None else ()
        return frozenset(f"{self.name}/{file.path}" for file in files)

    @property
    def unnamed(self) -> tuple[Stored, ...]:
        """Files that no manifest names."""
        return tuple(file for file in self.files if file.path not in self.named)

    @property
    def is_open(self) -> bool:
        """Whether it is still to be committed."""
        return self.commit is None and self.fault is None

    @property
    def written(self) -> float | None:
        """When a file of it was last written; None without files."""
        return max((file.modified for file in self.files), default=None)


@dataclass(frozen=True)
class Inventory:
    """What a run holds. ``trainings`` are checkpoints and ``boards`` what trainings tell
    TensorBoard, by policy; ``half_created`` are files that a kill kept from getting their name;
    ``documents`` are paths of JSON files beside the artifacts."""

    holdings: Mapping[str, Holding]
    trainings: Mapping[str, tuple[Stored, ...]]
    boards: Mapping[str, tuple[Stored, ...]]
    half_created: tuple[Stored, ...]
    documents: tuple[str, ...] = ()

    def commit_of(self, name: str) -> Commit | None:
        """The manifest of an artifact that is whole."""
        holding = self.holdings.get(name)
        return None if holding is None or holding.fault else holding.commit


def take_inventory(run: Run) -> Inventory:
    """List a run and read its manifests; a broken one is a fault of its holding, not an error."""
    files: dict[str, list[Stored]] = {}
    trainings: dict[str, list[Stored]] = {}
    boards: dict[str, list[Stored]] = {}
    half_created, manifests = [], set[str]()
    documents: list[str] = []
    for stored in _listed(run):
        if _DOCUMENT.fullmatch(stored.path):
            documents.append(stored.path)
        if found := _TRAINING_FILE.fullmatch(stored.path):
            trainings.setdefault(found["policy"], []).append(stored)
        elif found := _BOARD_FILE.fullmatch(stored.path):
            boards.setdefault(found["policy"], []).append(stored)
        elif stored.path.startswith(_NO_ARTIFACTS):
            continue
        elif found := _ATTEMPT_FILE.fullmatch(stored.path):
            files.setdefault(found["artifact"], []).append(stored)
        elif stored.path.endswith(f"/{COMMIT}"):
            manifests.add(stored.path.removesuffix(f"/{COMMIT}"))
        elif _HALF_CREATED.fullmatch(stored.path):
            half_created.append(stored)
    names = sorted(files.keys() | manifests)
    reads = (
        (0, partial(_holding, run, name, files.get(name, []), name in manifests)) for name in names
    )
    holdings = {holding.name: holding for holding in read_ahead(reads)}
    return Inventory(
        {name: _with_parts(holding, holdings) for name, holding in holdings.items()},
        {name: tuple(found) for name, found in sorted(trainings.items())},
        {name: tuple(found) for name, found in sorted(boards.items())},
        tuple(half_created),
        tuple(sorted(documents)),
    )


def _listed(run: Run) -> list[Stored]:
    selector = pafs.FileSelector(run.root, recursive=True, allow_not_found=True)
    prefix = f"{run.root.rstrip('/')}/"
    found = [info for info in run.filesystem.get_file_info(selector) if info.is_file]
    folders = {dirname(info.path) for info in found} if run.is_local else set()
    root = Path(run.root).resolve()
    elsewhere = {folder for folder in folders if not Path(folder).resolve().is_relative_to(root)}
    return [
        Stored(
            info.path.removeprefix(prefix),
            info.size,
            modified(info),
            dirname(info.path) in elsewhere,
        )
        for info in found
    ]


def modified(info: pafs.FileInfo) -> float:
    """When a file was last written; for ever young where its storage does not say."""
    return math.inf if info.mtime_ns is None else float(info.mtime_ns) / 1e9


def _holding(run: Run, name: str, files: list[Stored], has_manifest: bool) -> Holding:
    stored = tuple(sorted(files, key=lambda file: file.path))
    try:
        # Manifests are read after the listing: what a writer commits meanwhile is named.
        commit = run.artifact(name).commit()
    except ArtifactError as error:
        return Holding(name, None, str(error), stored)
    if commit is None:
        gone = f"{name}: its manifest is gone" if has_manifest else None
        return Holding(name, None, gone, stored)
    sizes = {file.path: file.size for file in stored}
    absent = [file for file in commit.files if sizes.get(f"{name}/{file.path}") != file.size]
    return Holding(name, commit, _fault(run, name, absent), stored)


def _with_parts(holding: Holding, holdings: Mapping[str, Holding]) -> Holding:
    """An artifact with what is wrong with the parts that it consists of."""
    for part in holding.commit.parts if holding.commit is not None else ():
        found = holdings.get(part.name)
        if found is None or found.commit is None or found.commit.digest != part.digest:
            return replace(holding, fault=f"{holding.name}: its part {part.name} is not there")
        if found.fault is not None:
            return replace(holding, fault=f"{holding.name}: {found.fault}")
    return holding


def _fault(run: Run, name: str, absent: list[File]) -> str | None:
    """What is wrong with files that the listing has not shown as the manifest has them.

    They may have been written after it; so they are asked for once more.
    """
    found = run.filesystem.get_file_info([run.path(name, file.path) for file in absent])
    for file, info in zip(absent, found, strict=True):
        if not info.is_file:
            return f"{name}/{file.path} is missing"
        if info.size != file.size:
            return f"{name}/{file.path} has {info.size:,} bytes instead of {file.size:,}"
    return None
