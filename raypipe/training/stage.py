"""Train an adapter with Ray Train: SFT on the seed, DPO or self-learning on a round's chains."""

import shutil
from typing import Any

from raypipe.artifacts import Attempt, Run, committed
from raypipe.config import Config, flatten
from raypipe.errors import NonFiniteLossError, RaypipeError
from raypipe.manifest import Commit, versions
from raypipe.policies import PRETRAINED, SFT, model_identity, policy, round_name
from raypipe.progress import reported
from raypipe.prompts import TEMPLATE_VERSION
from raypipe.seeds import derive
from raypipe.training.loop import Task, train_worker


def run_sft(config: Config, run: Run) -> Commit:
    """Commit ``sft/adapter``: a fresh adapter on the annotated seed (paper §3.1)."""
    task = Task("sft", PRETRAINED, None, None, _seed(config, 0))
    upstream = {"upstream.seed": run.artifact("catalog/seed").required().digest}
    return _run(config, run, SFT, task, upstream)


def run_round(
    config: Config, run: Run, *, round_index: int, start: str, source: str, reference: str
) -> Commit:
    """Commit ``round-<i>/adapter``.

    Args:
        start: policy whose adapter the round goes on from, with a fresh optimizer.
        source: scope of the chains, consensus and pairs to learn from.
        reference: the frozen policy that DPO compares with.

    Raises:
        NonFiniteLossError: the training diverged; nothing is committed.
    """
    method = config.training.method
    frozen = reference if method == "dpo" else None
    task = Task(method, start, frozen, source, _seed(config, round_index))
    upstream = {
        f"upstream.{name}": run.artifact(f"{source}/{name}").required().digest
        for name in ("chains", "consensus", "pairs")
    }
    return _run(config, run, round_name(round_index), task, upstream)


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
        "template": TEMPLATE_VERSION,
        "start": policy(run, config.model, task.start).policy_id,
        "upstream.listings": run.artifact("catalog/listings").required().digest,
    }
    if task.reference is not None:
        fingerprint["reference"] = policy(run, config.model, task.reference).policy_id

    def make(attempt: Attempt) -> Commit:
        return _fit(config, run, attempt, task)

    return committed(run.artifact(f"{name}/adapter"), fingerprint, make)


def _fit(config: Config, run: Run, attempt: Attempt, task: Task) -> Commit:
    import ray.train
    from ray.train.torch import TorchConfig, TorchTrainer

    from raypipe.training.board import step_board

    board = step_board()
    cluster = config.cluster
    storage = run.path(".training")
    environment = {"TOKENIZERS_PARALLELISM": "false", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    if not cluster.use_gpu:
        environment["DS_ACCELERATOR"] = "cpu"
    trainer = TorchTrainer(
        train_worker,
        train_loop_config={"config": config, "run": run, "task": task, "board": board},
        torch_config=TorchConfig(backend="nccl" if cluster.use_gpu else "gloo"),
        scaling_config=ray.train.ScalingConfig(
            num_workers=cluster.num_train_workers,
            use_gpu=cluster.use_gpu,
            resources_per_worker={"CPU": cluster.cpus_per_train_worker}
            | ({"GPU": 1} if cluster.use_gpu else {}),
        ),
        run_config=ray.train.RunConfig(
            name=attempt.name,
            storage_path=storage,
            storage_filesystem=run.filesystem,
            worker_runtime_env={"env_vars": environment},
        ),
    )
    try:
        with reported(lambda: ray.get(board.text.remote())):
            fitted = trainer.fit()
    except ray.train.TrainingFailedError as error:
        raise _explained(error) from error
    with fitted.checkpoint.as_directory() as directory:
        shutil.copytree(directory, attempt.local_files(), dirs_exist_ok=True)
    commit = attempt.commit(counts=dict(fitted.metrics or {}))
    run.filesystem.delete_dir(f"{storage}/{attempt.name}")
    return commit


def _explained(error: Any) -> BaseException:
    """The raypipe error that a worker raised, where there is one."""
    for failure in getattr(error, "worker_failures", {}).values():
        cause: BaseException = getattr(failure, "cause", None) or failure
        if isinstance(cause, RaypipeError):
            return cause
        if NonFiniteLossError.__name__ in str(failure):
            return NonFiniteLossError(str(failure).rsplit(f"{NonFiniteLossError.__name__}: ")[-1])
    return RaypipeError(f"training failed: {error}")
