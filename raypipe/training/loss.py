"""The loss of preference pairs: in the shared-prefix step, and as settings of TRL.

Another loss is another field of :class:`LossOptions` and a case in both functions.
"""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from raypipe.config import TrainingConfig
from raypipe.training.shared_prefix import Batch


@dataclass(frozen=True)
class LossOptions:
    """What the loss of pairs depends on.

    Args:
        beta: strength of DPO's pull to the reference (paper §4.1).
        label_smoothing: probability (0-0.5) that a preference is the wrong way round; the loss is
            the expected one (conservative DPO).
        kind: "sigmoid" is DPO's loss, "ipo" that of Azar et al. 2023 (arXiv 2310.12036), of means
            over tokens, as in TRL.
    """

    beta: float
    label_smoothing: float = 0.0
    kind: Literal["sigmoid", "ipo"] = "sigmoid"

    @classmethod
    def from_config(cls, training: TrainingConfig) -> "LossOptions":
        return cls(training.beta, training.label_smoothing, training.loss)


def preference_losses(
    logprobs: Tensor, batch: Batch, options: LossOptions
) -> tuple[Tensor, Tensor]:
    """The loss, times its weight, and the reward margin of every pair of a batch, each (E,).

    Args:
        logprobs: of the batch's chains under the policy, (C,).
    """
    examples = batch.examples.to(logprobs.device)
    gains = logprobs - batch.reference.to(logprobs)
    margins = options.beta * (gains[examples[:, 0]] - gains[examples[:, 1]])
    if options.kind == "ipo":
        lengths = torch.bincount(batch.chain, minlength=batch.num_chains).to(gains)
        means = (gains / lengths)[examples]
        losses = (means[:, 0] - means[:, 1] - 1 / (2 * options.beta)) ** 2
    else:
        smoothing = options.label_smoothing
        losses = (1 - smoothing) * -logsigmoid(margins) + smoothing * -logsigmoid(-margins)
    return batch.weights.to(logprobs) * losses, margins


def trl_settings(options: LossOptions) -> dict[str, Any]:
    """The same loss for TRL's DPOConfig, whose sigmoid loss ignores ``label_smoothing``.

    With losses s of a pair and w of its reverse, conservative DPO is (1-e)s + ew, and TRL's robust
    loss ((1-e)s - ew) / (1-2e): the first is 2(1-e) times s less (1-2e) times the second.
    """
    settings: dict[str, Any] = {"beta": options.beta, "loss_type": [options.kind]}
    smoothing = options.label_smoothing
    if smoothing > 0:
        settings |= {
            "loss_type": ["sigmoid", "robust"],
            "loss_weights": [2 * (1 - smoothing), 2 * smoothing - 1],
            "label_smoothing": smoothing,
        }
    return settings
