"""Very small checkpoints of further families, as a user has them in a directory.

Random weights that were taught one answer format, so that chains vote and pairs come of them.
"""

import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from raypipe.attributes.prompts import Question, completion, messages, user_prompt
from raypipe.embedded import nano
from raypipe.models.families import QWEN3_VL

SIDE, PATCH = 56, 14
TOKENS = (SIDE // PATCH // 2) ** 2
"""Of an image where two by two patches become one token."""
_TEXT = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "head_dim": 32}
_TEXT |= {"num_attention_heads": 2, "num_key_value_heads": 1}
_VISION = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2}
_VISION |= {"num_attention_heads": 2, "image_size": SIDE, "patch_size": PATCH}
_TEMPLATE = (
    "{% for message in messages %}{{ message['role'] }}: {% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}IMAGE{% else %}{{ part['text'] }}{% endif %}{% endfor %}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}"
)
Made = tuple[Any, Any]


def _tokenizer(image: str, **special: str) -> Any:
    """The nano's tokenizer with a family's special tokens, and a template that places images."""
    tokenizer = nano.build_tokenizer()
    tokenizer.add_tokens(sorted({image, *special.values()}), special_tokens=True)
    tokenizer._set_model_specific_special_tokens(special)
    tokenizer.chat_template = _TEMPLATE.replace("IMAGE", image)
    return tokenizer


def _text(tokenizer: Any, **changed: Any) -> dict[str, Any]:
    ends = {"pad_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eos_token_id}
    limits = {"vocab_size": len(tokenizer), "max_position_embeddings": 1024}
    return _TEXT | limits | ends | {"bos_token_id": tokenizer.pad_token_id} | changed


def _llava() -> Made:
    from transformers import (
        CLIPImageProcessor,
        CLIPVisionConfig,
        LlamaConfig,
        LlavaConfig,
        LlavaProcessor,
    )

    tokenizer = _tokenizer("<image>", image_token="<image>")
    crop = {"height": SIDE, "width": SIDE}
    processor = LlavaProcessor(
        CLIPImageProcessor(size={"shortest_edge": SIDE}, crop_size=crop),
        tokenizer,
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=tokenizer.chat_template,
    )
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(**_VISION, projection_dim=64),
        text_config=LlamaConfig(**_text(tokenizer)),
        image_token_id=processor.image_token_id,
    )
    return config, processor


def _smolvlm() -> Made:
    """Of the first generation, whose ``model_type`` is Idefics3's: SmolVLM-Instruct."""
    from transformers import (
        Idefics3Config,
        Idefics3ImageProcessor,
        Idefics3Processor,
        LlamaConfig,
    )

    tokenizer = _tokenizer(
        "<image>",
        image_token="<image>",
        fake_image_token="<fake_token_around_image>",
        global_image_token="<global-img>",
        end_of_utterance_token="<end_of_utterance>",
    )
    edge = {"longest_edge": SIDE}
    processor = Idefics3Processor(
        Idefics3ImageProcessor(size=edge, max_image_size=edge, do_image_splitting=False),
        tokenizer,
        image_seq_len=TOKENS,
        chat_template=tokenizer.chat_template,
    )
    config = Idefics3Config(
        vision_config=_VISION,
        text_config=LlamaConfig(**_text(tokenizer)),
        scale_factor=2,
        image_token_id=processor.image_token_id,
        pad_token_id=tokenizer.pad_token_id,
        tie_word_embeddings=False,
    )
    return config, processor


def _internvl() -> Made:
    from transformers import (
        GotOcr2ImageProcessor,
        InternVLConfig,
        InternVLProcessor,
        InternVLVideoProcessor,
        Qwen2Config,
    )

    tokenizer = _tokenizer(
        "<IMG_CONTEXT>",
        start_image_token="<img>",
        end_image_token="</img>",
        context_image_token="<IMG_CONTEXT>",
        video_token="<video>",
    )
    size = {"height": SIDE, "width": SIDE}
    processor = InternVLProcessor(
        GotOcr2ImageProcessor(size=size, crop_to_patches=False),
        tokenizer,
        InternVLVideoProcessor(size=size),
        image_seq_length=TOKENS,
        chat_template=tokenizer.chat_template,
    )
    config = InternVLConfig(
        vision_config=_VISION | {"image_size": [SIDE, SIDE], "patch_size": [PATCH, PATCH]},
        text_config=Qwen2Config(**_text(tokenizer)),
        image_token_id=processor.image_token_id,
        image_seq_length=TOKENS,
    )
    return config, processor


def _gemma3() -> Made:
    from transformers import (
        Gemma3Config,
        Gemma3ImageProcessor,
        Gemma3Processor,
        Gemma3TextConfig,
        SiglipVisionConfig,
    )

    tokenizer = _tokenizer(
        "<start_of_image>",
        boi_token="<start_of_image>",
        eoi_token="<end_of_image>",
        image_token="<image_soft_token>",
    )
    tokenizer.add_tokens(["\n" * lines for lines in (1, 2, 3, 4)])  # vLLM looks them up
    processor = Gemma3Processor(
        Gemma3ImageProcessor(size={"height": SIDE, "width": SIDE}),
        tokenizer,
        image_seq_length=TOKENS,
        chat_template=tokenizer.chat_template,
    )
    config = Gemma3Config(
        vision_config=SiglipVisionConfig(**_VISION, vision_use_head=False),
        text_config=Gemma3TextConfig(**_text(tokenizer), sliding_window=512),
        mm_tokens_per_image=TOKENS,
        boi_token_index=tokenizer.boi_token_id,
        eoi_token_index=tokenizer.eoi_token_id,
        image_token_id=tokenizer.image_token_id,
    )
    return config, processor


def _qwen3_vl() -> Made:
    from transformers import Qwen3VLConfig, Qwen3VLTextConfig

    processor, ids, vision = _qwen3()
    rope = {"rope_type": "default", "rope_theta": 1e4, "mrope_interleaved": True}
    text = _text(processor.tokenizer, rope_parameters=rope | {"mrope_section": [6, 5, 5]})
    config = Qwen3VLConfig(
        text_config=Qwen3VLTextConfig(**text).to_dict(),
        vision_config=vision | {"deepstack_visual_indexes": [0, 1]},
        tie_word_embeddings=True,
        **ids,
    )
    return config, processor


def _qwen3_5() -> Made:
    """A layer of gated linear attention, and one of full attention with gated queries."""
    from transformers import Qwen3_5Config, Qwen3_5TextConfig

    processor, ids, vision = _qwen3()
    rope = {"rope_type": "default", "rope_theta": 1e4, "mrope_interleaved": True}
    rope |= {"partial_rotary_factor": 0.25, "mrope_section": [2, 1, 1]}
    linear = {"linear_key_head_dim": 32, "linear_value_head_dim": 32}
    linear |= {"linear_num_key_heads": 1, "linear_num_value_heads": 2}
    text = _text(processor.tokenizer, rope_parameters=rope, **linear)
    text |= {"layer_types": ["linear_attention", "full_attention"]}
    config = Qwen3_5Config(
        text_config=Qwen3_5TextConfig(**text).to_dict(),
        vision_config=vision,
        tie_word_embeddings=True,
        **ids,
    )
    return config, processor


def _qwen3() -> tuple[Any, dict[str, int], dict[str, Any]]:
    from transformers import Qwen3VLProcessor, Qwen3VLVideoProcessor

    made = nano.build_processor()
    images = type(made.image_processor)(patch_size=QWEN3_VL.patch_size)
    template = made.chat_template
    processor = Qwen3VLProcessor(
        images, made.tokenizer, Qwen3VLVideoProcessor(), chat_template=template
    )
    QWEN3_VL.bound_pixels(processor, 2 * QWEN3_VL.pixel_multiple)
    names = ("image", "video", "vision_start", "vision_end")
    ids = {f"{name}_token_id": getattr(processor, f"{name}_token_id") for name in names}
    vision = {"depth": 2, "hidden_size": 64, "num_heads": 2, "intermediate_size": 96}
    vision |= {"out_hidden_size": 64, "num_position_embeddings": 16, "patch_size": 16}
    return processor, ids, vision


_ON_HUB = {"llava": "vision_model", "gemma3": "vision_model"}
"""The module that their vision tower's weights are in on the Hub, and vLLM looks for them."""
CHECKPOINTS: dict[str, Callable[[], Made]] = {
    "qwen3_vl": _qwen3_vl,
    "qwen3_5": _qwen3_5,
    "llava": _llava,
    "smolvlm": _smolvlm,
    "internvl": _internvl,
    "gemma3": _gemma3,
}


def build(kind: str) -> Made:
    """Model in float32 and processor; always the same weights."""
    from transformers import AutoModelForImageTextToText

    config, processor = CHECKPOINTS[kind]()
    torch.manual_seed(0)
    return AutoModelForImageTextToText.from_config(config), processor


def write(kind: str, directory: Path, question: Question, answers: Sequence[str]) -> Path:
    """A checkpoint that answers a question with one of ``answers``, in their shares."""
    model, processor = build(kind)
    teach(model, processor, question, answers, steps=300 if kind == "llava" else 120)
    model.save_pretrained(directory)
    processor.save_pretrained(directory)
    if kind in _ON_HUB:
        path = directory / "model.safetensors"
        inner = f"vision_tower.{_ON_HUB[kind]}."
        weights = load_file(path).items()
        renamed = {name.replace("vision_tower.", inner): weight for name, weight in weights}
        save_file(renamed, path, metadata={"format": "pt"})
    return directory


def teach(
    model: Any, processor: Any, question: Question, answers: Sequence[str], steps: int
) -> None:
    """Train all weights on answers to one question about images of noise."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    lottery, noise = random.Random(0), np.random.default_rng(0)
    turns = messages(user_prompt(question), 1, "answer_only")
    prompt = processor.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
    model.train()
    for _ in range(steps):
        said = [completion(lottery.choice(answers), None, "answer_only") for _ in range(8)]
        images = [Image.fromarray(noise.integers(0, 255, (SIDE, SIDE, 3), np.uint8)) for _ in said]
        texts = [f"{prompt}{answer}<|im_end|>\n" for answer in said]
        batch = processor(
            text=texts, images=[[image] for image in images], padding=True, return_tensors="pt"
        )
        labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
        loss = model(**batch, labels=labels).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
