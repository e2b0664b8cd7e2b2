"""Teach the vision tower first: a classification head per attribute on the visual tokens.

End to end from nothing, a nano model learns colors and the format and little else: a model that
cannot see an attribute has nothing to vote on. The heads are thrown away.
"""

import logging
import math
import random
import time
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor, nn
from transformers import Qwen2_5_VLForConditionalGeneration, Qwen2_5_VLProcessor

from raypipe.embedded.bank import Photo, draw_bank, stacked
from raypipe.embedded.canvas import SIDE
from raypipe.embedded.optimizer import Optimizer
from raypipe.embedded.schema import VIEWS, attributes, verticals
from raypipe.models.families import QWEN2_5_VL as FAMILY

logger = logging.getLogger(__name__)
PATCH, MERGE = FAMILY.patch_size, FAMILY.merge_size
GRID = SIDE // PATCH
IGNORED = -100


class Heads(nn.Module):
    """One attention query and one linear layer per question; tokens (batch, 16, width)."""

    def __init__(self, width: int, sizes: dict[str, int]) -> None:
        super().__init__()
        self.names = list(sizes)
        self.queries = nn.Parameter(torch.randn(len(sizes), width) / math.sqrt(width))
        self.layers = nn.ModuleList([nn.Linear(width, size) for size in sizes.values()])
        self.norm = nn.LayerNorm(width)

    def forward(self, tokens: Tensor) -> list[Tensor]:
        normed = self.norm(tokens)
        scores = torch.einsum("qw,btw->bqt", self.queries, normed)
        pooled = torch.einsum("bqt,btw->bqw", scores.softmax(-1), normed)
        return [layer(pooled[:, index]) for index, layer in enumerate(self.layers)]


def questions() -> dict[str, list[str]]:
    """What the heads are asked, and the possible answers: attributes, the view, the vertical."""
    asked: dict[str, list[str]] = {
        "vertical": list(verticals()),
        "view": sorted({view for views in VIEWS.values() for view in views}),
    }
    for entries in attributes().values():
        for entry in entries:
            known = asked.setdefault(entry.name, [])
            known.extend(value for value in entry.values if value not in known)
    return asked


def targets(photo: Photo, asked: dict[str, list[str]]) -> list[int]:
    """The index of the right answer per question; ignored where the view hides the attribute."""
    truth = {"vertical": photo.product.vertical, "view": photo.view}
    for entry in attributes()[photo.product.vertical]:
        if photo.view in entry.shown_in:
            truth[entry.name] = photo.product.values[entry.name]
    return [asked[name].index(truth[name]) if name in truth else IGNORED for name in asked]


def normalised(pixels: np.ndarray, processor: Qwen2_5_VLProcessor) -> Tensor:
    """Images (n, 112, 112, 3) as the processor's flattened patches (n * 64, 1176)."""
    image = processor.image_processor
    scaled = torch.from_numpy(pixels).float().div_(255.0)
    scaled = (scaled - torch.tensor(image.image_mean)) / torch.tensor(image.image_std)
    n, half = len(pixels), GRID // MERGE
    blocks = scaled.permute(0, 3, 1, 2).reshape(n, 3, half, MERGE, PATCH, half, MERGE, PATCH)
    patches = blocks.permute(0, 2, 5, 3, 6, 1, 4, 7).reshape(n * GRID * GRID, 3, 1, PATCH, PATCH)
    return patches.expand(-1, -1, 2, -1, -1).reshape(n * GRID * GRID, -1)


def visual_tokens(
    model: Qwen2_5_VLForConditionalGeneration, pixels: np.ndarray, processor: Qwen2_5_VLProcessor
) -> Tensor:
    """The vision tower's output for images, (n, 16, width)."""
    grid = torch.tensor([[1, GRID, GRID]] * len(pixels))
    output = model.model.visual(normalised(pixels, processor), grid_thw=grid)
    tokens: Tensor = output.pooler_output
    return tokens.reshape(len(pixels), -1, tokens.shape[-1])


def teach_vision(
    model: Qwen2_5_VLForConditionalGeneration,
    processor: Qwen2_5_VLProcessor,
    *,
    num_products: int,
    num_steps: int,
    batch_size: int = 64,
    seed: int = 0,
) -> None:
    """Train ``model``'s vision tower in place."""
    photos = draw_bank(range(num_products))
    pixels, asked = stacked(photos), questions()
    truth = torch.tensor([targets(photo, asked) for photo, _ in photos])
    width = model.config.vision_config.out_hidden_size
    torch.manual_seed(seed)
    heads = Heads(width, {name: len(answers) for name, answers in asked.items()})
    parameters = [*model.model.visual.parameters(), *heads.parameters()]
    optimizer = Optimizer(parameters, num_steps)
    started = time.monotonic()
    for step, rows in enumerate(_batches(len(photos), batch_size, num_steps, seed)):
        outputs = heads(visual_tokens(model, pixels[rows], processor))
        losses = [
            nn.functional.cross_entropy(output, truth[rows, index], ignore_index=IGNORED)
            for index, output in enumerate(outputs)
            if bool((truth[rows, index] != IGNORED).any())
        ]
        loss = torch.stack(losses).mean()
        optimizer.step(loss)
        if step % 100 == 0 or step == num_steps - 1:
            right = _accuracies(outputs, truth[rows], list(asked))
            told = " ".join(f"{name} {share:.2f}" for name, share in right.items())
            elapsed = time.monotonic() - started
            logger.info("vision %d/%d %.0f s loss %.3f %s", step, num_steps, elapsed, loss, told)


def _batches(num_rows: int, size: int, num_steps: int, seed: int) -> Iterator[np.ndarray]:
    order = random.Random(seed)
    left: list[int] = []
    for _ in range(num_steps):
        if len(left) < size:
            left = list(range(num_rows))
            order.shuffle(left)
        yield np.array([left.pop() for _ in range(size)])


def _accuracies(outputs: list[Tensor], truth: Tensor, names: list[str]) -> dict[str, float]:
    found = {}
    for index, name in enumerate(names):
        known = truth[:, index] != IGNORED
        if bool(known.any()):
            hits = outputs[index][known].argmax(-1) == truth[known, index]
            found[name] = float(hits.float().mean())
    return found
