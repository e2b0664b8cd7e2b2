"""A transformers Trainer whose micro-batches are packs of token trees.

Everything around the loss is the library's: accumulation, clipping, schedule, DeepSpeed,
checkpoints, callbacks, trackers.
"""

import time
from collections.abc import Callable, Sequence
from typing import Any, Literal, cast

import torch
from torch import Tensor
from torch.utils.data import DataLoader
from transformers import Trainer

from raypipe.errors import NonFiniteLossError
from raypipe.training.checkpoints import check_finite, refusal
from raypipe.training.loss import LossOptions, preference_losses
from raypipe.training.pack_reader import LoadedPack
from raypipe.training.packing import Pack, PackingPlan
from raypipe.training.read_ahead import NumberedPack, ReadAhead, ReadPacks
from raypipe.training.shared_prefix import Batch, Collator, chain_logprobs

Objective = Literal["preference", "target"]
# Under the names that TRL logs them by.
_MEANS = ("rewards/margins", "rewards/accuracies", "logps/chosen", "logps/rejected")
_SUMS = (*_MEANS, "examples", "tokens")
_READ_AHEAD = 2  # packs, or those of a step where it has more


class SharedPrefixTrainer(Trainer):  # type: ignore[misc]
    """Trains on a :class:`PackingPlan`: DPO on pairs, next-token prediction on targets.

    The loss of a step is the mean over its pairs, or over the tokens of its targets, however the
    step is spread over packs and workers. A pair's loss is multiplied by its weight and the sum
    divided by the number of pairs: weights have mean 1 over the whole training, and a step of
    heavier pairs is a larger one. (TRL's SFT averages the means of micro-batches instead,
    where a model takes no ``num_items_in_batch``: equal for one micro-batch.)

    Args:
        model: PEFT model after :func:`raypipe.training.shared_prefix.prepare_model`.
        loss: of pairs; targets do not need it.
        read: a pack of the plan as trees and their images; by default they are what the plan holds,
            and the collator has the images.
    """

    def __init__(
        self,
        model: Any,
        args: Any,
        *,
        plan: PackingPlan[Any],
        collator: Collator,
        objective: Objective,
        loss: LossOptions,
        read: Callable[[Pack[Any]], LoadedPack] = LoadedPack,
        callbacks: Sequence[Any] = (),
    ) -> None:
        self.plan = plan
        self._read = read
        self._collator = collator
        self._objective = objective
        self._loss = loss
        self._sums: dict[str, Any] = dict.fromkeys(_SUMS, 0.0)
        self._since = time.monotonic()
        packs = ReadPacks(plan.num_packs)
        super().__init__(model=model, args=args, train_dataset=packs, callbacks=list(callbacks))
        self.model_accepts_loss_kwargs = False

    def get_train_dataloader(self) -> Any:
        """This worker's packs, in the order of the plan."""
        per_step = self.plan.packs_per_step
        ahead = ReadAhead(
            self.plan,
            self.args.process_index,
            self._read,
            depth=max(_READ_AHEAD, per_step),
            num_done=lambda: self.state.global_step * per_step,
        )
        return DataLoader(
            self.train_dataset,
            batch_sampler=ahead,
            collate_fn=self._collate,
            num_workers=self.args.dataloader_num_workers,
        )

    def _collate(self, items: list[NumberedPack]) -> dict[str, Any]:
        [(step, loaded)] = items
        batch = self._collator(loaded.trees, loaded.images)
        return {"step": step, "pack": loaded.trees, "batch": batch}

    def compute_loss(self, model: Any, inputs: dict[str, Any], *_: Any, **__: Any) -> Tensor:
        """This pack's part of the step's loss, scaled so that accumulation and averaging over
        workers give the step's mean. Raises NonFiniteLossError with the step and the queries."""
        batch, step = inputs["batch"], self.plan.steps[inputs["step"]]
        share = self.args.world_size * self.args.gradient_accumulation_steps
        if batch is None:
            trainable = (p for p in self.model.parameters() if p.requires_grad)
            return torch.stack([p.sum() for p in trainable]).sum() * 0.0
        logprobs = chain_logprobs(self.model.get_base_model(), batch)
        if self._objective == "preference":
            losses, margins = preference_losses(logprobs, batch, self._loss)
            total, size = losses.sum(), step.num_examples
            self._count_pairs(logprobs.detach(), margins.detach(), batch)
        else:
            losses = -logprobs[batch.examples.to(logprobs.device)[:, 0]]
            total, size = losses.sum(), step.num_scored
        self._check(losses.detach(), inputs)
        self._sums["tokens"] += len(batch.token_ids)
        return cast("Tensor", total * (share / size))

    def _count_pairs(self, logprobs: Tensor, margins: Tensor, batch: Batch) -> None:
        named = logprobs[batch.examples.to(logprobs.device)]
        for name, values in (
            ("rewards/margins", margins),
            ("rewards/accuracies", margins > 0),
            ("logps/chosen", named[:, 0]),
            ("logps/rejected", named[:, 1]),
        ):
            self._sums[name] += values.sum()
        self._sums["examples"] += len(margins)

    def _check(self, losses: Tensor, inputs: dict[str, Any]) -> None:
        if torch.isfinite(losses).all():
            return
        names = [name for tree in inputs["pack"] for name in tree.queries]
        bad = [names[index] for index in (~torch.isfinite(losses)).nonzero().flatten().tolist()]
        raise NonFiniteLossError(refusal("a loss is not a number", inputs["step"] + 1, bad))

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds the means and counts of all workers since the last log.

        Raises:
            NonFiniteLossError: the loss or the gradient norm of the step is not a number.
        """
        if "loss" in logs:
            logs |= self._counted()
            step = self.state.global_step
            check_finite(step, logs, lambda: self._queries(step - 1))
        super().log(logs, start_time)

    def _queries(self, step: int) -> list[str]:
        """The queries of all workers in a step."""
        packs = [pack for share in self.plan.steps[step].packs for pack in share]
        return [name for pack in packs for tree in self._read(pack).trees for name in tree.queries]

    def _counted(self) -> dict[str, float]:
        """Means over the examples of all workers, and each worker's speed and memory."""
        seconds, self._since = time.monotonic() - self._since, time.monotonic()
        device = self.args.device
        mine = torch.stack([torch.as_tensor(self._sums[name], device=device) for name in _SUMS])
        self._sums = dict.fromkeys(_SUMS, 0.0)
        speed = torch.stack([mine[-1] / seconds, torch.tensor(peak_memory_gib(device)).to(device)])
        total = self.accelerator.reduce(mine.float(), "sum")
        workers = self.accelerator.gather(speed.float()).view(-1, 2)
        examples, means = total[-2].item(), {}
        if examples:
            means = {name: (total[index] / examples).item() for index, name in enumerate(_MEANS)}
        return means | {
            "tokens_per_second_per_worker": workers[:, 0].mean().item(),
            "peak_memory_gib": workers[:, 1].max().item(),
        }

    def floating_point_ops(self, inputs: Any) -> int:
        """Not estimated: transformers counts the tokens of padded rows."""
        return 0


def peak_memory_gib(device: Any) -> float:
    """Peak memory of this process: the GPU's, or on a CPU its resident set."""
    if torch.device(device).type == "cuda":
        return torch.cuda.max_memory_allocated(device) / (1 << 30)
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 << 20)
