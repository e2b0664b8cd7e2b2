"""The pairs of ``dpo.py``: listings with exactly the paper's token counts."""

import io
import random
from dataclasses import dataclass
from typing import Any

import numpy as np
from dpo_models import IMAGE_SIDE, TOKENS_PER_IMAGE
from PIL import Image

from raypipe.attributes.prompts import answer_turn, conversation
from raypipe.training.examples import Examples
from raypipe.training.trees import build_trees


@dataclass(frozen=True)
class Shape:
    """The paper's token counts by default (§3)."""

    images: int = 5
    attributes: int = 4
    pairs_per_query: int = 2
    prompt_tokens: int = 600
    completion_tokens: int = 100

    @property
    def pairs(self) -> int:
        return self.attributes * self.pairs_per_query


def build_examples(
    shape: Shape, processor: Any, tokens_per_image: int = TOKENS_PER_IMAGE, seed: int = 0
) -> Examples:
    """One listing's pairs with exactly the shape's token counts; no chain occurs twice."""
    lottery = random.Random(seed)
    tokenizer = processor.tokenizer
    words = [
        text
        for text in (tokenizer.decode([index]) for index in range(len(tokenizer)))
        if text.startswith(" ") and text[1:].isalpha()
    ]

    def said(count: int) -> str:
        return "".join(lottery.choice(words) for _ in range(count))

    overhead = _prompt_overhead(shape, processor, tokens_per_image)
    listing = f"listing-{seed}"
    rows: list[dict[str, Any]] = []
    for attribute in range(shape.attributes):
        text = said(shape.prompt_tokens - overhead)
        for _ in range(shape.pairs_per_query):
            rows.append(
                {
                    "listing_id": listing,
                    "attribute": f"attribute-{attribute}",
                    "prompt": conversation(text, "reasoning"),
                    "chosen": [answer_turn(said(shape.completion_tokens - 2))],
                    "rejected": [answer_turn(said(shape.completion_tokens - 2))],
                }
            )
    return Examples(rows, {listing: [_picture(lottery) for _ in range(shape.images)]})


def _prompt_overhead(shape: Shape, processor: Any, tokens_per_image: int) -> int:
    """Tokens of a prompt around the user's words."""
    row = {
        "listing_id": "x",
        "attribute": "x",
        "prompt": conversation("", "reasoning"),
        "completion": [answer_turn("a")],
    }
    empty = Examples([row], {"x": [b""] * shape.images})
    tree = build_trees(empty, processor, tokens_per_image)[0]
    return len(tree.trunk) + len(tree.stems[0].token_ids)


def _picture(lottery: random.Random) -> bytes:
    pixels = np.random.default_rng(lottery.randrange(1 << 30)).integers(0, 255, (IMAGE_SIDE,) * 2)
    stream = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).convert("RGB").save(stream, "PNG")
    return stream.getvalue()
