"""How a run stands: what is done, what is under way, and what comes next.

Stages of a run of rounds are told one by one; a sweep, labels and evaluations in short.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import pyarrow as pa

from raypipe import parquet
from raypipe.artifacts import Run
from raypipe.checksums import faults
from raypipe.config import Config
from raypipe.errors import ArtifactError, InputError, RaypipeError
from raypipe.manifest import Commit
from raypipe.runs import begun_with, run_summary
from raypipe.sweep.arms import plan, scope_of
from raypipe.upkeep.inventory import Inventory, Stored, take_inventory
from raypipe.upkeep.order import has_rounds, order

State = Literal["done", "under way", "interrupted", "next", "waiting", "broken", "superseded"]
# An engine answers a call within minutes: what was not written to for longer has nobody at work on
# it, or somebody who waits for room.
RECENT_S = 900.0
_PATIENCE = 2000  # files of an unfinished stage whose rows are counted
_AGAIN = "the same command writes it again, or delete it"
_TOLD = ("images", "chains", "tokens", "kept", "pairs", "carried", "answered")
_GENERATION = re.compile(r"labels/\d{6}")
_EVALUATION = re.compile(r"evaluations/(?!catalog-).+-[0-9a-f]{12}")
_ANNOTATION = re.compile(r"annotation/[0-9a-f]{12}")
_SEED = re.compile(r"seed-(\d+)/")


@dataclass(frozen=True)
class Line:
    """One stage, or in short one sweep of a seed, one generation of labels, one evaluation, one
    annotation. What is superseded nobody has to finish.

    ``rows`` are of its table, so far or in all; ``seconds`` are what it took; ``age_s`` is since a
    file of an unfinished one was last written; ``detail`` says what came of it or what is wrong.
    """

    name: str
    state: State
    rows: int | None = None
    refused: int | None = None
    seconds: float | None = None
    age_s: float | None = None
    detail: str = ""


@dataclass(frozen=True)
class Standing:
    """How a run stands; ``upshot`` says what is next, or what the run came to."""

    location: str
    stages: tuple[Line, ...]
    besides: tuple[Line, ...]
    faults: tuple[str, ...]
    is_done: bool
    upshot: str

    def to_json(self) -> dict[str, Any]:
        """The fields, as JSON values."""
        return asdict(self)


def stand(run: Run, now: float, *, verify: bool = False) -> Standing:
    """Look at a run; what is broken in it is told, not raised.

    Args:
        now: seconds of the epoch.
        verify: also read every committed file and compare it with its sha256.
    """
    look = _Look(run, take_inventory(run), now)
    if verify:
        look.verify()
    config = look.config()
    summary = look.summary()
    stages = tuple(look.stages(order((config or Config()).rounds, look.inventory, summary)))
    besides = (
        *look.annotations(),
        *look.sweeps(config),
        *look.generations(),
        *look.evaluations(),
    )
    is_done, upshot = _upshot(look, stages, besides, summary)
    found = tuple(dict.fromkeys(look.faults))
    return Standing(run.location, stages, besides, found, is_done and not found, upshot)


class _Look:
    """One look at a run."""

    def __init__(self, run: Run, inventory: Inventory, now: float) -> None:
        self.run, self.inventory, self._now = run, inventory, now
        held = inventory.holdings.values()
        self.faults = [holding.fault for holding in held if holding.fault]

    def config(self) -> Config | None:
        try:
            return begun_with(self.run)
        except RaypipeError as error:
            self.faults.append(str(error).replace("\n", "; "))
            return None

    def derived(self, path: str) -> dict[str, Any]:
        """What a derived JSON file says; nothing where it is absent or broken."""
        try:
            return self.run.read_json(path, _AGAIN) or {}
        except ArtifactError as error:
            self.faults.append(str(error))
            return {}

    def summary(self) -> dict[str, Any]:
        """What ``summary.json`` says; nothing where it lacks what is told of a run's end."""
        try:
            return run_summary(self.run) or {}
        except ArtifactError as error:
            self.faults.append(str(error))
            return {}

    def verify(self) -> None:
        """Compare every file that a manifest names with its sha256, and read every other document
        of the run."""
        for name, holding in self.inventory.holdings.items():
            if holding.commit is not None:
                files, place = holding.commit.files, self.run.path(name)
                self.faults.extend(faults(self.run.filesystem, place, files))
        for path in self.inventory.documents:
            self.derived(path)

    def stages(self, names: Sequence[str]) -> Iterator[Line]:
        reached = True  # whether everything before is done
        for name in names:
            line = self.stage(name)
            if line.state == "waiting" and reached:
                line = Line(name, "next")
            reached &= line.state == "done"
            yield line

    def stage(self, name: str) -> Line:
        """One stage by itself: whether it is next is not known here."""
        holding = self.inventory.holdings.get(name)
        if holding is not None and holding.fault:
            return Line(name, "broken", detail=holding.fault)
        if holding is not None and holding.commit is not None:
            commit = holding.commit
            refused = commit.quarantined or None
            try:
                detail = self._came_of(name, commit)
            except ArtifactError as error:
                self.faults.append(str(error))
                return Line(name, "broken", detail=str(error))
            return Line(name, "done", commit.rows or None, refused, commit.seconds, None, detail)
        files = list(holding.files) if holding is not None else []
        if name.endswith("/adapter"):
            policy = name.removesuffix("/adapter")
            files += self.inventory.trainings.get(policy, ())
            files += self.inventory.boards.get(policy, ())
        return self._unfinished(name, files)

    def _unfinished(self, name: str, files: Sequence[Stored]) -> Line:
        if not files:
            return Line(name, "waiting")
        age = max(0.0, self._now - max(file.modified for file in files))
        state: State = "under way" if age < RECENT_S else "interrupted"
        rows = [file for file in files if file.path.endswith(".parquet")]
        written = [file for file in rows if f"{name}/data/" in file.path]
        if len(rows) > _PATIENCE:
            return Line(name, state, age_s=age, detail=f"{len(rows):,} files, rows not counted")
        refused = [file for file in rows if f"{name}/quarantine/" in file.path]
        counted = self._rows(written), self._rows(refused) or None
        detail = f"{len(written):,} files" if written else "a training under way"
        return Line(name, state, *counted, age_s=age, detail=detail if files else "")

    def _rows(self, files: Iterable[Stored]) -> int:
        """Rows by the files' own footers; those that are cut short have none."""
        total = 0
        for file in files:
            try:
                path = self.run.path(file.path)
                with parquet.opened(path, self.run.filesystem) as opened:
                    total += opened.metadata.num_rows
            except (OSError, pa.ArrowException, InputError):
                continue
        return total

    def _came_of(self, name: str, commit: Commit) -> str:
        counts = commit.counts
        if name.endswith("/evaluation"):
            metrics = self.run.artifact(name).read_json("metrics.json")
            accuracy = metrics["eval"]["accuracy"]
            return "" if accuracy is None else f"accuracy {accuracy:.3f}"
        if name.endswith("/adapter"):
            loss = counts.get("last_loss")
            said = "" if loss is None else f", loss {loss:.3f}"
            return f"{counts.get('num_steps', 0):,} steps{said}"
        figures = {key: value for key, value in counts.items() if isinstance(value, int)}
        told = [key for key in _TOLD if figures.get(key) and figures[key] != commit.rows]
        return ", ".join(f"{figures[key]:,} {key}" for key in told)

    def sweeps(self, config: Config | None) -> Iterator[Line]:
        """A line per seed: how many of its arms have figures, and what is under way."""
        names = list(self.inventory.holdings)
        seeds = {int(found[1]) for name in names if (found := _SEED.match(name))}
        if not seeds or config is None:
            return
        refused = self.derived("results.json").get("refused", {})
        for seed in sorted({*seeds, *config.sweep.seeds}):
            arms = [scope_of(seed, arm.name) for arm in plan(config, seed)]
            settled = [
                arm
                for arm in arms
                if arm.partition("/")[2] in refused
                or self.inventory.committed(f"{arm}/evaluation") is not None
            ]
            scope = f"seed-{seed}/"
            open_stages = [self.stage(name) for name in names if name.startswith(scope)]
            unfinished = [line for line in open_stages if line.state != "done"]
            detail = f"{len(settled)} of {len(arms)} arms"
            if len(settled) == len(arms):
                yield Line(scope.rstrip("/"), "done", detail=detail)
                continue
            latest = min(unfinished, key=lambda line: line.age_s or 0.0, default=None)
            said = f", {latest.state}: {latest.name}" if latest else ""
            state: State = latest.state if latest else "next"
            age = latest.age_s if latest else None
            yield Line(scope.rstrip("/"), state, age_s=age, detail=detail + said)

    def generations(self) -> Iterator[Line]:
        """Those before a finished one are taken up again by nobody but who asks for the same."""
        lines = list(self._scopes(_GENERATION, "labels"))
        done = [number for number, line in enumerate(lines) if line.state == "done"]
        last = max(done, default=0)
        yield from (*map(_superseded, lines[:last]), *lines[last:])

    def annotations(self) -> Iterator[Line]:
        """Each call with other questions has answers of its own, and replies are paid for once."""
        lines = list(self._scopes(_ANNOTATION, "answers"))
        is_annotated = any(line.state == "done" for line in lines)
        yield from map(_superseded, lines) if is_annotated else lines

    def evaluations(self) -> Iterator[Line]:
        yield from self._scopes(_EVALUATION, "evaluation")

    def _scopes(self, pattern: re.Pattern[str], last: str) -> Iterator[Line]:
        """A line per scope: its last stage if that is done or begun, else the one before it."""
        names = [name for name in self.inventory.holdings if pattern.fullmatch(_scope(name))]
        for scope in dict.fromkeys(map(_scope, names)):
            line = self.stage(f"{scope}/{last}")
            if line.state == "waiting":
                begun = [self.stage(name) for name in names if _scope(name) == scope]
                unfinished = [stage for stage in begun if stage.state != "done"]
                line = unfinished[0] if unfinished else Line(f"{scope}/{last}", "next")
            yield line


def _superseded(line: Line) -> Line:
    """A line of which there is a newer one that is done, unless somebody is at work on it."""
    unfinished = line.state in ("interrupted", "next")
    return replace(line, state="superseded") if unfinished else line


def _scope(name: str) -> str:
    return name.rpartition("/")[0]


def _upshot(
    look: _Look, stages: Sequence[Line], besides: Sequence[Line], summary: Mapping[str, Any]
) -> tuple[bool, str]:
    """Whether everything that was begun is done, and the sentence that says so."""
    broken = next((line for line in (*stages, *besides) if line.state == "broken"), None)
    if broken is not None:
        return False, f"broken: {broken.name} must be restored, or the run begun anew"
    settled = ("done", "superseded")
    unfinished = next((line for line in (*stages, *besides) if line.state not in settled), None)
    if unfinished is not None:
        how = {
            "under way": f"under way: {unfinished.name}",
            "interrupted": f"next: {unfinished.name}, where the same command goes on",
        }
        return False, how.get(unfinished.state, f"next: {unfinished.name}")
    if has_rounds(look.inventory.holdings) and not summary:
        return False, "next: summary and report, which the same command writes"
    if summary:
        return True, f"done: the policy to use is {summary['best']}{_why_ended(summary)}"
    return True, "done"


def _why_ended(summary: Mapping[str, Any]) -> str:
    alarm, records = summary.get("alarm"), summary.get("pairs") or ()
    if alarm:
        return f"; {alarm['reason']}"
    if records and records[-1]["outcome"] == "no_pairs":
        return f"; round {records[-1]['round']} found nothing to learn from"
    if records and records[-1]["outcome"] == "unchanged":
        return f"; round {records[-1]['round']} changed nothing"
    if records and records[-1]["outcome"] == "diverged":
        return f"; round {records[-1]['round']} diverged: {records[-1].get('reason', '')}"
    return ""
