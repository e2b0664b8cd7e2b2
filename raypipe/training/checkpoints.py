"""Between a transformers Trainer and Ray Train: metrics, progress, checkpoints, a fresh start.

A checkpoint holds the adapter, the optimizer of every worker, the schedule and the log so far.
The last one of a training holds the finished adapter instead, its log and its counts.
"""

import json
import math
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import ray.train
import ray.train.collective
from pyarrow import fs as pafs
from transformers import TrainerCallback

from raypipe.errors import NonFiniteLossError, StorageError
from raypipe.store.paths import TRAINING_LOG
from raypipe.training.checkpoint_files import (
    DamagedCheckpointError,
    WorkerFiles,
    checkpoints,
    copy_whole,
    list_files,
)

COUNTS = "counts.json"
_ASK_EVERY_S = 1.0
_LOGGED = {
    "loss": "loss",
    "learning_rate": "learning_rate",
    "grad_norm": "grad_norm",
    "rewards/margins": "margin",
    "rewards/accuracies": "reward_accuracy",
    "logps/chosen": "chosen_logp",
    "logps/rejected": "rejected_logp",
    "tokens_per_second_per_worker": "tokens_per_second_per_worker",
    "peak_memory_gib": "peak_memory_gib",
}


class ReportCallback(TrainerCallback):  # type: ignore[misc]
    """Shows every step as progress; reports metrics to Ray Train with every checkpoint, not more
    often: workers wait for each other, and for seconds, in every report.

    Raises, from the step in question, NonFiniteLossError when a loss or gradient is not a number.
    """

    def __init__(self, progress: Any, zero_stage: int) -> None:
        self._progress = progress
        self._zero_stage = zero_stage
        self._asked = 0.0
        self._leaving: set[str] = set()
        self.has_stepped = False
        """Whether a step was taken, so that what was loaded has been of use."""

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.has_stepped = True
        if self._must_leave(args.device):
            control.should_save = True
        if state.global_step == state.max_steps:
            control.should_save = False  # the finished adapter follows at once

    def _must_leave(self, device: Any) -> bool:
        """Whether a node of this training is newly announced to be taken away (spot).

        Ray Train lets all workers wait for each other in every question, so the first worker says
        when it is time for one.
        """
        import torch
        import torch.distributed as dist

        due = torch.tensor([time.monotonic() - self._asked > _ASK_EVERY_S], device=device)
        dist.broadcast(due, src=0)
        if not due.item():
            return False
        notice = ray.train.get_preemption_info()
        self._asked = time.monotonic()
        leaving = set() if notice is None else set(notice.preempted_node_ids)
        is_new = not leaving <= self._leaving
        self._leaving |= leaving
        return is_new

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float], **_: Any) -> None:
        if "loss" not in logs:
            return
        row = step_row(logs)
        check_finite(state.global_step, row)
        if state.is_world_process_zero:
            self._progress.show.remote(state.global_step, state.max_steps, row["loss"])

    def on_save(self, args: Any, state: Any, control: Any, model: Any, **_: Any) -> None:
        check_weights(state.global_step, model)
        saved = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        context = ray.train.get_context()
        rank, workers = context.get_world_rank(), context.get_world_size()
        list_files(saved, rank=rank, workers=workers, zero_stage=self._zero_stage)
        row = step_row(state.log_history[-1])
        checkpoint = ray.train.Checkpoint.from_directory(saved)
        ray.train.report({"step": state.global_step, **row}, checkpoint=checkpoint)
        shutil.rmtree(saved)


def step_row(logs: Mapping[str, float]) -> dict[str, float]:
    """What is kept of a logged step, under our names."""
    return {_LOGGED[key]: float(logs[key]) for key in logs if key in _LOGGED}


def check_finite(
    step: int, row: Mapping[str, float], queries: Callable[[], Sequence[str]] = tuple
) -> None:
    """Refuse a step that diverged.

    Args:
        queries: what the step was trained on, if known; called for a step that diverged.

    Raises:
        NonFiniteLossError: the loss or the gradient norm is NaN or infinite.
    """
    for name in ("loss", "grad_norm"):
        if not math.isfinite(row.get(name, 0.0)):
            raise NonFiniteLossError(refusal(f"{name} is {row[name]}", step, queries()))


def check_weights(step: int, model: Any) -> None:
    """Refuse an adapter that is not finite.

    Raises:
        NonFiniteLossError: a trained weight is NaN or infinite.
    """
    trained = (weight for weight in model.parameters() if weight.requires_grad)
    if not all(bool(weight.isfinite().all()) for weight in trained):
        raise NonFiniteLossError(refusal("the adapter is not finite", step, ()))


def refusal(fault: str, step: int, queries: Sequence[str]) -> str:
    """What is said of a training that diverged; of many queries the first eight are named."""
    distinct = list(dict.fromkeys(queries))
    named = ", ".join(distinct[:8]) + (f" and {len(distinct) - 8} more" if distinct[8:] else "")
    return (
        f"{fault} at step {step}{f', in {named}' if named else ''}; the round is refused and the "
        "adapter before it stays. A lower learning rate is the first thing to try"
    )


def newest_whole(
    filesystem: pafs.FileSystem, storage: str, zero_stage: int, progress: Any, directory: Path
) -> Path | None:
    """The newest whole checkpoint of this training, copied into a local directory; None at its
    beginning.

    Ray Train hands out the newest alone, whatever became of its files. The first worker looks for
    one that is whole, and says on the progress which are passed over; the others take the same.

    Raises:
        StorageError: the storage is out of reach, or the checkpoint was damaged meanwhile.
    """
    context = ray.train.get_context()
    workers = context.get_world_size()
    chosen: str | None = None
    if context.get_world_rank() == 0:
        rejected = ray.get(progress.rejected.remote())
        chosen, faults = choose(filesystem, storage, directory, zero_stage, workers, rejected)
        for name, reason in faults.items():
            progress.note.remote(f"checkpoint {name} is passed over: {reason}")
    chosen = ray.train.collective.broadcast_from_rank_zero(chosen)
    if chosen is None:
        return None
    target: Path = directory / chosen
    if context.get_world_rank() != 0:
        fault = _copied(filesystem, f"{storage}/{chosen}", target, zero_stage, workers)
        if fault is not None:
            raise StorageError(f"checkpoint {chosen} changed while it was read: {fault}")
    return target


def choose(
    filesystem: pafs.FileSystem,
    storage: str,
    directory: Path,
    zero_stage: int,
    workers: int,
    rejected: Mapping[str, str],
) -> tuple[str | None, dict[str, str]]:
    """The newest checkpoint that this training can go on from, copied into ``directory``.

    Deletes those that are older than the one before it: Ray Train knows nothing of earlier jobs'.

    Args:
        rejected: checkpoints that do not load although they are whole, with reasons.

    Returns:
        Its name, and why newer ones are passed over.
    """
    faults: dict[str, str] = {}
    names = checkpoints(filesystem, storage)
    for index, name in enumerate(names):
        fault = rejected.get(name) or _copied(
            filesystem, f"{storage}/{name}", directory / name, zero_stage, workers
        )
        if fault is None:
            for old in names[index + 2 :]:
                filesystem.delete_dir(f"{storage}/{old}")
            return name, faults
        faults[name] = fault
    return None, faults


def _copied(
    filesystem: pafs.FileSystem, source: str, target: Path, zero_stage: int, workers: int
) -> str | None:
    """Copy a checkpoint; the reason when this training cannot use it."""
    try:
        listed = copy_whole(filesystem, source, target)
    except DamagedCheckpointError as error:
        fault: str | None = str(error)
    else:
        fault = misfit(listed, zero_stage, workers)
    if fault is not None:
        shutil.rmtree(target, ignore_errors=True)
    return fault


def misfit(listed: WorkerFiles, zero_stage: int, workers: int) -> str | None:
    """Why a checkpoint is none of this training's: DeepSpeed cannot put an optimizer together that
    is split in another way. A finished adapter fits always."""
    if TRAINING_LOG in listed.files:
        return None
    # Without ZeRO nothing is split.
    made = (listed.zero_stage, listed.workers if listed.zero_stage else 0)
    if made == (zero_stage, workers if zero_stage else 0):
        return None
    return f"it was made by {listed.workers} workers under ZeRO {listed.zero_stage}"


def finished(checkpoint: Path | None) -> bool:
    """Whether a checkpoint is a training's last: a worker died after handing it over."""
    return checkpoint is not None and (checkpoint / TRAINING_LOG).exists()


def hand_over_again(checkpoint: Path) -> None:
    """Report a finished adapter that an earlier try has left, as its last checkpoint."""
    counts = json.loads((checkpoint / COUNTS).read_text())
    _report_last(checkpoint, counts, is_first=ray.train.get_context().get_world_rank() == 0)


def hand_over(trainer: Any, directory: Path, counts: Mapping[str, Any]) -> None:
    """Report the finished adapter and the log of all steps as the last checkpoint.

    Raises:
        NonFiniteLossError: a weight of the adapter is NaN or infinite.
    """
    check_weights(trainer.state.global_step, trainer.model)
    last = {
        f"last_{name}": value for name, value in step_row(trainer.state.log_history[-2]).items()
    }
    is_first = trainer.is_world_process_zero()
    if is_first:
        trainer.model.save_pretrained(directory, selected_adapters=["default"])
        (directory / "README.md").unlink(missing_ok=True)
        steps = [row for row in trainer.state.log_history if "loss" in row]
        rows = [{"step": row["step"], **step_row(row)} for row in steps]
        (directory / TRAINING_LOG).write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    _report_last(directory, last | dict(counts), is_first=is_first)


def _report_last(directory: Path, counts: Mapping[str, Any], *, is_first: bool) -> None:
    checkpoint = None
    if is_first:
        (directory / COUNTS).write_text(json.dumps(counts))
        list_files(directory, rank=0, workers=1, zero_stage=0)
        checkpoint = ray.train.Checkpoint.from_directory(directory)
    ray.train.report(dict(counts), checkpoint=checkpoint)
