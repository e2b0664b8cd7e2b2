"""Sample a policy: a Ray Data plan that maps listings through a pool of vLLM actors.

One engine session serves both needs of a policy: the greedy pass over eval and anchor that judges
it, and the chains over pool and anchor that the next round votes on. Engine starts are expensive.
"""

import logging
import os
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from raypipe.attributes.pool_slices import WHOLE, Slice
from raypipe.attributes.prompts import TEMPLATE_VERSION
from raypipe.config import Config, SamplingConfig
from raypipe.errors import EngineStartError
from raypipe.models.policies import Policy, model_identity, model_path
from raypipe.runtime import stream
from raypipe.runtime.capacity import Room, engines
from raypipe.sampling import merged_cache
from raypipe.sampling.actor import ChainSource, RowBuilder, SamplingActor, SamplingRequest
from raypipe.sampling.chains import chains_table
from raypipe.sampling.crash_tracker import CrashTracker
from raypipe.schemas import CHAINS, LISTINGS
from raypipe.store.artifacts import Artifact, Attempt, Run, get_or_commit
from raypipe.store.manifest import Commit, versions
from raypipe.store.paths import Paths

logger = logging.getLogger("raypipe.sampling.stage")
GREEDY_SPLITS = frozenset({"eval", "anchor"})
SAMPLED_SPLITS = frozenset({"pool", "anchor"})
EngineStarter = Callable[[Config, Policy], ChainSource]
COLUMNS = ["listing_id", "vertical", "split", "images", "image_hashes", "queries"]


def start_engine(config: Config, policy: Policy) -> ChainSource:
    """Start vLLM in this process for a policy; called inside an actor."""
    from raypipe.sampling.engine import Engine

    return Engine(
        policy.model,
        config.sampling,
        base=model_path(policy.model),
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
    vote_on_eval: bool = False,
    pool: Slice = WHOLE,
    catalog: str = "catalog",
    start: EngineStarter = start_engine,
) -> Commit:
    """Commit ``<scope>/chains``: greedy chains of eval and anchor, sampled ones of pool and anchor.

    Args:
        policy: what is sampled.
        scope: where the chains are committed; the policy's own name, but for a redraw.
        round_index: the round whose seeds the chains take; None makes the greedy pass alone.
        greedy: whether eval and anchor get their greedy chain (a redraw does not need it).
        vote_on_eval: whether eval is sampled too, to measure what a vote knows.
        pool: the part of the pool that is sampled.
        catalog: scope of the listings; another one than the run's own holds foreign listings.
        start: starts an engine inside an actor; tests of faults pass a scripted one.

    Raises:
        EngineStartError: no engine could be started.
        AdapterInactiveError: an engine does not serve the policy's adapter.
        ArtifactError: a listing was lost or doubled.
    """
    listings = run.artifact(Paths(catalog).listings, LISTINGS)
    num_chains = config.sampling.num_chains if round_index is not None else 0
    request = SamplingRequest(
        num_chains=num_chains,
        greedy=GREEDY_SPLITS if greedy else frozenset(),
        sampled=_sampled(vote_on_eval) if num_chains else frozenset(),
        seed_parts=(config.run.seed, "round", -1 if round_index is None else round_index),
    )
    fingerprint = recipe(config, policy, request) | engine_versions()
    fingerprint |= {
        "round_index": round_index,
        "splits": sorted(request.greedy | request.sampled),
        "upstream.listings": listings.require_commit().digest,
    }
    if vote_on_eval:
        fingerprint["sampled"] = sorted(request.sampled)
    if not pool.whole:
        fingerprint["pool"] = [pool.low, pool.high]
    make_rows = partial(chains_table, policy_id=policy.policy_id)

    def make(attempt: Attempt) -> Commit:
        chosen = sampling_plan(
            config,
            listings,
            splits=request.greedy | request.sampled,
            start=start,
            policy=policy,
            request=request,
            make_rows=make_rows,
            leave_out=_outside(listings, pool, config.run.seed),
        )
        return stream.run(
            attempt,
            chosen,
            resources=actor_resources(config),
            max_refused=config.catalog.max_quarantined,
            counts={"chains_per_query": num_chains, "engines": num_engines(config)},
        )

    return get_or_commit(run.artifact(Paths(scope).chains, CHAINS), fingerprint, make)


def _sampled(vote_on_eval: bool) -> frozenset[str]:
    return SAMPLED_SPLITS | {"eval"} if vote_on_eval else SAMPLED_SPLITS


def _outside(listings: Artifact, pool: Slice, seed: int) -> pa.Array:
    """The listings of the pool that are not in the slice."""
    if pool.whole:
        return stream.NO_IDS
    ids = _ids(listings, pa.array(["pool"]))
    return ids.filter(pc.invert(pool.mask(ids, seed)))


def engine_versions() -> dict[str, str]:
    """Versions of the packages that make chains, for fingerprints."""
    return versions("raypipe", "vllm", "transformers", "torch")


def recipe(config: Config, policy: Policy, request: SamplingRequest) -> dict[str, Any]:
    """What chains depend on beside the listings and :func:`engine_versions`, for fingerprints."""
    return {
        **(config.fingerprint_keys("greedy") if request.greedy else {}),
        **(config.fingerprint_keys("sampling") if request.num_chains else {}),
        **model_identity(policy.model),
        "template": TEMPLATE_VERSION,
        "policy_id": policy.policy_id,
    }


def actor_resources(config: Config) -> stream.ActorResources:
    """What an engine's actor needs of the cluster."""
    sampling = config.sampling
    return stream.ActorResources(
        sampling.cpus_per_actor, sampling.gpus_per_actor, config.cluster.capacity_wait_s
    )


def num_engines(config: Config) -> int:
    """Engines that a stage may have on the Ray session that this process is in; one without."""
    import ray

    room = Room.of_cluster() if ray.is_initialized() else Room([], {})
    return config.sampling.num_actors or engines(config.sampling, room)[1]


def sampling_plan(
    config: Config,
    listings: Artifact,
    *,
    splits: Iterable[str],
    start: EngineStarter,
    policy: Policy,
    request: SamplingRequest,
    make_rows: RowBuilder,
    leave_out: pa.Array = stream.NO_IDS,
) -> stream.StreamPlan:
    """A pool of engines over listings.

    Args:
        splits: the listings that are asked.
        start: starts an engine for the policy in an actor's process, with variables as set here.
        request: which chains they get.
        make_rows: makes the rows that come out, of listings and their chains.
        leave_out: ids that are not asked.

    When it runs it raises what :func:`raypipe.runtime.stream.run` does, EngineDiedError (engines
    died one after the other), and AdapterInactiveError (an engine does not serve the policy).
    """
    wanted_splits = pa.array(sorted(splits))

    def source(done: pa.Array) -> Any:
        dataset = stream.rows(listings, COLUMNS).map_batches(
            partial(_of_splits, wanted_splits), batch_format="pyarrow", batch_size=None
        )
        return stream.without(dataset, pa.concat_arrays([done, leave_out]))

    pool = EnginePool(config, start, policy, request, make_rows)
    ids = _ids(listings, wanted_splits)
    if len(leave_out):
        ids = ids.filter(pc.invert(pc.is_in(ids, leave_out)))
    return stream.StreamPlan(source, pool.map, ids, pool.finish, pool.failed_starts)


class EnginePool:
    """A pool of engines as a step of a Ray Data plan.

    Args:
        start: starts an engine for the policy in an actor's process, with variables as set here.
        request: which chains listings get.
        make_rows: makes the rows that come out, of listings and their chains.
    """

    def __init__(
        self,
        config: Config,
        start: EngineStarter,
        policy: Policy,
        request: SamplingRequest,
        make_rows: RowBuilder,
    ) -> None:
        self._sampling = config.sampling
        self._make_engine = _maker(start, config, policy)
        self._request = request
        self._make_rows = make_rows
        self._trackers: list[Any] = []

    def map(self, dataset: Any, write: stream.BlockWriter) -> Any:
        """Ask LISTINGS rows and write what comes out; the Dataset of what ``write`` returns."""
        sampling = self._sampling
        tracker = _start_tracker(sampling)
        self._trackers.append(tracker)
        return dataset.repartition(
            target_num_rows_per_block=sampling.listings_per_call
        ).map_batches(
            SamplingActor,
            fn_constructor_kwargs={
                "make_engine": self._make_engine,
                "request": self._request,
                "make_rows": self._make_rows,
                "write": write,
                "report_crash": partial(_call_tracker, tracker),
            },
            batch_format="pyarrow",
            batch_size=sampling.listings_per_call,  # Ray wants a number with GPUs
            compute=_pool(sampling),
            num_cpus=sampling.cpus_per_actor,
            num_gpus=sampling.gpus_per_actor,
            max_restarts=-1,  # the tracker bound them
            max_task_retries=-1,
        )

    def failed_starts(self) -> str | None:
        """How many engines did not start, and why; None for none."""
        return _failed_starts(self._trackers)

    def finish(self) -> None:
        """Say which engines the step went on without, and release its tracker."""
        _finish(self._trackers)


def _maker(start: EngineStarter, config: Config, policy: Policy) -> Callable[[], ChainSource]:
    """Starts an engine anywhere, with the variables that are set here."""
    variables = {"environment": config.sampling.variables(os.environ)}
    sampling = config.sampling.model_copy(update=variables)
    return partial(_start_engine, start, config.model_copy(update={"sampling": sampling}), policy)


def _start_engine(start: EngineStarter, config: Config, policy: Policy) -> ChainSource:
    """Start an engine in this process, on a node that keeps no more merged weights than it may."""
    cache, limit = merged_cache.merged_directory(), config.sampling.merged_cache_gib
    merged_cache.make_room(cache, None if limit is None else int(limit * merged_cache.GIB))
    engine = start(config, policy)
    for checkpoint in cache.glob(f"{policy.policy_id}*"):
        merged_cache.hold(checkpoint)
    return engine


def _pool(sampling: SamplingConfig) -> Any:
    """Engines, and how many calls each of them works on."""
    import ray.data

    least, most = engines(sampling, Room.of_cluster())
    return ray.data.ActorPoolStrategy(
        min_size=least,
        max_size=most,
        # Ray Data adds engines once 1.75 times what they work on is queued.
        max_tasks_in_flight_per_actor=2 * sampling.calls_in_flight,
        max_concurrent_calls_per_actor=sampling.calls_in_flight,
        enable_true_multi_threading=True,
    )


def _start_tracker(sampling: SamplingConfig) -> Any:
    """The tracker in an actor on the driver's own node, which outlives every engine's."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    remote = ray.remote(CrashTracker).options(num_cpus=0, scheduling_strategy=here)
    least, most = engines(sampling, Room.of_cluster())
    return remote.remote(sampling.max_engine_deaths, least, most > least, _is_alive)


def _is_alive(node_id: str) -> bool:
    import ray

    return any(node["Alive"] for node in ray.nodes() if node["NodeID"] == node_id)


def _finish(trackers: list[Any]) -> None:
    """Say which engines a stage went on without, and release its tracker."""
    import ray

    trouble = _failed_starts(trackers)
    if trouble is not None:
        logger.warning("%s", trouble)
    while trackers:
        ray.kill(trackers.pop())


def _failed_starts(trackers: Sequence[Any]) -> str | None:
    """How many engines did not start, and why; None for none."""
    import ray

    try:
        found = [_call_tracker(tracker, "failures") for tracker in trackers]
    except ray.exceptions.RayError:  # the session ends
        return None
    count, last = found[-1] if found else (0, "")
    if not count:
        return None
    reason = EngineStartError((last.strip().splitlines() or [""])[0][:500])
    return f"{count:,} engine starts failed, the last one with: {reason}"


def _call_tracker(tracker: Any, method: str, *arguments: Any) -> Any:
    import ray

    return ray.get(getattr(tracker, method).remote(*arguments))


def _ids(listings: Artifact, splits: pa.Array) -> pa.Array:
    ids = [pa.array([], pa.string())]
    for table in listings.read_files(["listing_id", "split"]):
        ids += _of_splits(splits, table).column("listing_id").chunks
    return pa.concat_arrays(ids)


def _of_splits(splits: pa.Array, block: pa.Table) -> pa.Table:
    return block.filter(pc.is_in(block.column("split"), splits))
