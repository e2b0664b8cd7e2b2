"""An artifact that is made in parts, each of so many listings, which is written, checked and
committed by itself.

    rows, each with its part → transform → small files by part → part is whole → merged, committed

Workers write; a task merges and commits a part that is whole; the driver holds a count for every
open part, however many listings there are.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from raypipe.errors import ArtifactError, QuarantineLimitError
from raypipe.runtime import stream
from raypipe.runtime.metrics import Meter
from raypipe.runtime.progress import reported
from raypipe.schemas import QUARANTINE, Table
from raypipe.store.artifacts import Artifact, Attempt, Run
from raypipe.store.manifest import CommittedPart

PART = "part"
"""The column of a plan's rows that names their part."""
_WRITTEN = pa.schema(
    [
        (PART, pa.string()),
        ("listings", pa.int64()),
        ("refused", pa.int64()),
        ("counts", pa.string()),
        ("reasons", pa.string()),
        ("example", pa.string()),
    ]
)
_COMMITS_AT_ONCE = 8
CommitPart = Callable[[str], CommittedPart]
"""Merges and commits a part; called in a task, on any node."""


@dataclass(frozen=True)
class PartStore:
    """Where the parts of an artifact lie.

    Args:
        run: the run.
        root: the directory of the parts in it.
        table: of their rows.
        policy_id: for metrics.
    """

    run: Run
    root: str
    table: Table
    policy_id: str = ""

    def artifact(self, part: str) -> Artifact:
        """A part, committed or not."""
        return self.run.artifact(f"{self.root}/{part}", self.table)

    def attempt(self, part: str) -> Attempt:
        """Begin to write files of a part; they count whichever attempt has written them."""
        return self.artifact(part).attempt({PART: part})

    def write(self, whole: Artifact, result: stream.BlockResult) -> pa.Table:
        """Write the rows of a block on the worker that made them; returns what the driver counts,
        a row for every part.

        Args:
            whole: the artifact that the parts are made for; metrics count its rows.
        """
        meter = Meter.of(whole, self.policy_id)
        meter.block(result.rows, result.refused, result.counts)
        listings = Counter(result.parts.values())
        owners = pa.array(
            (result.parts[name] for name in result.rows.column(0).to_pylist()), pa.string()
        )
        rows: list[dict[str, Any]] = []
        for part in sorted(listings):
            refused = [dict(row) for row in result.refused if result.parts[str(row["id"])] == part]
            self._store(part, result.rows.filter(pa.compute.equal(owners, part)), refused)
            rows.append(
                {
                    PART: part,
                    "listings": listings[part],
                    "refused": len(refused),
                    # They are of the block, so they go with one of its parts.
                    "counts": json.dumps(dict(result.counts) if not rows else {}),
                    "reasons": json.dumps(Counter(str(row["reason"]) for row in refused)),
                    "example": f"'{refused[0]['id']}': {refused[0]['detail']}" if refused else "",
                }
            )
        return pa.Table.from_pylist(rows, schema=_WRITTEN)

    def _store(self, part: str, rows: pa.Table, refused: list[dict[str, object]]) -> None:
        attempt = self.attempt(part)
        if len(rows):
            attempt.store_piece(rows)
        if refused:
            attempt.store_piece(QUARANTINE.from_rows(refused), "quarantine")


@dataclass(frozen=True)
class RemainingWork:
    """The listings that are left in every open part; and of all parts, the open ones and others,
    how many listings there are, are done, and were refused."""

    listings: Mapping[str, int]
    total: int
    done: int
    refused: int


@dataclass
class _Counted:
    refused: int
    counts: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    example: str = ""

    def add(self, row: Mapping[str, Any]) -> None:
        self.counts.update(json.loads(row["counts"]))
        self.reasons.update(json.loads(row["reasons"]))
        self.refused += row["refused"]
        self.example = self.example or row["example"]


def run(
    dataset: Any,
    left: RemainingWork,
    commit: CommitPart,
    *,
    resources: stream.ActorResources,
    max_refused: float,
    name: str,
    trouble: Callable[[], str | None] = lambda: None,
) -> tuple[list[CommittedPart], dict[str, float]]:
    """Run a plan over the listings that are left, and commit every part once it is whole.

    Args:
        dataset: a Ray Dataset that ends in :meth:`PartStore.write`.
        commit: merges and commits a part whose listings are all there.
        max_refused: share (0-1) of all listings that may be refused.
        name: of the artifact, for messages.
        trouble: what the plan goes on without, for the log.

    Returns:
        The parts that were committed, and the summed counts of what was done.

    Raises:
        What :func:`raypipe.runtime.stream.run` does.
    """
    waiting = dict(left.listings)
    counted = _Counted(left.refused)
    progress = stream.Progress(left.total, left.done, resources.waiting, trouble)
    commits = _Commits(commit)
    try:
        with reported(progress.text):
            for row in _rows(dataset, resources):
                progress.done += row["listings"]
                counted.add(row)
                _check_refused(name, counted, left.total, max_refused)
                waiting[row[PART]] -= row["listings"]
                if waiting[row[PART]] == 0:
                    del waiting[row[PART]]
                    commits.begin(row[PART])
        if waiting:
            lost = sum(waiting.values())
            raise ArtifactError(f"{name}: {lost:,} listings of {len(waiting):,} parts are lost")
        return commits.finish(), {key: round(value, 3) for key, value in counted.counts.items()}
    finally:
        commits.cancel()


def _rows(dataset: Any, resources: stream.ActorResources) -> Iterator[dict[str, Any]]:
    for batch in stream.batches(dataset, resources):
        yield from batch.to_pylist()


def _check_refused(name: str, counted: _Counted, total: int, limit: float) -> None:
    """Raises QuarantineLimitError when more than ``limit`` (0-1) are refused; with the reasons."""
    if counted.refused <= limit * total:
        return
    common = ", ".join(f"{count} {reason}" for reason, count in counted.reasons.most_common(3))
    raise QuarantineLimitError(
        f"{name} refused {counted.refused:,} of {total:,} listings "
        f"({counted.refused / total:.1%}), more than catalog.max_quarantined={limit:.1%} allows: "
        f"{common} (such as {counted.example})"
    )


class _Commits:
    """Commits of whole parts, in tasks beside the plan."""

    def __init__(self, commit: CommitPart) -> None:
        import ray

        # They ask for no CPU: engines and read tasks may have them all.
        self._remote = ray.remote(max_retries=-1, num_cpus=0, scheduling_strategy="SPREAD")(_call)
        self._shared = ray.put(commit)
        self._running: list[Any] = []
        self._parts: list[CommittedPart] = []

    def begin(self, part: str) -> None:
        self._running.append(self._remote.remote(self._shared, part))
        self._collect(_COMMITS_AT_ONCE)

    def finish(self) -> list[CommittedPart]:
        """All of them, once they are committed."""
        self._collect(0)
        return self._parts

    def cancel(self) -> None:
        """Those that are not done."""
        import ray

        for running in self._running:
            ray.cancel(running, force=True)

    def _collect(self, leave: int) -> None:
        import ray

        try:
            while len(self._running) > leave:
                ready, self._running = ray.wait(self._running, num_returns=1)
                self._parts += ray.get(ready)
        except ray.exceptions.RayError as error:
            raise stream.unwrap_ray_error(error) from error


def _call(commit: CommitPart, part: str) -> CommittedPart:
    return commit(part)
