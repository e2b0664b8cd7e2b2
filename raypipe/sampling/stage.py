"""Sample a policy: a Ray Data plan that maps listings through a pool of vLLM actors.

One engine session serves both needs of a policy: the greedy pass over eval and anchor that judges
it, and the chains over pool and anchor that the next round votes on. Engine starts are expensive.
"""

import contextlib
from collections.abc import Callable
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from raypipe.artifacts import Artifact, Attempt, Run, committed
from raypipe.config import Config, flatten
from raypipe.errors import AdapterInactiveError, EngineStartError, RaypipeError
from raypipe.manifest import Commit, versions
from raypipe.policies import Policy, model_identity, model_path
from raypipe.progress import reported
from raypipe.prompts import TEMPLATE_VERSION
from raypipe.sampling.actor import GREEDY_SPLITS, SAMPLED_SPLITS, ChainSource, SamplingActor
from raypipe.schemas import CHAINS, LISTINGS

# Engine arguments that say how fast, never what; any other one is part of the fingerprint.
ENGINE_RESOURCES = frozenset(
    {
        "block_size",
        "distributed_executor_backend",
        "enable_chunked_prefill",
        "enforce_eager",
        "gpu_memory_utilization",
        "kv_cache_memory_bytes",
        "max_num_batched_tokens",
        "max_num_seqs",
        "mm_processor_cache_gb",
        "pipeline_parallel_size",
        "tensor_parallel_size",
    }
)
EngineStarter = Callable[[Config, Policy], ChainSource]
COLUMNS = ["listing_id", "vertical", "split", "images", "image_hashes", "queries"]


def start_engine(config: Config, policy: Policy) -> ChainSource:
    """Start vLLM in this process for a policy; called inside an actor."""
    from raypipe.sampling.engine import Engine

    return Engine(
        config.model,
        config.sampling,
        base=model_path(config.model),
        adapter=policy.adapter_directory(),
        policy_id=policy.policy_id,
        image_size=config.catalog.image_size,
        max_images=config.catalog.max_images,
    )


def run(
    config: Config,
    run: Run,
    *,
    policy: Policy,
    scope: str,
    round_index: int | None,
    greedy: bool = True,
    start: EngineStarter = start_engine,
) -> Commit:
    """Commit ``<scope>/chains``: greedy chains of eval and anchor, sampled ones of pool and anchor.

    Args:
        policy: what is sampled.
        scope: where the chains are committed; the policy's own name, but for a redraw.
        round_index: the round whose seeds the chains take; None makes the greedy pass alone.
        greedy: whether eval and anchor get their greedy chain (a redraw does not need it).
        start: starts an engine inside an actor; tests of faults pass a scripted one.

    Raises:
        EngineStartError: no engine could be started.
        AdapterInactiveError: an engine does not serve the policy's adapter.
        ArtifactError: a listing was lost or doubled.
    """
    listings = run.artifact("catalog/listings", LISTINGS)
    num_chains = config.sampling.num_chains if round_index is not None else 0
    splits = set(GREEDY_SPLITS if greedy else ()) | set(SAMPLED_SPLITS if num_chains else ())
    fingerprint = {
        **flatten(config.sampling.outcome(), "sampling."),
        **_engine_outcome(config.sampling.engine),
        **model_identity(config.model),
        **versions("raypipe", "vllm", "transformers", "torch"),
        "run.seed": config.run.seed,
        "round_index": round_index,
        "splits": sorted(splits),
        "template": TEMPLATE_VERSION,
        "policy_id": policy.policy_id,
        "upstream.listings": listings.required().digest,
    }
    if not num_chains:
        del fingerprint["sampling.num_chains"]

    def make(attempt: Attempt) -> Commit:
        actor = {
            "make_engine": partial(start, config, policy),
            "policy_id": policy.policy_id,
            "num_chains": num_chains,
            "greedy": greedy,
            "seed_parts": (config.run.seed, "round", -1 if round_index is None else round_index),
            "run": run,
        }
        return _sample(config, listings, attempt, splits, actor)

    return committed(run.artifact(f"{scope}/chains", CHAINS), fingerprint, make)


def _engine_outcome(engine: dict[str, Any]) -> dict[str, Any]:
    return {
        f"sampling.engine.{key}": value
        for key, value in engine.items()
        if key not in ENGINE_RESOURCES
    }


def _sample(
    config: Config,
    listings: Artifact,
    attempt: Attempt,
    splits: set[str],
    actor: dict[str, Any],
) -> Commit:
    """Map what no interrupted attempt has done yet, and commit it with what they left."""
    salvaged = [*attempt.salvage(), *attempt.salvage("quarantine")]
    wanted = _wanted_ids(listings, splits)
    done = attempt.salvaged_ids(salvaged)
    todo = wanted - done
    if todo:
        actor = {**actor, "quarantine": attempt.directory("quarantine")}
        _map_listings(config, listings, todo, actor, attempt.directory("data"))
    counts = {
        "listings": len(wanted),
        "salvaged": len(done),
        "chains_per_query": actor["num_chains"],
    }
    return attempt.commit(expected=wanted, salvaged=salvaged, counts=counts)


def _wanted_ids(listings: Artifact, splits: set[str]) -> set[str]:
    wanted: set[str] = set()
    for table in listings.read_files(["listing_id", "split"]):
        kept = table.filter(pc.is_in(table.column("split"), pa.array(sorted(splits))))
        wanted.update(kept.column("listing_id").to_pylist())
    return wanted


def _map_listings(
    config: Config, listings: Artifact, todo: set[str], actor: dict[str, Any], target: str
) -> None:
    import ray
    import ray.data
    from ray.exceptions import RayError

    sampling = config.sampling
    context = ray.data.DataContext.get_current()
    context.execution_options.preserve_order = False
    context.execution_no_progress_timeout_s = config.cluster.capacity_wait_s
    keep = ray.put(pa.array(sorted(todo)))
    filesystem = listings.run.filesystem
    dataset = (
        ray.data.read_parquet(listings.paths(), filesystem=filesystem)
        .select_columns(COLUMNS)
        .map_batches(partial(_select, keep), batch_format="pyarrow", batch_size=None)
        .repartition(target_num_rows_per_block=sampling.listings_per_call)
        .map_batches(
            SamplingActor,
            fn_constructor_kwargs=actor,
            batch_format="pyarrow",
            batch_size=sampling.listings_per_call,
            compute=ray.data.ActorPoolStrategy(size=sampling.num_actors),
            num_cpus=sampling.cpus_per_actor,
            num_gpus=sampling.gpus_per_actor,
            max_restarts=3,
            max_task_retries=3,
        )
    )
    try:
        with reported(lambda: _progress(listings.run, target, len(todo))):
            dataset.write_parquet(target, filesystem=filesystem, write_page_checksum=True)
    except (RayError, RuntimeError) as error:
        raise _explained(error) from error


def _progress(run: Run, target: str, total: int) -> str | None:
    """How many listings are written; a file that is being written does not count yet."""
    done = 0
    for info in run.filesystem.get_file_info(pafs.FileSelector(target)):
        with contextlib.suppress(pa.ArrowInvalid, OSError):
            done += pq.read_metadata(info.path, filesystem=run.filesystem).num_rows
    return f"{done:,} of {total:,} listings" if done else None


def _select(keep: Any, batch: pa.Table) -> pa.Table:
    import ray

    return batch.filter(pc.is_in(batch.column("listing_id"), ray.get(keep)))


def _explained(error: BaseException) -> BaseException:
    """The raypipe error that an actor raised, out of the layers that Ray wraps it in."""
    kinds: tuple[Callable[[str], RaypipeError], ...] = (AdapterInactiveError, EngineStartError)
    text = str(error)
    for kind in kinds:
        name = getattr(kind, "__name__", "")
        if name in text:
            tail = text.rsplit(f"{name}: ", 1)[-1]
            return kind(tail.split("\n\n")[0].strip())
    return error
