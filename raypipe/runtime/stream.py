"""A Ray Data plan that ends in a commit.

    source → drop finished rows → transform and write → metadata of the files written

A worker writes the rows of a block before it starts the next, so that they are not lost with the
node. Only the metadata of files goes to the driver, whose memory hardly grows with the catalog. One
input block makes one file: a task that Ray retries after a crash makes the same rows again, and the
files of its earlier try are in no manifest.
"""

import json
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from raypipe import storage
from raypipe.errors import EngineStartError, QuarantineLimitError, RaypipeError, StorageError
from raypipe.runtime.metrics import Meter
from raypipe.runtime.progress import reported
from raypipe.schemas import QUARANTINE
from raypipe.store import data_files
from raypipe.store.artifacts import Artifact, Attempt
from raypipe.store.data_files import DataFile
from raypipe.store.id_hashes import among, hash_ids, order
from raypipe.store.manifest import Commit, File

logger = logging.getLogger("raypipe.runtime.stream")
NO_IDS = pa.nulls(0, pa.string())  # pa.array would import pandas
_LEFTOVERS_PER_TASK = 16
# What a lost node had read comes again when the task that read it ends, so tasks are short.
_FILES_PER_READ, _LEAST_READS = 4, 200


@dataclass(frozen=True)
class BlockResult:
    """The result of a block of listings.

    ``rows`` are of the artifact's table, all rows of an id; ``refused`` are rows of the quarantine
    table; ``counts`` are summed over all blocks into the commit's counts. ``parts`` names the part
    of every listing where the artifact is made in parts.
    """

    rows: pa.Table
    refused: Sequence[Mapping[str, object]] = ()
    counts: Mapping[str, float] = field(default_factory=dict)
    parts: Mapping[str, str] = field(default_factory=dict)


BlockWriter = Callable[[BlockResult], pa.Table]
"""Writes a result on the worker that made it; returns a DATA_FILES table."""


@dataclass
class Progress:
    """Progress of a plan, for the log."""

    total: int
    done: int
    waiting: Callable[[], str | None]
    trouble: Callable[[], str | None] = lambda: None

    def text(self) -> str | None:
        done = f"{self.done:,} of {self.total:,} listings" if self.done else self.waiting()
        return "; ".join(filter(None, (done, self.trouble()))) or None


@dataclass(frozen=True)
class ActorResources:
    """The resources of one actor of a plan, and how long to wait for them."""

    cpus: float
    gpus: float
    wait_s: int

    def waiting(self) -> str | None:
        """What is missing while the cluster has no room for a single actor."""
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
class StreamPlan:
    """A source of rows and the transform that makes a result of each block.

    ``source`` gets the finished ids and makes a Ray Dataset without them; ``transform`` makes the
    result of every block and passes it to the given :data:`Write`; its Dataset holds the metadata
    of files. ``wanted`` are all input ids, each once. ``finish`` releases what ``transform``
    reserved besides Ray Data's own actors. ``trouble`` says, for the log, what it goes on without.
    """

    source: Callable[[pa.Array], Any]
    transform: Callable[[Any, BlockWriter], Any]
    wanted: pa.Array
    finish: Callable[[], None] = lambda: None
    trouble: Callable[[], str | None] = lambda: None


def run(
    attempt: Attempt,
    plan: StreamPlan,
    *,
    resources: ActorResources,
    max_refused: float = 1.0,
    counts: Mapping[str, Any] | None = None,
) -> Commit:
    """Run what interrupted attempts have not finished, and commit it with their files.

    Args:
        attempt: of the resulting artifact.
        max_refused: share (0-1) of the ids that may be refused.
        counts: stored in addition to the summed ones.

    Raises:
        ArtifactError: an id is lost or duplicated.
        QuarantineLimitError: too many were refused.
        StorageError: a file could not be written.
        EngineStartError: no engine could be started, or the cluster had no room for one.
    """
    files = _salvage(attempt)
    done = pa.concat_arrays([NO_IDS, *(file.ids for file in files)])
    total, refused = len(plan.wanted), num_refused(files)
    summed: Counter[str] = Counter()
    progress = Progress(total, len(done), resources.waiting, plan.trouble)
    # Do not start an engine without work.
    if not pc.all(pc.is_in(plan.wanted, done), min_count=0).as_py():
        dataset = plan.transform(plan.source(done), partial(_write, attempt))
        try:
            for received in _receive(dataset, summed, progress, resources):
                files += received
                refused += num_refused(received)
                check_share(attempt, files, refused, total, max_refused)
        finally:
            plan.finish()
    return attempt.commit(
        expected=plan.wanted,
        written=files,
        counts={
            "listings": total,
            "salvaged": len(done),
            **(counts or {}),
            **{name: round(value, 3) for name, value in summed.items()},
        },
    )


def _receive(
    dataset: Any, summed: Counter[str], progress: Progress, resources: ActorResources
) -> Iterator[list[DataFile]]:
    """Run a plan and yield its files as they arrive."""
    with reported(progress.text):
        for batch in batches(dataset, resources):
            for figures in batch.column("counts").to_pylist():
                summed.update(json.loads(figures))
            received = data_files.from_table(batch.drop_columns(["counts"]))
            progress.done += sum(len(file.ids) for file in received)
            yield received


def batches(dataset: Any, resources: ActorResources) -> Iterator[pa.Table]:
    """Run a plan; what comes out of it, in no order. Raises raypipe's own errors unwrapped."""
    import ray.data

    context = ray.data.DataContext.get_current()
    context.execution_options.preserve_order = False
    context.execution_no_progress_timeout_s = resources.wait_s
    try:
        yield from dataset.iter_batches(batch_size=None, batch_format="pyarrow")
    except RaypipeError:
        raise
    except Exception as error:
        raise unwrap_ray_error(error) from error


def _write(attempt: Attempt, outcome: BlockResult) -> pa.Table:
    made = []
    if len(outcome.rows):
        made.append(attempt.store(outcome.rows))
    if outcome.refused:
        refused = QUARANTINE.from_rows([dict(row) for row in outcome.refused])
        made.append(attempt.store(refused, "quarantine"))
    meter = Meter.of(attempt.artifact, attempt.fingerprint.get("policy_id", ""))
    meter.block(outcome.rows, outcome.refused, outcome.counts)
    # The block's counts go with its first file.
    counts = [json.dumps(dict(outcome.counts)), *["{}"] * len(made)][: len(made)]
    return data_files.to_table(made).append_column("counts", pa.array(counts, pa.string()))


def _salvage(attempt: Attempt) -> list[DataFile]:
    """The usable files of interrupted attempts, read across the cluster."""
    leftovers = attempt.leftovers()
    if not leftovers:
        return []
    import ray.data

    paths = [{"path": path, "kind": kind} for path, kind in leftovers]
    inspected = ray.data.from_items(paths).map_batches(
        partial(_inspect, attempt), batch_format="pyarrow", batch_size=_LEFTOVERS_PER_TASK
    )
    found: list[DataFile] = []
    for batch in inspected.iter_batches(batch_size=None, batch_format="pyarrow"):
        found += data_files.from_table(batch)
    return attempt.salvage(found)


def _inspect(attempt: Attempt, batch: pa.Table) -> pa.Table:
    inspected = [attempt.inspect(row["path"], row["kind"]) for row in batch.to_pylist()]
    return data_files.to_table([file for file in inspected if file is not None])


def rows(artifact: Artifact, columns: Sequence[str]) -> Any:
    """A Ray Dataset of an artifact's rows, file by file; Ray's own reader ignores page checksums.
    Its execution raises ArtifactError on a corrupt file."""
    import ray.data

    files = [asdict(file) for file in artifact.files()]
    tasks = max(_LEAST_READS, len(files) // _FILES_PER_READ)
    return ray.data.from_items(files, override_num_blocks=min(tasks, len(files)) or 1).map_batches(
        partial(_rows, artifact, list(columns)), batch_format="pyarrow", batch_size=1
    )


def _rows(artifact: Artifact, columns: Sequence[str], batch: pa.Table) -> Iterator[pa.Table]:
    for file in batch.to_pylist():
        yield artifact.rows_of(File(**file), columns)


def without(dataset: Any, ids: pa.Array) -> Any:
    """A Dataset without the rows whose ``listing_id`` is among ``ids``, whose hashes are sorted
    once for all blocks."""
    if not len(ids):
        return dataset
    import ray

    hashes = hash_ids(ids)
    shared = ray.put(hashes[order(hashes)])
    return dataset.map_batches(partial(_filtered, shared), batch_format="pyarrow", batch_size=None)


def _filtered(ids: Any, block: pa.Table) -> pa.Table:
    """The rows of a block whose ``listing_id`` is not among ids, by their sorted hashes."""
    import ray

    return block.filter(pa.array(~among(hash_ids(block.column("listing_id")), ray.get(ids))))


def num_refused(files: Iterable[DataFile]) -> int:
    """How many listings some files refuse."""
    return sum(len(file.ids) for file in files if file.entry.kind == "quarantine")


def check_share(
    attempt: Attempt, files: Sequence[DataFile], refused: int, total: int, limit: float
) -> None:
    """Stop early when too many are refused.

    Args:
        files: all that were written; they are looked at only then.
        refused: listings that they refuse.

    Raises:
        QuarantineLimitError: more than ``limit`` (0-1) of ``total`` listings; lists the reasons.
    """
    if refused <= limit * total:
        return
    refusals = [file for file in files if file.entry.kind == "quarantine"]
    artifact = attempt.artifact
    rows = [row for some in refusals[:100] for row in artifact.rows_of(some.entry).to_pylist()]
    reasons = Counter(row["reason"] for row in rows).most_common(3)
    counted = ", ".join(f"{count} {reason}" for reason, count in reasons)
    raise QuarantineLimitError(
        f"{artifact.name} refused {refused:,} of {total:,} listings ({refused / total:.1%}), more "
        f"than catalog.max_quarantined={limit:.1%} allows: {counted} (such as '{rows[0]['id']}': "
        f"{rows[0]['detail']})"
    )


def unwrap_ray_error(error: BaseException) -> BaseException:
    """The raypipe error that a task raised, unwrapped from Ray's exceptions."""
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
