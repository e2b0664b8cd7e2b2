"""The models of ``dpo.py`` with random weights, and their processors."""

from typing import Any

import torch
from transformers import (
    AutoModelForImageTextToText,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen3VLConfig,
    Qwen3VLProcessor,
    Qwen3VLVideoProcessor,
    set_seed,
)

from raypipe.embedded import nano
from raypipe.models.families import QWEN2_5_VL, QWEN3_VL

IMAGE_SIDE = 224
FAMILIES = {"qwen2.5-vl": QWEN2_5_VL, "qwen3-vl": QWEN3_VL}
TOKENS_PER_IMAGE = QWEN2_5_VL.tokens_per_image(IMAGE_SIDE)


def build_qwen2_5_config(name: str, processor: Any) -> Qwen2_5_VLConfig:
    """The small shape keeps the 3B's ratios: vision to language FLOPs, MLP to width, 8 heads a
    group. A merged visual token costs 0.91 of a text token there, 0.93 in the 3B."""
    config = nano.build_config(processor.tokenizer)
    text, vision = config.text_config.to_dict(), config.vision_config.to_dict()
    text.pop("layer_types", None)
    rope = text["rope_parameters"]
    if name == "tiny":
        text |= {"hidden_size": 256, "intermediate_size": 1376, "num_hidden_layers": 4}
        text |= {"num_attention_heads": 8, "num_key_value_heads": 1}
        text |= {"rope_parameters": rope | {"mrope_section": [4, 6, 6]}}
        vision |= {"depth": 5, "hidden_size": 128, "intermediate_size": 344, "num_heads": 4}
        vision |= {"out_hidden_size": 256, "window_size": 112, "fullatt_block_indexes": [4]}
    else:
        text |= {"hidden_size": 2048, "intermediate_size": 11008, "num_hidden_layers": 36}
        text |= {"num_attention_heads": 16, "num_key_value_heads": 2, "vocab_size": 151936}
        text |= {"max_position_embeddings": 128000}
        text |= {"rope_parameters": rope | {"rope_theta": 1e6, "mrope_section": [16, 24, 24]}}
        vision |= {"depth": 32, "hidden_size": 1280, "intermediate_size": 3420, "num_heads": 16}
        vision |= {"out_hidden_size": 2048, "window_size": 112}
        vision |= {"fullatt_block_indexes": [7, 15, 23, 31]}
    ids = {key: getattr(config, key) for key in ("image_token_id", "video_token_id")}
    return Qwen2_5_VLConfig(text_config=text, vision_config=vision, tie_word_embeddings=True, **ids)


def build_qwen3_config(processor: Any) -> Qwen3VLConfig:
    """Keeps the 2B's ratios: a merged visual token, DeepStack included, costs 0.94 of a text token
    (0.93 there),
    an MLP is three times as wide as its layer, and a group has two heads."""
    config = nano.build_config(processor.tokenizer)
    ids = {key: getattr(config, key) for key in ("image_token_id", "video_token_id")}
    rope = {"rope_type": "default", "rope_theta": 1e4, "mrope_interleaved": True}
    text = {"vocab_size": config.text_config.vocab_size, "hidden_size": 256, "head_dim": 32}
    text |= {"intermediate_size": 768, "num_hidden_layers": 4}
    text |= {"num_attention_heads": 8, "num_key_value_heads": 4}
    text |= {"rope_parameters": rope | {"mrope_section": [6, 5, 5]}}
    vision = {"depth": 3, "hidden_size": 112, "intermediate_size": 512, "num_heads": 4}
    vision |= {"out_hidden_size": 256, "deepstack_visual_indexes": [0, 1]}
    return Qwen3VLConfig(text_config=text, vision_config=vision, tie_word_embeddings=True, **ids)


def build_processor(family: str) -> Any:
    """The nano's tokenizer and template, with the family's own image processor."""
    made = nano.build_processor()
    if family == "qwen3-vl":
        images = type(made.image_processor)(patch_size=QWEN3_VL.patch_size)
        parts = (images, made.tokenizer, Qwen3VLVideoProcessor())
        made = Qwen3VLProcessor(*parts, chat_template=made.chat_template)
    FAMILIES[family].bound_pixels(made, IMAGE_SIDE)
    return made


def build_config(name: str, processor: Any, family: str = "qwen2.5-vl") -> Any:
    """Of the small model of a family, or of Qwen2.5-VL-3B."""
    if family == "qwen3-vl":
        return build_qwen3_config(processor)
    return build_qwen2_5_config(name, processor)


def build_model(name: str, processor: Any, family: str = "qwen2.5-vl") -> Any:
    set_seed(0)
    config = build_config(name, processor, family)
    if name == "tiny":
        return AutoModelForImageTextToText.from_config(config)
    config.dtype = torch.bfloat16
    with torch.device("cuda"):
        return Qwen2_5_VLForConditionalGeneration._from_config(config, dtype=torch.bfloat16)


def flops_per_token(model: Any) -> tuple[float, float]:
    """Forward FLOPs of a text token (blocks only) and of a merged visual token, from weights."""
    inner = model.model
    text = 2.0 * sum(p.numel() for p in inner.language_model.layers.parameters())
    blocks = 2.0 * sum(p.numel() for p in inner.visual.blocks.parameters())
    parameters = inner.visual.named_parameters()
    mergers = 2.0 * sum(p.numel() for name, p in parameters if "merger" in name)
    return text, blocks * inner.visual.spatial_merge_size**2 + mergers
