"""``training.step=stock`` with models of any family, very small and of random weights."""

from pathlib import Path
from typing import Any, Literal

import pytest
from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer

from raypipe.attributes.prompts import messages
from raypipe.models.families import FAMILIES, family_of
from raypipe.models.processors import check_processor
from raypipe.training.lora import check_trainable, load_reference, with_adapter
from raypipe.training.loss import LossOptions, trl_settings
from tests.fakes import small_checkpoints
from tests.fakes import tiny_models as models
from tests.fakes.small_checkpoints import SIDE, TOKENS
from tests.fakes.training_steps import BETA, arguments, step_of


@pytest.mark.parametrize("kind", small_checkpoints.CHECKPOINTS)
@pytest.mark.parametrize("objective", ["target", "pair"])
def test_a_small_model_takes_a_step(
    kind: str, objective: Literal["target", "pair"], tmp_path: Path
) -> None:
    base, processor = small_checkpoints.build(kind)
    model = with_adapter(base, models.LORA, None)
    assert check_trainable(model, models.LORA) > 0
    examples = models.examples(images=(2, 1), queries=1, kind=objective)
    settings = arguments(tmp_path, per_device_train_batch_size=len(examples.rows))
    given: dict[str, Any] = {"train_dataset": examples.dataset(), "processing_class": processor}
    if objective == "pair":
        loss = trl_settings(LossOptions(BETA))
        trainer = DPOTrainer(model, args=DPOConfig(**settings | loss, max_length=None), **given)
        load_reference(trainer.model, None)
    else:
        sft = SFTConfig(**settings, max_length=None, completion_only_loss=True)
        trainer = SFTTrainer(model, args=sft, **given)
    step = step_of(trainer)
    assert step.loss > 0
    assert any(gradient.abs().max() > 0 for gradient in step.gradients.values())


@pytest.mark.parametrize("kind", [k for k in small_checkpoints.CHECKPOINTS if k not in FAMILIES])
def test_an_image_is_as_many_tokens_as_its_processor_makes_of_it(kind: str) -> None:
    base, processor = small_checkpoints.build(kind)
    check_processor(processor, kind, messages("which one?", 1, "reasoning"))
    found = family_of(base).tokens_per_image(SIDE, lambda: processor)
    wanted = 4 * TOKENS if kind == "llava" else TOKENS
    markers = {"smolvlm": 3, "internvl": 2, "gemma3": 4}.get(kind, 0)
    assert found == wanted + markers
