"""The committed nano checkpoint is a real Qwen2.5-VL, small enough to commit."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor, Qwen2_5_VLProcessor

from raypipe.attributes.prompts import TEMPLATE_VERSION, messages, template_digest
from raypipe.config import ModelConfig
from raypipe.embedded.nano import TEMPLATE_FILE
from raypipe.embedded.vision import normalised
from raypipe.models.policies import model_path

NANO = Path(model_path(ModelConfig(path="embedded:nano")))


@pytest.fixture(scope="module")
def processor() -> Qwen2_5_VLProcessor:
    return AutoProcessor.from_pretrained(NANO)


def photo() -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 255, (112, 112, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def test_it_is_at_most_twelve_megabytes() -> None:
    assert sum(path.stat().st_size for path in NANO.iterdir()) <= 12 * 1024 * 1024


def test_an_image_is_sixteen_tokens(processor: Qwen2_5_VLProcessor) -> None:
    text = processor.apply_chat_template(messages("what?", 2, "reasoning"), tokenize=False)
    ids = processor(images=[photo(), photo()], text=text)["input_ids"][0]
    pad = processor.tokenizer.convert_tokens_to_ids("<|image_pad|>")
    assert list(ids).count(pad) == 2 * 16


def test_the_lessons_patches_are_the_processors(processor: Qwen2_5_VLProcessor) -> None:
    expected = processor.image_processor(images=[photo()], return_tensors="pt")["pixel_values"]
    found = normalised(np.asarray(photo())[None], processor)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def test_it_loads_and_answers_in_the_format(processor: Qwen2_5_VLProcessor) -> None:
    model = AutoModelForImageTextToText.from_pretrained(NANO, dtype=torch.float32)
    prompt = (
        "what is the most suitable value for color for this shirt. Color is the main color of the "
        "shirt. Options: ['Red', 'Blue', 'Green', 'Black', 'White', 'Pink']"
    )
    text = processor.apply_chat_template(
        messages(prompt, 1, "reasoning"), tokenize=False, add_generation_prompt=True
    )
    inputs = processor(images=[photo()], text=[text], return_tensors="pt")
    tokens = model.generate(**inputs, max_new_tokens=40, do_sample=False)
    said = processor.tokenizer.decode(
        tokens[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True
    )
    assert "<answer>" in said
    assert "view" in said


def test_it_was_pretrained_on_todays_prompt_template() -> None:
    pretrained = json.loads((NANO / TEMPLATE_FILE).read_text())
    assert pretrained == {"version": TEMPLATE_VERSION, "digest": template_digest()}, (
        "the prompt template has changed since the nano checkpoint was pretrained on it: raise "
        "TEMPLATE_VERSION and pretrain again: python -m raypipe.embedded.pretrain --output …"
    )
