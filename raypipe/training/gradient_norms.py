"""The gradient norm of a training without ZeRO: DeepSpeed computes it to clip, and forgets it."""

from functools import partial
from typing import Any

import torch
from transformers import TrainerCallback


class GradientNorms(TrainerCallback):  # type: ignore[misc]
    """Has the engine of ``trainer`` keep the norm where ``get_global_grad_norm`` looks for it."""

    def __init__(self, trainer: Any) -> None:
        self._trainer = trainer

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        engine = self._trainer.deepspeed
        if engine is not None and not engine.zero_optimization():
            engine.clip_fp32_gradients = partial(_clip, engine)


def _clip(engine: Any) -> None:
    """Workers have averaged their gradients by now, so that all find the same norm."""
    trained = [weight for weight in engine.module.parameters() if weight.requires_grad]
    norm = torch.nn.utils.clip_grad_norm_(trained, engine.gradient_clipping())
    engine._global_grad_norm = float(norm)
