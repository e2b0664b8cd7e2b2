"""Very small models of every family with random weights, and examples to train them on.

And random trees, for what asks no model.
"""

import io
import random
from collections.abc import Sequence
from functools import cache
from typing import Any, Literal

import numpy as np
import torch
from hypothesis import strategies as st
from PIL import Image

from raypipe.attributes.prompts import answer_turn, conversation
from raypipe.config import LoraConfig
from raypipe.embedded import nano
from raypipe.models.families import FAMILIES
from raypipe.training.examples import Examples
from raypipe.training.lora import lora_config
from raypipe.training.trees import ChainNode, Stem, Tokens, Tree

Family = Literal["qwen2_vl", "qwen2_5_vl", "qwen3_vl"]
TOKENS_PER_SIDE = 3
TOKENS_PER_IMAGE = TOKENS_PER_SIDE**2
LORA = LoraConfig(rank=4, alpha=8)
_IDS = ("image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id")
_QWEN3_TEXT = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "max_position_embeddings",
    "pad_token_id",
    "bos_token_id",
    "eos_token_id",
)
_WORDS = ["red", "blue", "leather", "sole", "heel", "view", "sleeve", "long", "plain", "of", "is"]


def side(family: Family = "qwen2_5_vl") -> int:
    """Of images: as many tokens in every family, and four windows of Qwen2.5-VL, of three sizes."""
    return TOKENS_PER_SIDE * FAMILIES[family].pixel_multiple


@cache
def processor(family: Family = "qwen2_5_vl") -> Any:
    """The processor of a family; all have the same tokenizer."""
    from transformers import Qwen2VLProcessor, Qwen3VLProcessor, Qwen3VLVideoProcessor

    made = nano.build_processor()
    if family == "qwen2_vl":
        parts = (made.image_processor, made.tokenizer, made.video_processor)
        made = Qwen2VLProcessor(*parts, chat_template=made.chat_template)
    if family == "qwen3_vl":
        images = type(made.image_processor)(patch_size=FAMILIES[family].patch_size)
        parts = (images, made.tokenizer, Qwen3VLVideoProcessor())
        made = Qwen3VLProcessor(*parts, chat_template=made.chat_template)
    FAMILIES[family].bound_pixels(made, side(family))
    return made


def model(family: Family = "qwen2_5_vl", *, seed: int = 0) -> Any:
    """A base model in float32; the same seed gives the same weights."""
    from transformers import AutoModelForImageTextToText

    torch.manual_seed(seed)
    return AutoModelForImageTextToText.from_config(_config(family), attn_implementation="sdpa")


def in_float64(base: Any) -> Any:
    """The model in float64, its norms too: transformers' compute in float32 whatever comes in."""
    for parent in list(base.modules()):
        for name, module in parent.named_children():
            if type(module).__name__.endswith("RMSNorm"):
                norm = torch.nn.RMSNorm(module.weight.shape, module.variance_epsilon)
                norm.weight = module.weight
                setattr(parent, name, norm)
    return base.double()


def _config(family: Family) -> Any:
    from transformers import Qwen2VLConfig, Qwen3VLConfig

    config = nano.build_config(processor().tokenizer)
    text = config.text_config.to_dict() | {"hidden_size": 64, "intermediate_size": 96}
    text |= {"num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
    rope = text["rope_parameters"] | {"mrope_section": [2, 3, 3]}
    vision = config.vision_config.to_dict() | {"depth": 2, "hidden_size": 32, "num_heads": 2}
    vision |= {"intermediate_size": 48, "out_hidden_size": 64, "fullatt_block_indexes": [1]}
    vision |= {"window_size": 2 * FAMILIES[family].pixel_multiple}
    made = type(config)
    for name in ("layer_types", "model_type"):
        text.pop(name, None)
    if family == "qwen2_vl":
        made = Qwen2VLConfig
        vision = {"depth": 2, "embed_dim": 32, "num_heads": 2, "hidden_size": 64, "mlp_ratio": 2}
    if family == "qwen3_vl":
        made = Qwen3VLConfig
        text = {name: text[name] for name in _QWEN3_TEXT} | {"head_dim": 16}
        rope |= {"mrope_section": [4, 2, 2], "mrope_interleaved": True}
        vision = {"depth": 3, "hidden_size": 32, "num_heads": 2, "intermediate_size": 48}
        vision |= {"patch_size": 16, "out_hidden_size": 64, "num_position_embeddings": 16}
        vision |= {"deepstack_visual_indexes": [0, 1]}
    ids = {name: getattr(config, name) for name in _IDS}
    text |= {"rope_parameters": rope}
    return made(text_config=text, vision_config=vision, tie_word_embeddings=True, **ids)


def with_adapter(base: Any, *, seed: int = 1) -> Any:
    """The model with an adapter that is not the identity."""
    from peft import get_peft_model

    torch.manual_seed(seed)
    wrapped = get_peft_model(base, lora_config(LORA))
    with torch.no_grad():
        for name, parameter in wrapped.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, 0.1)
    return wrapped


def examples(
    *,
    images: Sequence[int] = (2, 2),
    queries: int = 2,
    per_query: int = 2,
    kind: Literal["pair", "target"] = "pair",
) -> Examples:
    """Pairs or targets, with chains of different lengths that occur in more than one pair.

    Args:
        images: of each listing.
    """
    lottery = random.Random(7)
    rows: list[dict[str, Any]] = []
    pictures: dict[str, list[bytes]] = {}
    for number, count in enumerate(images):
        listing_id = f"listing-{number}"
        pictures[listing_id] = [_picture(lottery) for _ in range(count)]
        for query in range(queries):
            question = f"what is the {_words(lottery, 3 + 4 * query)}?"
            chosen = _words(lottery, 4)
            for index in range(per_query):
                row: dict[str, Any] = {"listing_id": listing_id, "attribute": f"attribute-{query}"}
                row["prompt"] = conversation(question, "reasoning")
                other = [answer_turn(_words(lottery, 2 + 3 * index))]
                if kind == "pair":
                    row["chosen"] = [answer_turn(chosen)]
                    row["rejected"] = other
                else:
                    row["completion"] = other
                rows.append(row)
    rows.sort(key=repr)
    return Examples(rows, pictures)


def _words(lottery: random.Random, words: int) -> str:
    return " ".join(lottery.choice(_WORDS) for _ in range(words))


def _picture(lottery: random.Random) -> bytes:
    pixels = np.random.default_rng(lottery.randrange(1 << 30)).integers(0, 255, (side(), side(), 3))
    stream = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).save(stream, "PNG")
    return stream.getvalue()


def _tokens(draw: st.DrawFn, most: int) -> Tokens:
    return np.asarray(draw(st.lists(st.integers(0, 99), min_size=1, max_size=most)), np.int32)


@st.composite
def _tree(draw: st.DrawFn, number: int) -> Tree:
    stems = [Stem(f"attribute-{at}", _tokens(draw, 3)) for at in range(draw(st.integers(1, 3)))]
    chains: list[ChainNode] = []
    examples: list[tuple[int, ...]] = []
    for stem in range(len(stems)):
        first, size = len(chains), draw(st.integers(2, 4))
        chains += [ChainNode(stem, _tokens(draw, 4), -float(first + at)) for at in range(size)]
        pair = st.lists(st.integers(first, first + size - 1), min_size=2, max_size=2, unique=True)
        examples += map(tuple, draw(st.lists(pair, min_size=1, max_size=3)))
    trunk = _tokens(draw, 6)
    weights = tuple(draw(st.floats(0.1, 3)) for _ in examples)
    return Tree(f"listing-{number}", trunk, tuple(stems), tuple(chains), tuple(examples), weights)


@st.composite
def forests(draw: st.DrawFn, *, fewest: int = 1, most: int = 6) -> list[Tree]:
    """Trees of different listings, of pairs within a query; chains may be in several pairs."""
    return [draw(_tree(number)) for number in range(draw(st.integers(fewest, most)))]
