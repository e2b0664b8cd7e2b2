"""Muon for matrices and AdamW for the rest: on a small transformer twice the progress a step."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn


class Optimizer:
    """Both optimizers under one warm-up and linear decay.

    Args:
        parameters: what is trained; a tied embedding counts as the rest.
        num_steps: length of the schedule.
        scale: of both learning rates.
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        num_steps: int,
        *,
        embeddings: Iterable[nn.Parameter] = (),
        scale: float = 1.0,
    ) -> None:
        kept = [parameter for parameter in parameters if parameter.requires_grad]
        apart = {id(parameter) for parameter in embeddings}
        matrices = [p for p in kept if p.ndim == 2 and id(p) not in apart]
        others = [p for p in kept if p.ndim != 2 or id(p) in apart]
        self._parameters = kept
        self._optimizers: list[torch.optim.Optimizer] = [
            torch.optim.Muon(matrices, lr=0.02 * scale, momentum=0.95, weight_decay=0.01),
            torch.optim.AdamW(others, lr=2e-3 * scale, betas=(0.9, 0.98), weight_decay=0.0),
        ]
        warmup = max(1, num_steps // 30)

        def share(step: int) -> float:
            return min((step + 1) / warmup, 1.0) * max(0.02, 1 - step / num_steps)

        self._schedules = [
            torch.optim.lr_scheduler.LambdaLR(optimizer, share) for optimizer in self._optimizers
        ]

    def step(self, loss: Tensor) -> None:
        """Backpropagate, clip to norm 1 and take a step."""
        for optimizer in self._optimizers:
            optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self._parameters, 1.0)
        for optimizer in self._optimizers:
            optimizer.step()
        for schedule in self._schedules:
            schedule.step()
