"""What of a run nobody can ever need again.

A file goes only for a reason that holds whatever comes next: its artifact is committed and the
manifest does not name it (a salvaged file is named, though an older attempt wrote it); it is cut
short, so that salvage passes it over; or its training has its adapter. What an interrupted stage
has left whole is what the same command resumes from, and stays unless ``all_unfinished`` is asked
for. Nothing younger than a limit is touched, since a writer may be at work on it.
"""

import contextlib
import os
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from posixpath import dirname

from raypipe.errors import ArtifactError, StorageError
from raypipe.maintenance.inventory import Holding, Inventory, Stored, modified
from raypipe.store.artifacts import Run
from raypipe.store.paths import TRAININGS, Paths

ABANDONED = "not named by its manifest"
TORN = "cut short"
TRAINED = "checkpoints of a finished training"
UNFINISHED = "left by what is unfinished"
_PARQUET_END = b"PAR1"
IsTorn = Callable[[str], bool]


@dataclass(frozen=True)
class Garbage:
    """A file of the run that may go.

    Args:
        path: in the run.
        size: in bytes.
        reason: one of the constants of this module.
        subject: the artifact, training or folder that it was written for.
        within: the folder below which folders that become empty go too.
        is_artifact: whether the subject is an artifact, which may be committed meanwhile.
    """

    path: str
    size: int
    reason: str
    subject: str
    within: str
    is_artifact: bool = False


def time_of(run: Run, now: float) -> float:
    """What time it is for what lies in a run: this machine's, or its storage's if that is earlier.

    A machine whose clock is ahead would take what others write just now for old. A file is written
    and deleted to ask.

    Args:
        now: seconds of the epoch, by this machine's clock.
    """
    name = f".clock-{uuid.uuid4().hex}"
    run.replace(name, b"")
    (written,) = run.look([run.path(name)])
    run.filesystem.delete_file(run.path(name))
    return min(now, modified(written))


def find_garbage(
    inventory: Inventory, *, before: float, all_unfinished: bool, is_torn: IsTorn
) -> list[Garbage]:
    """What may go, in the order of paths.

    Args:
        before: nothing written since then (seconds of the epoch) is garbage, nor is what lies out
            of the run's directory behind a link.
        all_unfinished: also what the same command would resume from, of stages and trainings to
            which nothing was written since ``before``.
        is_torn: whether a file of the run is cut short.
    """
    found: list[Garbage] = []
    for holding in inventory.holdings.values():
        found.extend(_of_holding(holding, before, all_unfinished, is_torn))
    for policy, files in inventory.trainings.items():
        done = inventory.commit_of(Paths(policy).adapter) is not None
        if (done or all_unfinished) and all(_may_go(file, before) for file in files):
            subject, reason = f"{TRAININGS}/{policy}", TRAINED if done else UNFINISHED
            within = dirname(subject)
            found.extend(Garbage(file.path, file.size, reason, subject, within) for file in files)
    for file in inventory.half_created:
        if _may_go(file, before):
            folder = dirname(file.path)
            found.append(Garbage(file.path, file.size, TORN, folder or "the run", folder))
    return sorted(found, key=lambda garbage: garbage.path)


def _of_holding(
    holding: Holding, before: float, all_unfinished: bool, is_torn: IsTorn
) -> Iterator[Garbage]:
    if holding.fault is not None:  # somebody must look at it first
        return
    if not holding.is_open:
        yield from _old(holding, holding.unnamed, before, ABANDONED)
    elif all_unfinished and (holding.written or 0.0) <= before:
        # A driver lists all that it has written, the first hours' too: what is being
        # written goes as a whole or not at all.
        yield from _old(holding, holding.files, before, UNFINISHED)
    else:
        rows = (file for file in holding.files if file.path.endswith(".parquet"))
        yield from _old(holding, (file for file in rows if is_torn(file.path)), before, TORN)


def _old(holding: Holding, files: Iterable[Stored], before: float, why: str) -> Iterator[Garbage]:
    for file in files:
        if _may_go(file, before):
            kind = file.path.removeprefix(f"{holding.name}/").partition("/")[0]
            within = f"{holding.name}/{kind}"
            yield Garbage(file.path, file.size, why, holding.name, within, is_artifact=True)


def _may_go(file: Stored, before: float) -> bool:
    """Whether a file is old enough, and the run's own: what a link leads to is not."""
    return file.modified <= before and not file.is_elsewhere


def torn_in(run: Run) -> IsTorn:
    """Whether a Parquet file of this run lacks its end, as a kill in the middle leaves it."""

    def is_torn(path: str) -> bool:
        try:
            with run.filesystem.open_input_file(run.path(path)) as file:
                size = file.size()
                if size < 2 * len(_PARQUET_END):
                    return True
                end = file.read_at(len(_PARQUET_END), size - len(_PARQUET_END))
                return bool(end != _PARQUET_END)
        except FileNotFoundError:  # somebody else was first
            return False

    return is_torn


def in_use(inventory: Inventory, *, since: float) -> str | None:
    """The artifact that something was last written for, when that is not committed and not long
    ago: a driver may be at work.

    There is no lock to ask: a run may be driven from anywhere that reaches its storage.
    """
    written = {
        holding.name: holding.written or 0.0
        for holding in inventory.holdings.values()
        if holding.is_open
    }
    for kind in (inventory.trainings, inventory.boards):
        for policy, files in kind.items():
            name = Paths(policy).adapter
            if inventory.commit_of(name) is None:
                newest = max(file.modified for file in files)
                written[name] = max(newest, written.get(name, 0.0))
    recent = [name for name, last in written.items() if last > since]
    return max(recent, key=lambda name: written[name], default=None)


def delete(run: Run, garbage: Sequence[Garbage]) -> list[Garbage]:
    """Delete it; returns what is gone.

    Manifests are read once more: what was committed since the inventory was taken stays. Raises
    StorageError when a file cannot be deleted; those before it are gone.
    """
    kept = _needed_now(run, {piece.subject for piece in garbage if piece.is_artifact})
    gone: list[Garbage] = []
    for piece in garbage:
        if piece.path in kept or piece.subject in kept:
            continue
        try:
            run.filesystem.delete_file(run.path(piece.path))
        except FileNotFoundError:  # somebody else was first
            continue
        except OSError as error:
            raise StorageError(f"cannot delete {piece.path}: {error}") from error
        gone.append(piece)
        if run.is_local:
            _prune(run.path(piece.path), run.path(piece.within))
    return gone


def _needed_now(run: Run, artifacts: Iterable[str]) -> set[str]:
    """Paths that a manifest names by now, and artifacts whose manifest cannot be read."""
    needed: set[str] = set()
    for name in artifacts:
        try:
            commit = run.artifact(name).commit()
        except ArtifactError:
            needed.add(name)
            continue
        needed |= {f"{name}/{file.path}" for file in commit.files} if commit else set()
    return needed


def _prune(path: str, within: str) -> None:
    """Remove the folders above a deleted file that are empty now, up to ``within``."""
    folder = dirname(path)
    with contextlib.suppress(OSError):  # not empty
        while folder.startswith(f"{within}/"):
            os.rmdir(folder)
            folder = dirname(folder)
