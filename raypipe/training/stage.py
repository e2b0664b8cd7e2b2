"""Train an adapter with Ray Train: SFT on the seed, DPO or self-learning on a round's chains."""

import json
import os
import shutil
from dataclasses import replace
from typing import Any

from raypipe.artifacts import Attempt, Run, committed
from raypipe.config import ClusterConfig, Config, flatten
from raypipe.errors import ConfigError, NonFiniteLossError, RaypipeError
from raypipe.manifest import Commit, versions
from raypipe.policies import PRETRAINED, SFT, model_identity, model_path, policy
from raypipe.progress import reported
from raypipe.prompts import TEMPLATE_VERSION
from raypipe.seeds import derive
from raypipe.training.board import step_board
from raypipe.training.loop import Job, Task, train_worker
from raypipe.training.rendezvous import torch_config


def check(config: Config) -> None:
    """Refuse, before anything is sampled, a base model that the configured step cannot train.

    Raises:
        ConfigError: names the step that can.
    """
    if config.training.step == "stock" or config.model.path.startswith("embedded:"):
        return
    from transformers import AutoConfig

    from raypipe.training.shared_prefix import check_family

    path, revision = model_path(config.model), config.model.revision
    try:
        settings = AutoConfig.from_pretrained(path, revision=revision)
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ConfigError(f"model.path={path} cannot be loaded: {reason}") from error
    check_family(settings)


def run_sft(config: Config, run: Run, *, name: str = SFT) -> Commit:
    """Commit ``<name>/adapter``: a fresh adapter on the annotated seed (paper §3.1)."""
    task = Task("sft", PRETRAINED, None, None, _seed(config, 0))
    upstream = {"upstream.seed": run.artifact("catalog/seed").required().digest}
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
    task = Task(method, start, frozen, source, seed, chains, reference_of)
    upstream = {
        "upstream.chains": run.artifact(f"{chains}/chains").required().digest,
        "upstream.consensus": run.artifact(f"{source}/consensus").required().digest,
        "upstream.pairs": run.artifact(f"{source}/pairs").required().digest,
    }
    return _run(config, run, name, task, upstream)


def _seed(config: Config, round_index: int) -> int:
    return derive(config.run.seed, "training", round_index) % (1 << 31)


def _run(config: Config, run: Run, name: str, task: Task, upstream: dict[str, Any]) -> Commit:
    section = "sft" if task.method == "sft" else "training"
    fingerprint = {
        **flatten(task.optimizer(config).outcome(), f"{section}."),
        **flatten(config.lora.outcome(), "lora."),
        **model_identity(config.model),
        **versions("raypipe", "torch", "transformers", "peft", "trl", "deepspeed"),
        **upstream,
        "run.seed": config.run.seed,
        "training.step": config.training.step,
        "template": TEMPLATE_VERSION,
        "start": policy(run, config.model, task.start).policy_id,
        "upstream.listings": run.artifact("catalog/listings").required().digest,
    }
    if task.reference is not None:
        fingerprint["reference"] = policy(run, config.model, task.reference).policy_id
    reference = _reference_fingerprint(config, run, task)

    def make(attempt: Attempt) -> Commit:
        return _fit(attempt, Job(name, config, run, task, None, reference))

    return committed(run.artifact(f"{name}/adapter"), fingerprint, make)


def _reference_fingerprint(config: Config, run: Run, task: Task) -> dict[str, Any]:
    """What the reference's log-probabilities of a pair set depend on."""
    if task.method != "dpo":
        return {}
    return {
        **model_identity(config.model),
        **versions("raypipe", "torch", "transformers", "peft"),
        "template": TEMPLATE_VERSION,
        "reference": policy(run, config.model, task.reference or task.start).policy_id,
        "upstream.pairs": run.artifact(f"{task.referred}/pairs").required().digest,
        "upstream.listings": run.artifact("catalog/listings").required().digest,
    }


def _fit(attempt: Attempt, job: Job) -> Commit:
    import ray.train
    from ray.train.torch import TorchTrainer

    class Trainer(TorchTrainer):  # type: ignore[misc]
        def _register_sigint_handler(self, controller: Any) -> None:
            """Ctrl-C is the job's own matter: Ray Train takes 20 s to stop, in silence."""

    run, cluster = job.run, job.config.cluster
    # Ray Train looks at its workers every two seconds, and every report waits for that.
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.5")
    board = step_board()
    # Attempts with the same fingerprint share a directory: a new one goes on where the last
    # one's newest checkpoint is.
    storage = run.path(".training", job.name)
    forget_torn(run, f".training/{job.name}/{attempt.family}")
    trainer = Trainer(
        train_worker,
        train_loop_config={"job": replace(job, board=board)},
        torch_config=torch_config("nccl" if cluster.use_gpu else "gloo"),
        scaling_config=_scaling(cluster),
        run_config=ray.train.RunConfig(
            name=attempt.family,
            storage_path=storage,
            storage_filesystem=run.filesystem,
            failure_config=ray.train.FailureConfig(max_failures=cluster.max_train_failures),
            checkpoint_config=ray.train.CheckpointConfig(num_to_keep=2),
            worker_runtime_env={"env_vars": _environment(job)},
        ),
    )
    try:
        with reported(lambda: ray.get(board.text.remote())):
            fitted = trainer.fit()
    except ray.train.TrainingFailedError as error:
        raise _explained(error, ray.get(board.refusal.remote())) from error
    if reason := ray.get(board.refusal.remote()):
        raise NonFiniteLossError(reason)
    with fitted.checkpoint.as_directory() as directory:
        shutil.copytree(directory, attempt.local_files(), dirs_exist_ok=True)
    commit = attempt.commit(counts=dict(fitted.metrics or {}))
    run.filesystem.delete_dir(storage)
    return commit


def forget_torn(run: Run, directory: str) -> None:
    """Delete a training's checkpoints when their list was cut short by a kill.

    Ray Train writes ``checkpoint_manager_snapshot.json`` in place and refuses to start on half of
    one; training then begins again from its first step.
    """
    content = run.read(f"{directory}/checkpoint_manager_snapshot.json")
    if content is None:
        return
    try:
        json.loads(content)
    except ValueError:
        run.filesystem.delete_dir(run.path(directory))


def _scaling(cluster: ClusterConfig) -> Any:
    import ray.train

    most, least = cluster.num_train_workers, cluster.min_train_workers
    return ray.train.ScalingConfig(
        num_workers=most if least is None else (least, most),
        use_gpu=cluster.use_gpu,
        resources_per_worker={"CPU": cluster.cpus_per_train_worker}
        | ({"GPU": 1} if cluster.use_gpu else {}),
    )


def _environment(job: Job) -> dict[str, str]:
    found = {"TOKENIZERS_PARALLELISM": "false", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    if not job.config.cluster.use_gpu:
        found["DS_ACCELERATOR"] = "cpu"
    if job.run.is_local:
        found["TENSORBOARD_LOGGING_DIR"] = job.run.path("tensorboard", job.name)
    return found


def _explained(error: Any, refusal: str | None) -> BaseException:
    """The raypipe error that a worker raised, where there is one."""
    if refusal:
        return NonFiniteLossError(refusal)
    for failure in getattr(error, "worker_failures", {}).values():
        cause: BaseException = getattr(failure, "cause", None) or failure
        if isinstance(cause, RaypipeError):
            return cause
    return RaypipeError(f"training failed: {error}")
