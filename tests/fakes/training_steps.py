"""An optimizer step of the shared-prefix trainer, and the same one of TRL's, on tiny models."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from transformers import TrainerCallback, TrainingArguments
from trl import DPOConfig, DPOTrainer

from raypipe.training import lora
from raypipe.training.examples import Examples
from raypipe.training.loss import LossOptions
from raypipe.training.packing import PackingPlan, plan_packs
from raypipe.training.reference import reference_logprobs
from raypipe.training.shared_prefix import Collator, prepare_model
from raypipe.training.trainer import SharedPrefixTrainer
from raypipe.training.trees import Tree, build_trees
from tests.fakes import tiny_models as models
from tests.fakes.tiny_models import Family

BETA = 0.2
LOSS = LossOptions(BETA)
TOLERANCE = 1e-9
EVERYTHING = 1 << 30


@dataclass(frozen=True)
class Taken:
    """An optimizer step: its loss and, just before the weights move, the gradients."""

    loss: float
    gradients: dict[str, torch.Tensor]


class Gradients(TrainerCallback):
    def __init__(self) -> None:
        self.found: dict[str, torch.Tensor] = {}

    def on_pre_optimizer_step(self, *_: Any, model: Any, **__: Any) -> None:
        parameters = model.named_parameters()
        self.found = {name: p.grad.clone() for name, p in parameters if p.grad is not None}


def step_of(trainer: Any) -> Taken:
    gradients = Gradients()
    trainer.add_callback(gradients)
    loss = trainer.train().training_loss
    assert trainer.state.global_step == 1
    return Taken(loss, gradients.found)


def arguments(directory: Path, **changed: Any) -> dict[str, Any]:
    return {
        "output_dir": str(directory),
        "per_device_train_batch_size": 1,
        "num_train_epochs": 1,
        "max_grad_norm": 0.0,
        "logging_steps": 1,
        "report_to": "none",
        "disable_tqdm": True,
        "save_strategy": "no",
        "remove_unused_columns": False,
        "gradient_checkpointing": False,
        "use_cpu": True,
        "bf16": False,
    } | changed


class HeadInFloat64:
    """What TRL's fused head computes, by its definition: TRL's own is float32 in any model."""

    @staticmethod
    def apply(hidden: Any, weight: Any, bias: Any, targets: Any, *_: Any) -> tuple[Any, ...]:
        logits = torch.nn.functional.linear(hidden, weight, bias)
        logprobs = logits.log_softmax(-1)
        found = logprobs.gather(-1, targets[:, None])[:, 0]
        entropy = -(logprobs.exp() * logprobs).sum(-1)
        purity = (2 * logprobs).logsumexp(-1)
        return found, entropy, purity, logits.mean(-1), logits.argmax(-1) == targets


def policy(family: Family = "qwen2_5_vl") -> Any:
    """The model that is trained, always with the same weights, in float64."""
    return models.with_adapter(models.in_float64(models.model(family)))


def collator_of(base: Any, examples: Examples) -> Collator:
    own = models.processor(base.config.model_type)
    return Collator(own, examples.images, base.model.get_rope_index)


def trees_of(examples: Examples) -> list[Tree]:
    return build_trees(examples, models.processor(), models.TOKENS_PER_IMAGE)


def with_reference(examples: Examples, family: Family, adapter: Path | None) -> list[Tree]:
    """The pairs' trees with what the reference policy says of their chains."""
    trees, base = trees_of(examples), models.in_float64(models.model(family))
    if adapter is not None:
        base = lora.with_adapter(base, models.LORA, adapter).get_base_model()
    prepare_model(base, checkpointing=False)
    said = reference_logprobs(base, trees, collator_of(base, examples), EVERYTHING)
    return [tree.with_reference(values) for tree, values in zip(trees, said, strict=True)]


def ours(
    examples: Examples,
    trees: Sequence[Tree],
    directory: Path,
    *,
    family: Family = "qwen2_5_vl",
    objective: Literal["preference", "target"] = "preference",
    checkpointing: bool = False,
    max_tokens: int = EVERYTHING,
    loss: LossOptions = LOSS,
) -> SharedPrefixTrainer:
    """A training of a single step over all examples."""
    laid_out = plan_packs(
        trees,
        batch_size=len(examples.rows),
        epochs=1,
        num_workers=1,
        max_tokens=max_tokens,
        seed=0,
    )
    settings = arguments(directory, gradient_accumulation_steps=laid_out.packs_per_step)
    return shared_trainer(
        examples,
        laid_out,
        TrainingArguments(**settings),
        family,
        objective,
        checkpointing,
        loss,
    )


def shared_trainer(
    examples: Examples,
    laid_out: PackingPlan[Tree],
    settings: TrainingArguments,
    family: Family = "qwen2_5_vl",
    objective: Literal["preference", "target"] = "preference",
    checkpointing: bool = False,
    loss: LossOptions = LOSS,
) -> SharedPrefixTrainer:
    model = policy(family)
    prepare_model(model.get_base_model(), checkpointing=checkpointing)
    return SharedPrefixTrainer(
        model=model,
        args=settings,
        plan=laid_out,
        collator=collator_of(model.get_base_model(), examples),
        objective=objective,
        loss=loss,
    )


def trl_dpo(
    examples: Examples,
    directory: Path,
    adapter: Path | None,
    family: Family = "qwen2_5_vl",
    **loss: Any,
) -> Any:
    settings = arguments(directory, per_device_train_batch_size=len(examples.rows))
    trainer = DPOTrainer(
        model=policy(family),
        args=DPOConfig(**settings | {"beta": BETA} | loss, max_length=None),
        train_dataset=examples.dataset(),
        processing_class=models.processor(family),
    )
    lora.load_reference(trainer.model, adapter)
    return trainer


def summed(steps: Sequence[Taken], shares: Sequence[float]) -> Taken:
    """Steps in their shares, added up."""
    parts = list(zip(steps, shares, strict=True))
    return Taken(
        sum(step.loss * share for step, share in parts),
        {
            name: sum(step.gradients[name] * share for step, share in parts)
            for name in parts[0][0].gradients
        },
    )


def worst(found: torch.Tensor, wanted: torch.Tensor) -> float:
    """The largest difference, relative to the largest value."""
    return ((found - wanted).abs().max() / wanted.abs().max()).item()


def assert_same(found: Taken, wanted: Taken, tolerance: float = TOLERANCE) -> None:
    assert found.loss == pytest.approx(wanted.loss, rel=1e-6)  # a Trainer sums it in float32
    assert len(wanted.gradients) == 2 * 2 * 2  # A and B, query and value, two layers
    assert found.gradients.keys() == wanted.gradients.keys()
    for name, gradient in wanted.gradients.items():
        assert gradient.abs().max() > 0
        assert worst(found.gradients[name], gradient) < tolerance, name
