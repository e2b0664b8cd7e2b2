"""A Ray Data plan that ends in a commit.

    source → leave out what is done → transform, and write what comes of it → receipts

Whoever makes rows writes them before it takes up others, so that what an engine has answered is on
disk and not in the memory of a node that may be lost. Only receipts come to the driver, whose
memory hardly grows with the catalog. One block in makes one file: a call that Ray repeats after a
death gives the same rows again, and whatever it had written before is in no manifest.
"""

import hashlib
import json
import logging
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raypipe import receipts, storage
from raypipe.artifacts import Artifact, Attempt
from raypipe.errors import EngineStartError, QuarantineLimitError, RaypipeError, StorageError
from raypipe.manifest import Commit, File
from raypipe.metrics import Meter
from raypipe.progress import reported
from raypipe.receipts import Receipt
from raypipe.schemas import QUARANTINE

logger = logging.getLogger("raypipe.stream")
NO_IDS = pa.nulls(0, pa.string())  # pa.array would import pandas
_LEFTOVERS_PER_TASK = 16


@dataclass(frozen=True)
class Outcome:
    """What became of a block of listings.

    ``rows`` are of the artifact's table, all rows of an id; ``refused`` are rows of the quarantine
    table; ``counts`` are summed over all blocks into the commit's counts.
    """

    rows: pa.Table
    refused: Sequence[Mapping[str, object]] = ()
    counts: Mapping[str, float] = field(default_factory=dict)


Write = Callable[[Outcome], pa.Table]
"""Writes an outcome where it was made; the receipts."""


@dataclass
class Progress:
    """How far a plan is, for the line that says so."""

    total: int
    done: int
    waiting: Callable[[], str | None]

    def text(self) -> str | None:
        if self.done:
            return f"{self.done:,} of {self.total:,} listings"
        return self.waiting()


@dataclass(frozen=True)
class Demand:
    """What one actor of a plan needs, and how long the cluster may take to give it."""

    cpus: float
    gpus: float
    wait_s: int

    def waiting(self) -> str | None:
        """What is missing while the cluster cannot hold a single actor."""
        import ray

        has = ray.cluster_resources()
        for name, needed in (("GPU", self.gpus), ("CPU", self.cpus)):
            if has.get(name, 0) < needed:
                limit = f", for at most {self.wait_s:,} s" if self.wait_s >= 0 else ""
                return (
                    f"waiting for capacity: an actor needs {needed:g} {name}, the cluster has "
                    f"{has.get(name, 0):g}{limit}"
                )
        return None


@dataclass(frozen=True)
class Plan:
    """Rows somewhere, and the steps that turn their blocks into outcomes.

    ``source`` gets the ids that are done already and makes a Ray data set without them;
    ``transform`` makes the outcome of every block and hands it to the :data:`Write` that it gets
    too; its data set is of receipts. ``wanted`` are all ids that go in, each once. ``finish`` gives
    back what ``transform`` took beside actors of Ray Data's own.
    """

    source: Callable[[pa.Array], Any]
    transform: Callable[[Any, Write], Any]
    wanted: pa.Array
    finish: Callable[[], None] = lambda: None


def run(
    attempt: Attempt,
    plans: Sequence[Plan],
    *,
    demand: Demand,
    max_refused: float = 1.0,
    counts: Mapping[str, Any] | None = None,
    try_refused_again: bool = False,
) -> Commit:
    """Do what no interrupted attempt has done yet, and commit it with what they left.

    Args:
        attempt: of the artifact that comes out.
        plans: one after the other; no id is in two of them.
        max_refused: share (0-1) of the ids that may be refused.
        counts: to keep beside the summed ones.
        try_refused_again: do again what interrupted attempts refused, since it may have passed.

    Raises:
        ArtifactError: an id was lost or doubled.
        QuarantineLimitError: too many were refused.
        StorageError: a file could not be written.
        EngineStartError: no engine could be started, or the cluster had no room for one.
    """
    files = _salvage(attempt, try_refused_again)
    done = pa.concat_arrays([NO_IDS, *(file.ids for file in files)])
    wanted = pa.concat_arrays([NO_IDS, *(plan.wanted for plan in plans)])
    summed: Counter[str] = Counter()
    progress = Progress(len(wanted), len(done), demand.waiting)
    for plan in plans:
        if pc.all(pc.is_in(plan.wanted, done), min_count=0).as_py():
            continue  # no engine is started for nothing
        dataset = plan.transform(plan.source(done), partial(_write, attempt))
        try:
            for received in _receive(dataset, summed, progress, demand):
                files += received
                check_share(attempt, files, len(wanted), max_refused)
        finally:
            plan.finish()
    return attempt.commit(
        expected=wanted,
        receipts=files,
        counts={
            "listings": len(wanted),
            "salvaged": len(done),
            **(counts or {}),
            **{name: round(value, 3) for name, value in summed.items()},
        },
    )


def _receive(
    dataset: Any, summed: Counter[str], progress: Progress, demand: Demand
) -> Iterator[list[Receipt]]:
    """Run a plan and hand on its receipts as they come."""
    import ray.data

    context = ray.data.DataContext.get_current()
    context.execution_options.preserve_order = False
    context.execution_no_progress_timeout_s = demand.wait_s
    try:
        with reported(progress.text):
            for batch in dataset.iter_batches(batch_size=None, batch_format="pyarrow"):
                for figures in batch.column("counts").to_pylist():
                    summed.update(json.loads(figures))
                received = receipts.from_table(batch.drop_columns(["counts"]))
                progress.done += sum(len(receipt.ids) for receipt in received)
                yield received
    except RaypipeError:
        raise
    except Exception as error:
        raise explained(error) from error


def _write(attempt: Attempt, outcome: Outcome) -> pa.Table:
    made = []
    if len(outcome.rows):
        made.append(attempt.store(outcome.rows))
    if outcome.refused:
        refused = QUARANTINE.from_rows([dict(row) for row in outcome.refused])
        made.append(attempt.store(refused, "quarantine"))
    meter = Meter.of(attempt.artifact, attempt.fingerprint.get("policy_id", ""))
    meter.block(outcome.rows, outcome.refused, outcome.counts)
    # The block's counts travel with its first receipt.
    counts = [json.dumps(dict(outcome.counts)), *["{}"] * len(made)][: len(made)]
    return receipts.to_table(made).append_column("counts", pa.array(counts, pa.string()))


def _salvage(attempt: Attempt, try_refused_again: bool) -> list[Receipt]:
    """Receipts of what interrupted attempts left; their files are read across the cluster."""
    leftovers = [
        (path, kind)
        for path, kind in attempt.leftovers()
        if kind == "data" or not try_refused_again
    ]
    if not leftovers:
        return []
    import ray.data

    paths = [{"path": path, "kind": kind} for path, kind in leftovers]
    inspected = ray.data.from_items(paths).map_batches(
        partial(_inspect, attempt), batch_format="pyarrow", batch_size=_LEFTOVERS_PER_TASK
    )
    found: list[Receipt] = []
    for batch in inspected.iter_batches(batch_size=None, batch_format="pyarrow"):
        found += receipts.from_table(batch)
    return attempt.salvage(found)


def _inspect(attempt: Attempt, batch: pa.Table) -> pa.Table:
    inspected = [attempt.inspect(row["path"], row["kind"]) for row in batch.to_pylist()]
    return receipts.to_table([receipt for receipt in inspected if receipt is not None])


def rows(artifact: Artifact, columns: Sequence[str]) -> Any:
    """A data set of an artifact's rows, file by file; Ray's own reader leaves page checksums
    unread. When it runs it raises ArtifactError on a corrupt file."""
    import ray.data

    files = [asdict(file) for file in artifact.files()]
    return ray.data.from_items(files).map_batches(
        partial(_rows, artifact, list(columns)), batch_format="pyarrow", batch_size=1
    )


def _rows(artifact: Artifact, columns: Sequence[str], batch: pa.Table) -> Iterator[pa.Table]:
    for file in batch.to_pylist():
        yield artifact.rows_of(File(**file), columns)


def without(dataset: Any, ids: pa.Array) -> Any:
    """A data set but for the rows whose ``listing_id`` is among ``ids``."""
    return _filtered(dataset, ids, keep=False) if len(ids) else dataset


def only(dataset: Any, ids: pa.Array) -> Any:
    """The rows of a data set whose ``listing_id`` is among ``ids``."""
    return _filtered(dataset, ids, keep=True)


def ordered(ids: pa.Array) -> Any:
    """Ids in Ray's object store, sorted once for all the blocks that :func:`among` is asked of;
    Arrow would build a hash table of all of them for every block."""
    import ray

    return ray.put(np.sort(_bytes(ids)))


def among(ids: Any, block: pa.Table, *, keep: bool) -> pa.Table:
    """The rows of a block whose ``listing_id`` is among :func:`ordered` ids, or all others."""
    import ray

    known = ray.get(ids)
    asked = _bytes(block.column("listing_id").combine_chunks())
    places = np.minimum(np.searchsorted(known, asked), len(known) - 1)
    return block.filter(pa.array((known[places] == asked) == keep))


def _filtered(dataset: Any, ids: pa.Array, *, keep: bool) -> Any:
    return dataset.map_batches(
        partial(among, ordered(ids), keep=keep), batch_format="pyarrow", batch_size=None
    )


def _bytes(ids: pa.Array) -> np.ndarray:
    """Hashes of ids, 16 bytes each whatever the longest id is; they sort and compare as a whole."""
    digests = (
        hashlib.blake2b(content, digest_size=16).digest()
        for content in ids.cast(pa.binary()).to_pylist()
    )
    return np.frombuffer(b"".join(digests), np.dtype("S16"))


def check_share(attempt: Attempt, files: Sequence[Receipt], total: int, limit: float) -> None:
    """Stop when more is refused than may be: the rest would go the same way.

    Raises:
        QuarantineLimitError: more than ``limit`` (0-1) of ``total`` listings; says why they were.
    """
    refusals = [receipt for receipt in files if receipt.file.kind == "quarantine"]
    refused = sum(len(receipt.ids) for receipt in refusals)
    if refused <= limit * total:
        return
    name = attempt.artifact.name
    rows = [
        row
        for receipt in refusals[:100]
        for row in attempt.artifact.rows_of(receipt.file).to_pylist()
    ]
    reasons = Counter(row["reason"] for row in rows).most_common(3)
    counted = ", ".join(f"{count} {reason}" for reason, count in reasons)
    raise QuarantineLimitError(
        f"{name} refused {refused:,} of {total:,} listings ({refused / total:.1%}), more than "
        f"catalog.max_quarantined={limit:.1%} allows: {counted} (such as '{rows[0]['id']}': "
        f"{rows[0]['detail']})"
    )


def explained(error: BaseException) -> BaseException:
    """The raypipe error that a task raised, out of the layers that Ray wraps it in."""
    text = str(error)
    kinds: list[type[RaypipeError]] = [RaypipeError]
    for kind in kinds:
        kinds.extend(kind.__subclasses__())
        if f"{kind.__name__}: " in text:
            tail = text.rsplit(f"{kind.__name__}: ", 1)[-1]
            return kind(tail.split("\n\n")[0].strip())
    if type(error).__name__ == "ExecutionTimeoutError":
        return EngineStartError(f"no progress within cluster.capacity_wait_s: {text}")
    if "OutOfDiskError" in text or "No space left on device" in text:
        return StorageError(f"the disk is full: {text.strip().splitlines()[-1]}")
    if storage.names_a_store(text):
        return storage.failed("a task failed", error)
    return error
