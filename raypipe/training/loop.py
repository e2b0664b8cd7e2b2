"""What one training worker does: a Trainer on a PEFT adapter, under DeepSpeed.

Runs inside Ray Train's workers, which have set up the process group. Two kinds of step: stock
TRL's, for any vision-language model, and ours, which shares prefixes.
"""

import logging
import math
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from raypipe.config import ClusterConfig, Config, OptimizerConfig
from raypipe.errors import InputError, NonFiniteLossError
from raypipe.models.base_model import load_base_model
from raypipe.models.families import family_of
from raypipe.models.policies import model_path, policy
from raypipe.models.processors import load_processor
from raypipe.schemas import REFERENCE, TREES
from raypipe.store.artifacts import Run
from raypipe.store.manifest import Fingerprint
from raypipe.store.paths import TENSORBOARD, Paths
from raypipe.training.examples import Examples, preference_pairs, preferred_targets, seed_targets
from raypipe.training.lora import check_trainable, load_reference, use_adapter, with_adapter
from raypipe.training.memory import activation_bytes, free_bytes, is_short

TrainingMethod = Literal["sft", "dpo", "self_learning"]


@dataclass(frozen=True)
class TrainingTask:
    """One training: what on, from where, compared with what.

    ``start`` and ``reference`` name policies of the run; ``source`` is the scope whose consensus
    and pairs are trained on, ``chains_of`` the one whose chains they were made from; None for the
    seed. ``reference_of`` is the scope beside whose pairs the reference's log-probabilities lie,
    where those hold the source's pairs and more; None is the source itself.
    """

    method: TrainingMethod
    start: str
    reference: str | None
    source: str | None
    seed: int
    chains_of: str | None = None
    reference_of: str | None = None

    @property
    def referred(self) -> str:
        """The scope of the pairs whose chains the reference is asked of."""
        return self.reference_of or self.source or ""

    def trees(self, name: str) -> str:
        """The artifact of the trees that the policy ``name`` is trained on."""
        if self.method == "dpo":
            return Paths(self.source or "").trees
        return Paths(name).target_trees

    def optimizer(self, config: Config) -> OptimizerConfig:
        return config.sft if self.method == "sft" else config.training

    def examples(self, config: Config, run: Run) -> Examples:
        answer_format = config.model.answer_format
        if self.source is None:
            return seed_targets(run, answer_format)
        if self.method == "dpo":
            weight = config.training.pair_weight
            return preference_pairs(run, self.source, answer_format, weight)
        return preferred_targets(run, self.source, self.chains_of or self.source, answer_format)


@dataclass(frozen=True)
class Job:
    """What every worker of a training is given; ``name`` is that of the policy it makes."""

    name: str
    config: Config
    run: Run
    task: TrainingTask
    progress: Any
    reference_fingerprint: Fingerprint
    storage: str
    """Where the checkpoints lie."""


def train_worker(arguments: Mapping[str, Any]) -> None:
    """Train the adapter of a :class:`Job` and report it as the last Ray Train checkpoint.

    Goes on from the newest whole checkpoint when there is one.

    Raises:
        NonFiniteLossError: a loss or gradient norm is NaN or infinite; names the step.
        ConfigError: the adapter would not train exactly the configured projections.
    """
    import ray

    from raypipe.training.checkpoint_files import load_tensors_only
    from raypipe.training.checkpoints import finished, hand_over_again, newest_whole
    from raypipe.training.extension import load_extension

    job: Job = arguments["job"]
    ray.get(job.progress.place.remote(ray.get_runtime_context().get_node_id()))
    if ray.get(job.progress.refusal.remote()):
        return  # Ray Train tries again whatever the fault was; this one would come back
    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    load_tensors_only()
    load_extension()
    filesystem, zero_stage = job.run.filesystem, job.config.cluster.zero_stage
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        checkpoint = newest_whole(filesystem, job.storage, zero_stage, job.progress, directory)
        if checkpoint is not None and finished(checkpoint):
            hand_over_again(checkpoint)
            return
        try:
            _train(job, checkpoint, directory)
        except NonFiniteLossError as error:
            ray.get(job.progress.refuse.remote(str(error)))
            raise


def _train(job: Job, checkpoint: Path | None, directory: Path) -> None:
    import ray
    import ray.train
    from transformers import set_seed

    from raypipe.training.checkpoints import ReportCallback, hand_over
    from raypipe.training.gradient_norms import GradientNorms

    set_seed(job.task.seed)
    processor, model = _load(job)
    counts: dict[str, Any] = {"num_parameters": check_trainable(model, job.config.lora)}
    build = _shared_prefix if job.config.training.step == "shared_prefix" else _stock
    trainer = build(job, model, processor, directory, counts)
    callback = ReportCallback(job.progress, job.config.cluster.zero_stage)
    trainer.add_callback(callback)
    trainer.add_callback(GradientNorms(trainer))
    started = time.monotonic()
    try:
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    except Exception as error:
        if checkpoint is not None and not callback.has_stepped:
            reason = f"training does not go on from it ({type(error).__name__})"
            ray.get(job.progress.reject.remote(checkpoint.name, reason))
        raise
    counts["num_workers"] = ray.train.get_context().get_world_size()
    counts["num_steps"] = trainer.state.global_step
    counts["steps_s"] = round(time.monotonic() - started, 3)
    _keep_events(job, trainer, directory)
    hand_over(trainer, directory / "adapter", counts)


def _keep_events(job: Job, trainer: Any, directory: Path) -> None:
    """Copy TensorBoard's events into a run on an object store; in a local one they are there."""
    from pyarrow.fs import copy_files

    events = directory / "checkpoints" / "runs"
    if trainer.is_world_process_zero() and not job.run.is_local and events.exists():
        target = job.run.path(TENSORBOARD, job.name)
        copy_files(str(events), target, destination_filesystem=job.run.filesystem)


def _load(job: Job) -> tuple[Any, Any]:
    """The processor, and the base model with the adapter that training starts from."""
    config = job.config
    base, revision = model_path(config.model), config.model.revision
    processor = load_processor(base, revision)
    model = load_base_model(base, revision, config.model.dtype)
    family_of(model).bound_pixels(processor, config.catalog.image_size)
    start = policy(job.run, config.model, job.task.start).adapter_directory()
    return processor, with_adapter(model, config.lora, start)


def _shared_prefix(
    job: Job, model: Any, processor: Any, directory: Path, counts: dict[str, Any]
) -> Any:
    """A trainer whose examples are listings, with the reference computed once beforehand."""
    import ray.train
    from ray.train.torch import get_device
    from transformers import TrainingArguments

    from raypipe.training import shared_prefix
    from raypipe.training.loss import LossOptions
    from raypipe.training.pack_reader import PackReader
    from raypipe.training.packing import plan_packs
    from raypipe.training.trainer import SharedPrefixTrainer
    from raypipe.training.tree_index import TreeIndex

    config, task, cluster = job.config, job.task, job.config.cluster
    base = model.get_base_model()
    device = get_device()
    model.to(device)
    shared_prefix.prepare_model(base, checkpointing=_checkpoints(cluster, base, device))
    trees = task.trees(job.name)
    index = TreeIndex.of(job.run.artifact(trees, TREES))
    counts["num_examples"] = _checked(job, int(index.num_examples.sum()))
    by_margin = task.method == "dpo" and config.training.pair_weight == "margin"
    read = PackReader(job.run, trees, index.mean_margin if by_margin else None)
    rope_index = shared_prefix.check_family(base.config).rope_index(base)
    collator = shared_prefix.Collator(processor, {}, rope_index)
    optimizer = task.optimizer(config)
    laid_out = plan_packs(
        index,
        batch_size=optimizer.batch_size,
        epochs=optimizer.epochs,
        max_steps=optimizer.max_steps,
        num_workers=ray.train.get_context().get_world_size(),
        max_tokens=cluster.tokens_per_pack,
        seed=task.seed,
    )
    if task.method == "dpo":
        started = time.monotonic()
        _add_reference(job, model, collator, index, read, laid_out)
        counts["reference_s"] = round(time.monotonic() - started, 3)
    arguments = _arguments(job, directory, len(laid_out.steps)) | {
        "per_device_train_batch_size": 1,
        "gradient_accumulation_steps": laid_out.packs_per_step,
        "num_train_epochs": 1,
        "gradient_checkpointing": False,
        "dataloader_num_workers": 2 if cluster.use_gpu else 0,
    }
    return SharedPrefixTrainer(
        model=model,
        args=TrainingArguments(**arguments),
        plan=laid_out,
        collator=collator,
        objective="preference" if task.method == "dpo" else "target",
        loss=LossOptions.from_config(config.training),
        read=read,
    )


def _checked(job: Job, num_examples: int) -> int:
    if num_examples == 0:
        raise InputError(f"{job.name}: there are no examples to train on")
    return num_examples


def _checkpoints(cluster: ClusterConfig, base: Any, device: Any) -> bool:
    """Whether activations are computed again: as configured, or where memory is short."""
    if cluster.gradient_checkpointing is not None:
        return cluster.gradient_checkpointing
    config, item_bytes = base.config.get_text_config(), base.dtype.itemsize
    needed = activation_bytes(config, item_bytes, cluster.tokens_per_pack)
    return is_short(needed, free_bytes(device))


def _add_reference(
    job: Job, model: Any, collator: Any, index: Any, read: Any, laid_out: Any
) -> None:
    """Have ``read`` give the reference's log-probabilities: committed once, by all workers
    together.

    Of a training whose steps take a part of its trees, the reference is asked of those alone,
    unless it is there for all.
    """
    import ray.train

    from raypipe.training import reference
    from raypipe.training.pack_reader import PackReader
    from raypipe.training.tree_index import TreeIndex

    context, task = ray.train.get_context(), job.task
    rank, workers = context.get_world_rank(), context.get_world_size()
    artifact = job.run.artifact(Paths(task.referred).reference, REFERENCE)
    fingerprint, numbers = job.reference_fingerprint, None
    if not reference.is_committed(artifact, fingerprint, rank):
        if task.reference_of is not None:
            trees = Paths(task.referred).trees
            index, asked = TreeIndex.of(job.run.artifact(trees, TREES)), PackReader(job.run, trees)
        else:
            asked = read
            if len(laid_out.steps) * laid_out.batch_size < index.num_examples.sum():
                artifact = job.run.artifact(Paths(job.name).planned_reference, REFERENCE)
                fingerprint = _planned_fingerprint(job)
                numbers = _numbers(laid_out)
        own = reference.ReferencePass(
            index, asked, collator, numbers, job.config.cluster.tokens_per_pack, rank, workers
        )
        adapter = policy(job.run, job.config.model, task.reference or task.start)
        with use_adapter(model, adapter.adapter_directory()):
            reference.commit_once(artifact, fingerprint, own, model.get_base_model())
    read.set_reference(artifact)


def _planned_fingerprint(job: Job) -> Fingerprint:
    """Of the reference of the trees that a plan takes."""
    optimizer = job.task.optimizer(job.config)
    return {
        **job.reference_fingerprint,
        "seed": job.task.seed,
        "batch_size": optimizer.batch_size,
        "max_steps": optimizer.max_steps,
    }


def _numbers(laid_out: Any) -> list[int]:
    """The trees of a plan by their numbers in its index, each once."""
    packs = (pack for step in laid_out.steps for share in step.packs for pack in share)
    return sorted({tree.number for pack in packs for tree in pack})


def _stock(job: Job, model: Any, processor: Any, directory: Path, counts: dict[str, Any]) -> Any:
    """TRL's own trainer, as it ships, with all examples in memory."""
    import ray.train
    from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer

    from raypipe.training.loss import LossOptions, trl_settings

    examples = job.task.examples(job.config, job.run)
    counts["num_examples"] = _checked(job, len(examples.rows))
    workers = ray.train.get_context().get_world_size()
    sizes = _stock_sizes(job, workers)
    a_step = sizes["gradient_accumulation_steps"] * sizes["per_device_train_batch_size"]
    a_step *= workers
    num_steps = sizes["num_train_epochs"] * math.ceil(len(examples.rows) / a_step)
    if (max_steps := job.task.optimizer(job.config).max_steps) is not None:
        num_steps = sizes["max_steps"] = max_steps
    arguments = _arguments(job, directory, num_steps) | sizes
    if job.task.method == "dpo":
        arguments |= trl_settings(LossOptions.from_config(job.config.training))
        # max_length None: a limit would cut image tokens off.
        settings = DPOConfig(**arguments, max_length=None)
        trainer_class = DPOTrainer
    else:
        settings = SFTConfig(**arguments, max_length=None, completion_only_loss=True)
        trainer_class = SFTTrainer
    trainer = trainer_class(
        model=model, args=settings, train_dataset=examples.dataset(), processing_class=processor
    )
    if job.task.method == "dpo":
        reference = policy(job.run, job.config.model, job.task.reference or job.task.start)
        load_reference(trainer.model, reference.adapter_directory())
    return trainer


def _stock_sizes(job: Job, workers: int) -> dict[str, Any]:
    optimizer, cluster = job.task.optimizer(job.config), job.config.cluster
    share = optimizer.batch_size // workers
    micro = max(size for size in range(1, cluster.micro_batch_size + 1) if share % size == 0)
    return {
        "per_device_train_batch_size": micro,
        "gradient_accumulation_steps": share // micro,
        "num_train_epochs": optimizer.epochs,
        "gradient_checkpointing": cluster.gradient_checkpointing is not False,
        "dataloader_num_workers": 0,
    }


def warmup_steps(share: float, num_steps: int) -> int:
    """Steps over which the learning rate rises: the share of all, but never all of them.

    The first of them is taken at a rate of 0, so one step that is warm-up would change nothing.
    """
    return min(math.ceil(share * num_steps), num_steps - 1)


def _arguments(job: Job, directory: Path, num_steps: int) -> dict[str, Any]:
    optimizer, cluster = job.task.optimizer(job.config), job.config.cluster
    return {
        "output_dir": str(directory / "checkpoints"),
        "learning_rate": optimizer.learning_rate,
        "lr_scheduler_type": "cosine",
        "warmup_steps": warmup_steps(optimizer.warmup_share, num_steps),
        "max_grad_norm": optimizer.max_grad_norm,
        "weight_decay": 0.0,
        "optim": "adamw_torch",
        "seed": job.task.seed,
        "data_seed": job.task.seed,
        "use_cpu": not cluster.use_gpu,
        "bf16": False,  # the base keeps its own type, the adapter is float32
        "deepspeed": deepspeed_config(cluster.zero_stage),
        "logging_steps": 1,
        "logging_nan_inf_filter": False,
        "save_strategy": "steps",
        "save_steps": cluster.checkpoint_steps,
        "report_to": list(job.config.run.report_to),
        "run_name": f"{job.config.run.name}/{job.name}",
        "disable_tqdm": True,
        "remove_unused_columns": False,
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
