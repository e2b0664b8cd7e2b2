"""Train an adapter with Ray Train: SFT on the seed, DPO or self-learning on a round's chains."""

import logging
import os
from dataclasses import replace
from typing import Any, cast

from pyarrow import fs as pafs

from raypipe import storage
from raypipe.attributes.prompts import TEMPLATE_VERSION, messages
from raypipe.config import Config
from raypipe.errors import (
    ArtifactError,
    EngineStartError,
    NonFiniteLossError,
    RaypipeError,
)
from raypipe.models.families import family_of_checkpoint, model_settings
from raypipe.models.policies import (
    ADAPTER_WEIGHTS,
    PRETRAINED,
    SFT,
    model_identity,
    model_path,
    policy,
)
from raypipe.models.processors import check_processor, load_processor
from raypipe.runtime.progress import reported
from raypipe.seeds import derive
from raypipe.store.artifacts import Attempt, Run, get_or_commit
from raypipe.store.manifest import Commit, versions
from raypipe.store.paths import CATALOG, TENSORBOARD, TRAININGS, Paths
from raypipe.training.checkpoint_files import DamagedCheckpointError, copy_whole
from raypipe.training.loop import Job, TrainingTask, train_worker
from raypipe.training.lora import check_targets, same_adapter
from raypipe.training.progress import training_progress
from raypipe.training.rendezvous import torch_config

logger = logging.getLogger("raypipe.runtime.progress")
_LIST = "checkpoint_manager_snapshot.json"
_LOOK_S = 30


def check_training(config: Config) -> None:
    """Refuse, before anything is sampled, a base model that the configured step cannot train.

    Raises:
        ConfigError: names what is missing, or the step that can.
    """
    named, revision = config.model.path, config.model.revision
    embedded = named.startswith("embedded:")
    path = named if embedded else model_path(config.model)
    family_of_checkpoint(path, revision).check_side(config.catalog.image_size)
    if embedded:
        return
    from raypipe.training.shared_prefix import check_family

    settings = model_settings(path, revision)
    if config.training.step == "shared_prefix":
        check_family(settings)
    check_targets(settings, config.lora)
    turns = messages("which one?", 1, config.model.answer_format)
    check_processor(load_processor(path, revision), named, turns)


def run_sft(config: Config, run: Run, *, name: str = SFT) -> Commit:
    """Commit ``<name>/adapter``: a fresh adapter on the annotated seed (paper §3.1)."""
    task = TrainingTask("sft", PRETRAINED, None, None, _seed(config, 0))
    upstream = {"upstream.seed": run.artifact(CATALOG.seed).require_commit().digest}
    return _run(config, run, name, task, upstream)


def run_round(
    config: Config,
    run: Run,
    *,
    name: str,
    round_index: int,
    start: str,
    source: str,
    reference: str,
    chains_of: str | None = None,
    reference_of: str | None = None,
) -> Commit:
    """Commit ``<name>/adapter``.

    Args:
        name: of the policy that is made.
        start: policy whose adapter the round goes on from, with a fresh optimizer.
        source: scope of the consensus and pairs to learn from.
        reference: the frozen policy that DPO compares with.
        chains_of: scope of the chains that those were made from; None is the source itself.
        reference_of: scope of a larger set of pairs that several trainings take theirs from: the
            reference is asked once for all of it. None asks it of the source's pairs.

    Raises:
        NonFiniteLossError: the training diverged; nothing is committed.
    """
    method = config.training.method
    frozen = reference if method == "dpo" else None
    chains = chains_of or source
    seed = _seed(config, round_index)
    task = TrainingTask(method, start, frozen, source, seed, chains, reference_of)
    upstream = {
        "upstream.chains": run.artifact(Paths(chains).chains).require_commit().digest,
        "upstream.consensus": run.artifact(Paths(source).consensus).require_commit().digest,
        "upstream.pairs": run.artifact(Paths(source).pairs).require_commit().digest,
    }
    return _run(config, run, name, task, upstream)


def _seed(config: Config, round_index: int) -> int:
    return derive(config.run.seed, "training", round_index) % (1 << 31)


def _run(
    config: Config, run: Run, name: str, task: TrainingTask, upstream: dict[str, Any]
) -> Commit:
    fingerprint = {
        **config.fingerprint_keys("sft" if task.method == "sft" else "training"),
        **model_identity(config.model),
        **versions("raypipe", "torch", "transformers", "peft", "trl", "deepspeed"),
        **upstream,
        "template": TEMPLATE_VERSION,
        "start": policy(run, config.model, task.start).policy_id,
        "upstream.listings": run.artifact(CATALOG.listings).require_commit().digest,
    }
    if task.reference is not None:
        fingerprint["reference"] = policy(run, config.model, task.reference).policy_id
    reference = _reference_fingerprint(config, run, task)

    def make(attempt: Attempt) -> Commit:
        storage = run.path(TRAININGS, name, attempt.family)
        return _fit(attempt, Job(name, config, run, task, None, reference, storage))

    return get_or_commit(run.artifact(Paths(name).adapter), fingerprint, make)


def _reference_fingerprint(config: Config, run: Run, task: TrainingTask) -> dict[str, Any]:
    """What the reference's log-probabilities of a pair set depend on."""
    if task.method != "dpo":
        return {}
    return {
        **config.fingerprint_keys("reference"),
        **model_identity(config.model),
        **versions("raypipe", "torch", "transformers", "peft"),
        "template": TEMPLATE_VERSION,
        "reference": policy(run, config.model, task.reference or task.start).policy_id,
        "upstream.pairs": run.artifact(Paths(task.referred).pairs).require_commit().digest,
        "upstream.listings": run.artifact(CATALOG.listings).require_commit().digest,
    }


def _fit(attempt: Attempt, job: Job) -> Commit:
    import ray.train

    from raypipe.runtime.capacity import Room
    from raypipe.training.capacity import WorkerDemand

    run, cluster = job.run, job.config.cluster
    if job.config.training.step == "shared_prefix":
        _build_trees(job)
    demand = WorkerDemand.of(job.config, job.name, Room.of_cluster())
    if line := demand.lacking(Room.of_cluster()):
        logger.warning(line)
    _hurry(demand.wait_s)
    progress = training_progress()
    # Attempts with the same fingerprint share a directory: a new one goes on where the last
    # one's newest whole checkpoint is.
    place = run.path(TRAININGS, job.name)
    forget_list(run, f"{TRAININGS}/{job.name}/{attempt.family}")
    trainer = _trainer_class(demand, progress)(
        train_worker,
        train_loop_config={"job": replace(job, progress=progress)},
        torch_config=torch_config("nccl" if cluster.use_gpu else "gloo"),
        scaling_config=demand.scaling(),
        run_config=ray.train.RunConfig(
            name=attempt.family,
            storage_path=place,
            storage_filesystem=run.filesystem,
            failure_config=ray.train.FailureConfig(max_failures=cluster.max_train_failures),
            checkpoint_config=ray.train.CheckpointConfig(num_to_keep=2),
            worker_runtime_env={"env_vars": _environment(job)},
        ),
    )
    try:
        with reported(lambda: _state(demand, progress)):
            fitted = trainer.fit()
    except ray.train.TrainingFailedError as error:
        raise _explained(error, ray.get(progress.refusal.remote())) from error
    finally:
        for note in ray.get(progress.notes.remote()):
            logger.warning("%s: %s", job.name, note)
    if reason := ray.get(progress.refusal.remote()):
        raise NonFiniteLossError(reason)
    counts = dict(fitted.metrics or {}) | _taken(attempt, job, fitted.checkpoint.path)
    commit = attempt.commit(counts=counts)
    run.filesystem.delete_dir(place)
    return commit


def _build_trees(job: Job) -> None:
    """Commit the trees that the workers read."""
    from raypipe.training.tree_files import pair_trees, target_trees

    config, run, task = job.config, job.run, job.task
    if task.method != "dpo":
        target_trees(config, run, job.name, task.source, task.chains_of or task.source)
        return
    pair_trees(config, run, task.source or "")
    reference = run.artifact(Paths(task.referred).reference)
    if reference.find_commit(job.reference_fingerprint) is None:
        pair_trees(config, run, task.referred)


def _taken(attempt: Attempt, job: Job, checkpoint: str) -> dict[str, bool]:
    """Copy the finished adapter into the attempt; says so where it is the one trained from."""
    from raypipe.training.checkpoints import COUNTS

    made = attempt.local_files()
    try:
        copy_whole(job.run.filesystem, checkpoint, made)
    except DamagedCheckpointError as error:
        raise ArtifactError(
            f"the adapter of {job.name} was damaged while it was handed over: {error}; the same "
            "command trains it again from the newest whole checkpoint"
        ) from error
    (made / COUNTS).unlink()
    start = policy(job.run, job.config.model, job.task.start).adapter_directory()
    weights = None if start is None else start / ADAPTER_WEIGHTS
    return {"unchanged": True} if same_adapter(weights, made / ADAPTER_WEIGHTS) else {}


def forget_list(run: Run, directory: str) -> None:
    """Delete Ray Train's own list of a training's checkpoints, and what lies in its way.

    Ray Train writes ``checkpoint_manager_snapshot.json`` in place, and does not start on half of
    one or on one that names a checkpoint which is gone. What there is to go on from is found by
    looking (:func:`raypipe.training.checkpoints.newest_whole`).
    """
    parts = directory.split("/")
    parents = ["/".join(parts[:number]) for number in range(1, len(parts) + 1)]
    for info in run.look([run.path(path) for path in parents]):
        if info.type not in (pafs.FileType.NotFound, pafs.FileType.Directory):
            run.filesystem.delete_file(info.path)
            return
    [info] = run.look([run.path(directory, _LIST)])
    if info.type == pafs.FileType.Directory:
        run.filesystem.delete_dir(info.path)
    elif info.type != pafs.FileType.NotFound:
        run.filesystem.delete_file(info.path)


def _trainer_class(demand: Any, progress: Any) -> Any:
    """Ray Train's trainer with our own patience, count of failures and end at Ctrl-C."""
    from ray.train.torch import TorchTrainer

    from raypipe.training.node_losses import NodeLossPolicy

    class Trainer(TorchTrainer):  # type: ignore[misc]
        def _initialize_and_run_controller(self, **arguments: Any) -> Any:
            arguments["scaling_policy"] = demand.policy(progress)
            failures = self.run_config.failure_config
            arguments["failure_policy"] = NodeLossPolicy(failures, progress)
            return super()._initialize_and_run_controller(**arguments)

        def _register_sigint_handler(self, controller: Any) -> None:
            """Ctrl-C is the job's own matter: Ray Train takes 20 s to stop, in silence."""

    return Trainer


def _hurry(wait_s: int) -> None:
    """Have Ray Train look at its workers and at the time more often than by default."""
    # Every report waits for a look at the workers, which comes every two seconds.
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.5")
    # How long it waits for a placement group before it asks its policy again.
    seconds = min(_LOOK_S, max(wait_s, 1)) if wait_s >= 0 else _LOOK_S
    os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", str(seconds))


def _state(demand: Any, progress: Any) -> str | None:
    """How far a training is, or what it waits for."""
    import ray

    from raypipe.runtime.capacity import Room

    workers = ray.get(progress.workers.remote())
    if workers == "lacking" or (workers == "asked" and demand.is_pending()):
        return cast("str", demand.waiting(Room.of_cluster()))
    return cast("str | None", ray.get(progress.text.remote()))


def _environment(job: Job) -> dict[str, str]:
    found = {
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        # Before anything of a worker may load a file; see load_tensors_only.
        "TORCH_FORCE_WEIGHTS_ONLY_LOAD": "1",
    }
    if not job.config.cluster.use_gpu:
        found["DS_ACCELERATOR"] = "cpu"
    if job.run.is_local:
        found["TENSORBOARD_LOGGING_DIR"] = job.run.path(TENSORBOARD, job.name)
    return found


def _explained(error: Any, refusal: str | None) -> BaseException:
    """The raypipe error that a worker raised, where there is one."""
    if refusal:
        return NonFiniteLossError(refusal)
    for failure in getattr(error, "worker_failures", {}).values():
        raised: BaseException = getattr(failure, "cause", None) or failure
        if isinstance(raised, RaypipeError):
            return raised
    cause = getattr(error, "controller_failure", None)
    if isinstance(cause, RaypipeError):
        return cause
    if type(cause).__name__ == "InsufficientClusterResourcesError":
        return EngineStartError(f"the cluster may never have these workers: {cause}")
    if storage.is_full(str(error)):
        return storage.failed("a worker could not write", error)
    return RaypipeError(f"training failed: {error}")
