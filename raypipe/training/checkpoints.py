"""Between a transformers Trainer and Ray Train: metrics, progress, checkpoints, a fresh start.

A checkpoint holds the adapter, the optimizer of every worker, the schedule and the log so far.
The last one of a training holds the finished adapter instead, and its log.
"""

import contextlib
import json
import math
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import ray.train
from transformers import TrainerCallback

from raypipe.errors import NonFiniteLossError

TRAINING_LOG = "training.jsonl"
_SHARDS = "shards.json"
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
    """Shows every step on the board; reports metrics to Ray Train with every checkpoint, not more
    often: workers wait for each other, and for seconds, in every report.

    Raises, from the step in question, NonFiniteLossError when a loss or gradient is not a number.
    """

    def __init__(self, board: Any, zero_stage: int) -> None:
        self._board = board
        self._zero_stage = zero_stage

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == state.max_steps:
            control.should_save = False  # the finished adapter follows at once

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float], **_: Any) -> None:
        if "loss" not in logs:
            return
        row = step_row(logs)
        check_finite(state.global_step, row)
        if state.is_world_process_zero:
            self._board.show.remote(state.global_step, state.max_steps, row["loss"])

    def on_save(self, args: Any, state: Any, control: Any, model: Any, **_: Any) -> None:
        check_weights(state.global_step, model)
        saved = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        (saved / _SHARDS).write_text(json.dumps(_shards(self._zero_stage)))
        row = step_row(state.log_history[-1])
        checkpoint = ray.train.Checkpoint.from_directory(saved)
        ray.train.report({"step": state.global_step, **row}, checkpoint=checkpoint)
        shutil.rmtree(saved)


def step_row(logs: Mapping[str, float]) -> dict[str, float]:
    """What is kept of a logged step, under our names."""
    return {_LOGGED[key]: float(logs[key]) for key in logs if key in _LOGGED}


def check_finite(step: int, row: Mapping[str, float], queries: Sequence[str] = ()) -> None:
    """Refuse a step that diverged.

    Args:
        queries: what the step was trained on, if known.

    Raises:
        NonFiniteLossError: the loss or the gradient norm is NaN or infinite.
    """
    for name in ("loss", "grad_norm"):
        if not math.isfinite(row.get(name, 0.0)):
            raise NonFiniteLossError(refusal(f"{name} is {row[name]}", step, queries))


def check_weights(step: int, model: Any) -> None:
    """Refuse an adapter that is not finite: DeepSpeed tells no gradient norm without ZeRO.

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


def _shards(zero_stage: int) -> list[int]:
    """What an optimizer's state is split by: [ZeRO stage, workers], or nothing without ZeRO."""
    return [zero_stage, ray.train.get_context().get_world_size()] if zero_stage else []


@contextlib.contextmanager
def latest(zero_stage: int) -> Iterator[Path | None]:
    """The newest checkpoint of this training as a local directory, None at its beginning.

    A checkpoint whose optimizer is split in another way than this training's is passed over:
    DeepSpeed cannot put it together.
    """
    checkpoint = ray.train.get_checkpoint()
    if checkpoint is None:
        yield None
        return
    with checkpoint.as_directory() as directory:
        saved = Path(directory)
        usable = finished(saved) or json.loads((saved / _SHARDS).read_text()) == _shards(zero_stage)
        yield saved if usable else None


def finished(checkpoint: Path | None) -> bool:
    """Whether a checkpoint is a training's last: a worker died after handing it over."""
    return checkpoint is not None and (checkpoint / TRAINING_LOG).exists()


def hand_over(trainer: Any, directory: Path, counts: Mapping[str, Any]) -> None:
    """Report the finished adapter and the log of all steps as the last checkpoint.

    Raises:
        NonFiniteLossError: a weight of the adapter is NaN or infinite.
    """
    check_weights(trainer.state.global_step, trainer.model)
    checkpoint = None
    if trainer.is_world_process_zero():
        trainer.model.save_pretrained(directory, selected_adapters=["default"])
        (directory / "README.md").unlink(missing_ok=True)
        steps = [row for row in trainer.state.log_history if "loss" in row]
        rows = [{"step": row["step"], **step_row(row)} for row in steps]
        (directory / TRAINING_LOG).write_text("".join(f"{json.dumps(row)}\n" for row in rows))
        checkpoint = ray.train.Checkpoint.from_directory(directory)
    last = {
        f"last_{name}": value for name, value in step_row(trainer.state.log_history[-2]).items()
    }
    ray.train.report(last | dict(counts), checkpoint=checkpoint)
