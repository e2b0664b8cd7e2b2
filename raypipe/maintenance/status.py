"""How a run stands: what is done, what is under way, and what comes next.

A run of rounds has a line per stage; a sweep, labels and evaluations one per part.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, TypeVar

import pyarrow as pa

from raypipe.config import Config
from raypipe.errors import ArtifactError, InputError, RaypipeError
from raypipe.experiments.arms import plan_arms, scope_of
from raypipe.experiments.results import Results
from raypipe.maintenance.inventory import Inventory, Stored, take_inventory
from raypipe.maintenance.stage_order import has_rounds, order
from raypipe.store import parquet
from raypipe.store.artifacts import Run
from raypipe.store.checksums import faults
from raypipe.store.manifest import Commit
from raypipe.store.paths import (
    ANNOTATION_SCOPE,
    EVALUATION_SCOPE,
    LABEL_SHARDS,
    LABEL_VERSION_SCOPE,
    SEED_SCOPE,
    Paths,
)
from raypipe.store.runs import begun_with
from raypipe.summaries import TRAINED, Document, Metrics, Summary

D = TypeVar("D", bound=Document)
State = Literal["done", "under way", "interrupted", "next", "waiting", "broken", "superseded"]
# An engine answers a call within minutes: what was not written to for longer has nobody at work on
# it, or somebody who waits for room.
RECENT_S = 900.0
_PATIENCE = 2000  # files of an unfinished stage whose rows are counted
_AGAIN = "the same command writes it again, or delete it"
_SHOWN_COUNTS = ("images", "chains", "tokens", "kept", "pairs", "carried", "answered")


@dataclass(frozen=True)
class StageLine:
    """One stage, or in short one sweep of a seed, one label version, one evaluation, one
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
class RunStatus:
    """How a run stands; ``summary`` says what is next, or what the run came to."""

    location: str
    stages: tuple[StageLine, ...]
    others: tuple[StageLine, ...]
    faults: tuple[str, ...]
    is_done: bool
    summary: str

    def to_json(self) -> dict[str, Any]:
        """The fields, as JSON values."""
        return asdict(self)


def inspect(run: Run, now: float, *, verify: bool = False) -> RunStatus:
    """The status of a run at ``now`` (seconds of the epoch); faults are listed, not raised.
    ``verify`` also reads every committed file and compares it with its sha256."""
    inspector = _Inspector(run, take_inventory(run), now)
    if verify:
        inspector.verify()
    config = inspector.config()
    summary = inspector.document(Summary)
    stages = tuple(
        inspector.stages(order((config or Config()).rounds, inspector.inventory, summary))
    )
    others = (
        *inspector.annotations(),
        *inspector.sweeps(config),
        *inspector.label_versions(),
        *inspector.evaluations(),
    )
    is_done, headline = _summary(inspector, stages, others, summary)
    found = tuple(dict.fromkeys(inspector.faults))
    return RunStatus(run.location, stages, others, found, is_done and not found, headline)


class _Inspector:
    """Reads the state of a run, and collects its faults."""

    def __init__(self, run: Run, inventory: Inventory, now: float) -> None:
        self.run, self.inventory, self._now = run, inventory, now
        holdings = inventory.holdings.values()
        self.faults = [holding.fault for holding in holdings if holding.fault]

    def config(self) -> Config | None:
        try:
            return begun_with(self.run)
        except RaypipeError as error:
            self.faults.append(str(error).replace("\n", "; "))
            return None

    def check_json(self, path: str) -> None:
        """Note a derived file that is no JSON object."""
        try:
            self.run.read_json(path, _AGAIN)
        except ArtifactError as error:
            self.faults.append(str(error))

    def document(self, kind: type[D]) -> D | None:
        """A document of the run; None where it is absent or broken."""
        try:
            return kind.find(self.run)
        except ArtifactError as error:
            self.faults.append(str(error))
            return None

    def verify(self) -> None:
        """Compare every file that a manifest names with its sha256, and read every other document
        of the run."""
        for name, holding in self.inventory.holdings.items():
            if holding.commit is not None:
                files, place = holding.commit.files, self.run.path(name)
                self.faults.extend(faults(self.run.filesystem, place, files))
        for path in self.inventory.documents:
            self.check_json(path)

    def stages(self, names: Sequence[str]) -> Iterator[StageLine]:
        reached = True  # whether everything before is done
        for name in names:
            line = self.stage(name)
            if line.state == "waiting" and reached:
                line = StageLine(name, "next")
            reached &= line.state == "done"
            yield line

    def stage(self, name: str) -> StageLine:
        """One stage by itself: whether it is next is not known here."""
        holding = self.inventory.holdings.get(name)
        if holding is not None and holding.fault:
            return StageLine(name, "broken", detail=holding.fault)
        if holding is not None and holding.commit is not None:
            commit = holding.commit
            refused = commit.quarantined or None
            try:
                detail = self._detail(name, commit)
            except ArtifactError as error:
                self.faults.append(str(error))
                return StageLine(name, "broken", detail=str(error))
            return StageLine(
                name, "done", commit.rows or None, refused, commit.seconds, None, detail
            )
        files = list(holding.files) if holding is not None else []
        if name == Paths.of(name).adapter:
            policy = Paths.of(name)
            files += self.inventory.trainings.get(policy, ())
            files += self.inventory.boards.get(policy, ())
        if re.fullmatch(LABEL_VERSION_SCOPE, Paths.of(name)) and name == Paths.of(name).labels:
            return self._unfinished_labels(name)
        return self._unfinished(name, files)

    def _unfinished_labels(self, name: str) -> StageLine:
        """Of labels the shards are what is under way."""
        shards = [
            holding
            for shard, holding in self.inventory.holdings.items()
            if shard.startswith(f"{LABEL_SHARDS}/") and holding.is_open
        ]
        line = self._unfinished(name, [file for shard in shards for file in shard.files])
        return replace(line, detail=f"{len(shards):,} shards are open") if shards else line

    def _unfinished(self, name: str, files: Sequence[Stored]) -> StageLine:
        if not files:
            return StageLine(name, "waiting")
        age = max(0.0, self._now - max(file.modified for file in files))
        state: State = "under way" if age < RECENT_S else "interrupted"
        rows = [file for file in files if file.path.endswith(".parquet")]
        written = [file for file in rows if "/data/" in file.path]
        if len(rows) > _PATIENCE:
            return StageLine(
                name, state, age_s=age, detail=f"{len(rows):,} files, rows not counted"
            )
        refused = [file for file in rows if "/quarantine/" in file.path]
        counted = self._rows(written), self._rows(refused) or None
        detail = f"{len(written):,} files" if written else "a training under way"
        return StageLine(name, state, *counted, age_s=age, detail=detail if files else "")

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

    def _detail(self, name: str, commit: Commit) -> str:
        counts = commit.counts
        if name == Paths.of(name).evaluation:
            accuracy = Metrics.of(self.run.artifact(name)).eval.accuracy
            return "" if accuracy is None else f"accuracy {accuracy:.3f}"
        if name == Paths.of(name).adapter:
            loss = counts.get("last_loss")
            suffix = "" if loss is None else f", loss {loss:.3f}"
            return f"{counts.get('num_steps', 0):,} steps{suffix}"
        figures = {key: value for key, value in counts.items() if isinstance(value, int)}
        shown = [key for key in _SHOWN_COUNTS if figures.get(key) and figures[key] != commit.rows]
        return ", ".join(f"{figures[key]:,} {key}" for key in shown)

    def sweeps(self, config: Config | None) -> Iterator[StageLine]:
        """A line per seed: how many of its arms have figures, and what is under way."""
        names = list(self.inventory.holdings)
        found = (re.match(f"{SEED_SCOPE}/", name) for name in names)
        seeds = {int(match["seed"]) for match in found if match}
        if not seeds or config is None:
            return
        results = self.document(Results)
        refused = results.refused if results is not None else {}
        for seed in sorted({*seeds, *config.sweep.seeds}):
            arms = [scope_of(seed, arm.name) for arm in plan_arms(config, seed)]
            settled = [
                arm
                for arm in arms
                if arm.partition("/")[2] in refused
                or self.inventory.commit_of(Paths(arm).evaluation) is not None
            ]
            scope = f"{Paths.of_seed(seed)}/"
            open_stages = [self.stage(name) for name in names if name.startswith(scope)]
            unfinished = [line for line in open_stages if line.state != "done"]
            detail = f"{len(settled)} of {len(arms)} arms"
            if len(settled) == len(arms):
                yield StageLine(scope.rstrip("/"), "done", detail=detail)
                continue
            latest = min(unfinished, key=lambda line: line.age_s or 0.0, default=None)
            suffix = f", {latest.state}: {latest.name}" if latest else ""
            state: State = latest.state if latest else "next"
            age = latest.age_s if latest else None
            yield StageLine(scope.rstrip("/"), state, age_s=age, detail=detail + suffix)

    def label_versions(self) -> Iterator[StageLine]:
        """Older unfinished versions are superseded. Labels are done once it is decided which of
        them are published."""
        documents = self.inventory.documents
        lines = [
            replace(line, state="next", detail="nothing is published yet")
            if line.state == "done" and Paths(_scope(line.name)).decision not in documents
            else line
            for line in self._scopes(LABEL_VERSION_SCOPE, "labels")
        ]
        done = [number for number, line in enumerate(lines) if line.state == "done"]
        last = max(done, default=0)
        yield from (*map(_superseded, lines[:last]), *lines[last:])

    def annotations(self) -> Iterator[StageLine]:
        """Each call with other questions has answers of its own, and replies are paid for once."""
        lines = list(self._scopes(ANNOTATION_SCOPE, "answers"))
        is_annotated = any(line.state == "done" for line in lines)
        yield from map(_superseded, lines) if is_annotated else lines

    def evaluations(self) -> Iterator[StageLine]:
        yield from self._scopes(EVALUATION_SCOPE, "evaluation")

    def _scopes(self, pattern: str, last: str) -> Iterator[StageLine]:
        """A line per scope: its last stage if that is done or begun, else the one before it."""
        names: dict[str, list[str]] = {}
        for name in self.inventory.holdings:
            if found := re.match(f"({pattern})/", name):
                names.setdefault(found[1], []).append(name)
        for scope, own in names.items():
            line = self.stage(f"{scope}/{last}")
            if line.state == "waiting":
                begun = [self.stage(name) for name in own]
                unfinished = [stage for stage in begun if stage.state != "done"]
                line = unfinished[0] if unfinished else StageLine(f"{scope}/{last}", "next")
            yield line


def _superseded(line: StageLine) -> StageLine:
    """A line of which there is a newer one that is done, unless somebody is at work on it."""
    unfinished = line.state in ("interrupted", "next")
    return replace(line, state="superseded") if unfinished else line


def _scope(name: str) -> str:
    return name.rpartition("/")[0]


def _summary(
    inspector: _Inspector,
    stages: Sequence[StageLine],
    others: Sequence[StageLine],
    summary: Summary | None,
) -> tuple[bool, str]:
    """Whether everything that was begun is done, and the sentence that says so."""
    broken = next((line for line in (*stages, *others) if line.state == "broken"), None)
    if broken is not None:
        return False, f"broken: {broken.name} must be restored, or the run begun anew"
    settled = ("done", "superseded")
    unfinished = next((line for line in (*stages, *others) if line.state not in settled), None)
    if unfinished is not None:
        how = {
            "under way": f"under way: {unfinished.name}",
            "interrupted": f"next: {unfinished.name}, where the same command goes on",
        }
        return False, how.get(unfinished.state, f"next: {unfinished.name}")
    if has_rounds(inspector.inventory.holdings) and summary is None:
        return False, "next: summary and report, which the same command writes"
    if summary is not None:
        return True, f"done: the policy to use is {summary.best}{_why_ended(summary)}"
    return True, "done"


def _why_ended(summary: Summary) -> str:
    if summary.alarm is not None:
        return f"; {summary.alarm.reason}"
    if not summary.pairs or summary.pairs[-1].outcome == TRAINED:
        return ""
    last = summary.pairs[-1]
    return f"; round {last.round} has no policy: {last.why}"
