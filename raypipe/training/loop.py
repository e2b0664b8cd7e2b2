"""What one training worker does: stock TRL trainers on a PEFT adapter, under DeepSpeed.

Runs inside Ray Train's workers, which have set up the process group. Only rank 0 keeps the log and
saves the adapter.
"""

import json
import logging
import math
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from raypipe.artifacts import Run
from raypipe.config import Config, OptimizerConfig
from raypipe.errors import NonFiniteLossError
from raypipe.policies import model_path, policy
from raypipe.training.examples import (
    Examples,
    preference_pairs,
    preferred_targets,
    seed_targets,
)
from raypipe.training.lora import check_trainable, load_reference, with_adapter

TRAINING_LOG = "training.jsonl"
Method = Literal["sft", "dpo", "self_learning"]

_LOGGED = {
    "loss": "loss",
    "learning_rate": "learning_rate",
    "grad_norm": "grad_norm",
    "rewards/margins": "margin",
    "rewards/accuracies": "reward_accuracy",
    "logps/chosen": "chosen_logp",
    "logps/rejected": "rejected_logp",
}


@dataclass(frozen=True)
class Task:
    """One training: what on, from where, compared with what.

    ``start`` and ``reference`` name policies of the run; ``source`` is the scope whose chains,
    consensus and pairs are trained on, None for the seed.
    """

    method: Method
    start: str
    reference: str | None
    source: str | None
    seed: int

    def optimizer(self, config: Config) -> OptimizerConfig:
        return config.sft if self.method == "sft" else config.training

    def examples(self, config: Config, run: Run) -> Examples:
        answer_format = config.model.answer_format
        if self.source is None:
            return seed_targets(run, answer_format)
        if self.method == "dpo":
            return preference_pairs(run, self.source, answer_format)
        return preferred_targets(run, self.source, answer_format)


def train_worker(arguments: Mapping[str, Any]) -> None:
    """Train the adapter of a :class:`Task` and report it as the final Ray Train checkpoint.

    Raises:
        NonFiniteLossError: a loss or gradient norm is NaN or infinite; names the step.
        ConfigError: the adapter would not train exactly the configured projections.
    """
    import ray.train
    import torch
    from transformers import AutoModelForImageTextToText, AutoProcessor, set_seed

    config: Config = arguments["config"]
    run: Run = arguments["run"]
    task: Task = arguments["task"]
    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    set_seed(task.seed)
    base, revision = model_path(config.model), config.model.revision
    processor = AutoProcessor.from_pretrained(base, revision=revision)
    _fix_image_size(processor, config.catalog.image_size)
    model = AutoModelForImageTextToText.from_pretrained(
        base, revision=revision, dtype=getattr(torch, config.model.dtype)
    )
    start = policy(run, config.model, task.start).adapter_directory()
    model = with_adapter(model, config.lora, start)
    num_parameters = check_trainable(model, config.lora)
    dataset = task.examples(config, run).dataset()
    log = _StepLog(arguments["board"])
    with tempfile.TemporaryDirectory() as directory:
        trainer = _trainer(config, task, model, processor, dataset, log.callback(), directory)
        if task.method == "dpo":
            reference = policy(run, config.model, task.reference or task.start)
            load_reference(trainer.model, reference.adapter_directory())
        trainer.train()
        final = {"num_examples": len(dataset), "num_parameters": num_parameters}
        final["num_steps"] = trainer.state.global_step
        checkpoint = None
        if trainer.is_world_process_zero():
            target = Path(directory) / "adapter"
            trainer.model.save_pretrained(target, selected_adapters=["default"])
            (target / "README.md").unlink(missing_ok=True)
            (target / TRAINING_LOG).write_text("".join(f"{json.dumps(s)}\n" for s in log.steps))
            checkpoint = ray.train.Checkpoint.from_directory(target)
        ray.train.report(final, checkpoint=checkpoint)


def _fix_image_size(processor: Any, side: int) -> None:
    """Every image is already ``side`` pixels square; the processor must leave it so."""
    processor.image_processor.size = {"shortest_edge": side**2, "longest_edge": side**2}


def _trainer(
    config: Config,
    task: Task,
    model: Any,
    processor: Any,
    dataset: Any,
    callback: Any,
    directory: str,
) -> Any:
    from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer

    arguments = _arguments(config, task, directory)
    if task.method == "dpo":
        # max_length None: a limit would cut image tokens off.
        settings = DPOConfig(**arguments, beta=config.training.beta, max_length=None)
        trainer_class = DPOTrainer
    else:
        settings = SFTConfig(**arguments, max_length=None, completion_only_loss=True)
        trainer_class = SFTTrainer
    return trainer_class(
        model=model,
        args=settings,
        train_dataset=dataset,
        processing_class=processor,
        callbacks=[callback],
    )


def _arguments(config: Config, task: Task, directory: str) -> dict[str, Any]:
    optimizer, cluster = task.optimizer(config), config.cluster
    share = optimizer.batch_size // cluster.num_train_workers
    micro = max(size for size in range(1, cluster.micro_batch_size + 1) if share % size == 0)
    return {
        "output_dir": directory,
        "per_device_train_batch_size": micro,
        "gradient_accumulation_steps": share // micro,
        "num_train_epochs": optimizer.epochs,
        "learning_rate": optimizer.learning_rate,
        "lr_scheduler_type": "cosine",
        "warmup_steps": optimizer.warmup_share,
        "max_grad_norm": optimizer.max_grad_norm,
        "weight_decay": 0.0,
        "optim": "adamw_torch",
        "seed": task.seed,
        "data_seed": task.seed,
        "use_cpu": not cluster.use_gpu,
        "bf16": False,  # the base keeps its own type, the adapter is float32
        "gradient_checkpointing": cluster.gradient_checkpointing,
        "deepspeed": deepspeed_config(cluster.zero_stage),
        "logging_steps": 1,
        "logging_nan_inf_filter": False,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "remove_unused_columns": False,
        "dataloader_num_workers": 0,
        "dataloader_pin_memory": cluster.use_gpu,
    }


def deepspeed_config(zero_stage: int) -> dict[str, Any]:
    """DeepSpeed's settings; "auto" takes them from the trainer, the optimizer is torch's AdamW."""
    return {
        "train_micro_batch_size_per_gpu": "auto",
        "gradient_accumulation_steps": "auto",
        "train_batch_size": "auto",
        "gradient_clipping": "auto",
        "zero_optimization": {"stage": zero_stage},
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": 1_000_000,
        "wall_clock_breakdown": False,
    }


class _StepLog:
    """Collects one row per optimizer step, shows progress, and stops a training that diverged."""

    def __init__(self, board: Any) -> None:
        self.steps: list[dict[str, float]] = []
        self._board = board

    def callback(self) -> Any:
        from transformers import TrainerCallback

        steps, board = self.steps, self._board

        class StepCallback(TrainerCallback):  # type: ignore[misc]
            def on_log(
                self, args: Any, state: Any, control: Any, logs: dict[str, float], **_: Any
            ) -> None:
                if "loss" not in logs:
                    return
                row = {_LOGGED[key]: float(logs[key]) for key in logs if key in _LOGGED}
                check_finite(state.global_step, row)
                steps.append({"step": state.global_step, **row})
                if state.is_world_process_zero:
                    board.show.remote(state.global_step, state.max_steps, row["loss"])

        return StepCallback()


def check_finite(step: int, row: Mapping[str, float]) -> None:
    """Raises NonFiniteLossError when the loss or the gradient norm of a step is not a number."""
    for name in ("loss", "grad_norm"):
        if name in row and not math.isfinite(row[name]):
            raise NonFiniteLossError(
                f"{name} is {row[name]} at step {step}; the round is refused and the adapter "
                "before it stays. A lower learning rate is the first thing to try"
            )
