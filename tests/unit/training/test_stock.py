"""``training.step=stock`` with a model of another family: a tiny LLaVA of random weights."""

from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from tokenizers import AddedToken
from transformers import (
    CLIPImageProcessor,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
)
from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer

from raypipe.embedded import nano
from raypipe.models.families import family_of
from raypipe.training.lora import check_trainable, load_reference, with_adapter
from raypipe.training.loss import LossOptions, trl_settings
from tests.fakes import tiny_models as models
from tests.fakes.training_steps import BETA, arguments, step_of

SIDE, PATCH = 28, 14
TOKENS = (SIDE // PATCH) ** 2
TEMPLATE = (
    "{% for message in messages %}{{ message['role'] }}: {% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image>{% else %}{{ part['text'] }}{% endif %}{% endfor %}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}"
)


def llava_processor() -> Any:
    tokenizer = nano.build_tokenizer()
    tokenizer.add_tokens([AddedToken("<image>", special=True)])
    size = {"shortest_edge": SIDE}
    images = CLIPImageProcessor(size=size, crop_size={"height": SIDE, "width": SIDE})
    return LlavaProcessor(
        images,
        tokenizer,
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=TEMPLATE,
    )


def llava(processor: Any) -> Any:
    torch.manual_seed(0)
    layers = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    text = LlamaConfig(
        **layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=len(processor.tokenizer),
        pad_token_id=processor.tokenizer.pad_token_id,
    )
    vision = CLIPVisionConfig(
        **layers, num_attention_heads=2, image_size=SIDE, patch_size=PATCH, projection_dim=32
    )
    token = processor.image_token_id
    return LlavaForConditionalGeneration(
        LlavaConfig(vision_config=vision, text_config=text, image_token_id=token)
    )


@pytest.mark.parametrize("kind", ["target", "pair"])
def test_a_tiny_llava_takes_a_step(kind: Literal["target", "pair"], tmp_path: Path) -> None:
    processor = llava_processor()
    base = llava(processor)
    family = family_of(base)
    family.bound_pixels(processor, SIDE)
    assert family.tokens_per_image(SIDE, lambda: processor) == TOKENS
    model = with_adapter(base, models.LORA, None)
    assert check_trainable(model, models.LORA) > 0
    examples = models.examples(images=(2, 1), queries=1, kind=kind)
    settings = arguments(tmp_path, per_device_train_batch_size=len(examples.rows))
    given: dict[str, Any] = {"train_dataset": examples.dataset(), "processing_class": processor}
    if kind == "pair":
        loss = trl_settings(LossOptions(BETA))
        trainer = DPOTrainer(model, args=DPOConfig(**settings | loss, max_length=None), **given)
        load_reference(trainer.model, None)
    else:
        sft = SFTConfig(**settings, max_length=None, completion_only_loss=True)
        trainer = SFTTrainer(model, args=sft, **given)
    step = step_of(trainer)
    assert step.loss > 0
    assert any(gradient.abs().max() > 0 for gradient in step.gradients.values())
