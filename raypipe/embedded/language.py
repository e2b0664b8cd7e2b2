"""Teach the language model to describe photos, with the vision tower frozen.

The first course is reading: naming single values in the photos, a hundred a step. The second is
speaking: whole captions, with the errors of careless captioners. Whole captions from the beginning
do not work: their guesses drown the signal about the photos.

Visual tokens are computed once per photo. A listing is one row with a tree-shaped attention mask:
its questions branch off the photos and several captions branch off each question, which is exact
and costs a quarter of one row per caption.
"""

import logging
import random
import time
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn
from transformers import Qwen2_5_VLForConditionalGeneration, Qwen2_5_VLProcessor

from raypipe.attributes.prompts import Question, messages, user_prompt
from raypipe.config.models import AnswerFormat
from raypipe.embedded.bank import Photo, draw_bank, stacked
from raypipe.embedded.canvas import SIDE
from raypipe.embedded.captions import HABITS, caption, opening, written
from raypipe.embedded.look import Product
from raypipe.embedded.optimizer import Optimizer
from raypipe.embedded.schema import RenderedAttribute, attributes
from raypipe.embedded.vision import visual_tokens
from raypipe.models.families import QWEN2_5_VL as FAMILY
from raypipe.seeds import derive

logger = logging.getLogger(__name__)
SIDE_TOKENS, IMAGE_TOKENS = FAMILY.grid_side(SIDE), FAMILY.tokens_per_image(SIDE)
CAPTIONS_PER_QUESTION = 3
ANSWER_ONLY_SHARE = 0.1
PHOTO_COUNTS = {1: 0.05, 2: 0.2, 3: 0.3, 4: 0.25, 5: 0.2}
QUESTION = "\0"
"""Stands for the question in a rendered conversation."""


@dataclass(frozen=True)
class Course:
    """One stretch of language lessons.

    Args:
        lesson: what a row teaches.
        num_steps: optimizer steps.
        batch_size: listings a step.
        easy_share: share of the steps, at the beginning, with one photo a listing.
        rate: scale of the learning rates.
    """

    lesson: Literal["reading", "speaking"]
    num_steps: int
    batch_size: int
    easy_share: float
    rate: float


COURSES = (
    Course("reading", num_steps=700, batch_size=64, easy_share=0.15, rate=1.0),
    Course("speaking", num_steps=1500, batch_size=8, easy_share=0.0, rate=0.7),
)


@dataclass
class TokenRow:
    """A listing's tokens with their M-RoPE positions and their place in the tree."""

    token_ids: list[int] = field(default_factory=list)
    positions: list[tuple[int, int, int]] = field(default_factory=list)
    question: list[int] = field(default_factory=list)
    caption: list[int] = field(default_factory=list)
    visual: list[int] = field(default_factory=list)
    """Row of the visual token bank for an image token, -1 for text."""
    scored: list[bool] = field(default_factory=list)
    """Whether the token is one that the model should have predicted."""

    def text(
        self,
        ids: list[int],
        start: int,
        *,
        question: int = -1,
        caption: int = -1,
        scored: bool = False,
    ) -> int:
        """Append text tokens from position ``start``; returns the next position."""
        self.token_ids += ids
        self.positions += [(start + step,) * 3 for step in range(len(ids))]
        self.question += [question] * len(ids)
        self.caption += [caption] * len(ids)
        self.visual += [-1] * len(ids)
        self.scored += [scored] * len(ids)
        return start + len(ids)

    def image(self, pad: int, first_row: int, start: int) -> int:
        """Append an image's tokens, whose rows of the bank begin at ``first_row``."""
        for index in range(IMAGE_TOKENS):
            down, across = divmod(index, SIDE_TOKENS)
            self.positions.append((start, start + down, start + across))
        self.token_ids += [pad] * IMAGE_TOKENS
        self.question += [-1] * IMAGE_TOKENS
        self.caption += [-1] * IMAGE_TOKENS
        self.visual += range(first_row, first_row + IMAGE_TOKENS)
        self.scored += [False] * IMAGE_TOKENS
        return start + SIDE_TOKENS


class Lessons:
    """Samples rows for listings made of banked photos."""

    def __init__(self, processor: Qwen2_5_VLProcessor, photos: list[Photo], course: Course) -> None:
        self._course = course
        self._tokenizer = processor.tokenizer
        self._pad = self._tokenizer.convert_tokens_to_ids(FAMILY.image_token)
        self._views: dict[int, dict[str, int]] = {}
        self._products: list[Product] = []
        for index, photo in enumerate(photos):
            key = photo.product.seed
            if key not in self._views:
                self._views[key] = {}
                self._products.append(photo.product)
            self._views[key][photo.view] = index

    def batch(self, lottery: random.Random, *, most_photos: int = 5) -> list[TokenRow]:
        """The rows of a step, each with something to learn."""
        rows: list[TokenRow] = []
        while len(rows) < self._course.batch_size:
            row = self.row(lottery, most_photos=most_photos)
            if any(row.scored):
                rows.append(row)
        return rows

    def row(self, lottery: random.Random, *, most_photos: int = 5) -> TokenRow:
        """One listing and all its questions."""
        product = lottery.choice(self._products)
        banked = self._views[product.seed]
        counts = {n: share for n, share in PHOTO_COUNTS.items() if n <= most_photos}
        wanted = lottery.choices(list(counts), list(counts.values()))[0]
        views = lottery.sample(list(banked), min(wanted, len(banked)))
        speaks = self._course.lesson == "speaking"
        answer_format: AnswerFormat = "reasoning"
        if speaks and lottery.random() < ANSWER_ONLY_SHARE:
            answer_format = "answer_only"
        row = TokenRow()
        before, after = self._conversation(len(views), answer_format)
        *parts, last = before.split(FAMILY.image_token)
        position = 0
        for part, view in zip(parts, views, strict=True):
            position = row.text(self._ids(part), position)
            position = row.image(self._pad, banked[view] * IMAGE_TOKENS, position)
        position = row.text(self._ids(last), position)
        for index, entry in enumerate(attributes()[product.vertical]):
            showing = [view for view in views if view in entry.shown_in]
            if not speaks and not showing:
                continue
            question = Question(entry.vertical, entry.name, entry.description, entry.values)
            asked = user_prompt(question) if speaks else entry.vertical
            start = row.text(self._ids(asked + after), position, question=index)
            value = product.values[entry.name]
            if speaks:
                self._speak(row, start, index, entry, value, views, answer_format, lottery)
            else:
                self._read(row, start, index, entry, value, showing, lottery)
        return row

    def _conversation(self, num_photos: int, answer_format: AnswerFormat) -> tuple[str, str]:
        """The text before and after a question, as the sampler renders it."""
        before, after = self._tokenizer.apply_chat_template(
            messages(QUESTION, num_photos, answer_format),
            add_generation_prompt=True,
            tokenize=False,
        ).split(QUESTION)
        return before, after

    def _read(
        self,
        row: TokenRow,
        start: int,
        index: int,
        entry: RenderedAttribute,
        value: str,
        showing: list[str],
        lottery: random.Random,
    ) -> None:
        """The value in up to two of the views that show it; the question is the vertical alone."""
        for branch, view in enumerate(lottery.sample(showing, min(2, len(showing)))):
            words = self._ids(opening(view, entry.name, phrasing=lottery.randrange(2)))
            middle = row.text(words, start, question=index, caption=branch)
            row.text(self._ids(f" {value}"), middle, question=index, caption=branch, scored=True)

    def _speak(
        self,
        row: TokenRow,
        start: int,
        index: int,
        entry: RenderedAttribute,
        value: str,
        views: list[str],
        answer_format: AnswerFormat,
        lottery: random.Random,
    ) -> None:
        """Three captions of the question as the product asks it."""
        for branch in range(CAPTIONS_PER_QUESTION):
            made = caption(entry, value, views, HABITS, lottery)
            text = written(made, HABITS, answer_format, lottery) + FAMILY.turn_end
            row.text(self._ids(text), start, question=index, caption=branch, scored=True)

    def _ids(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids


@dataclass(frozen=True)
class PretrainingBatch:
    """Padded rows: B listings of S tokens; ``source`` is where a scored token is predicted."""

    token_ids: Tensor  # (B, S)
    positions: Tensor  # (3, B, S)
    mask: Tensor  # (B, 1, S, S), added to attention scores
    visual: Tensor  # (B, S)
    source: Tensor  # (scored, 2): row and column of the predicting token
    target: Tensor  # (scored,)


def collate(rows: list[TokenRow]) -> PretrainingBatch:
    """Pad rows to one length."""
    size = max(len(row.token_ids) for row in rows)
    token_ids = torch.zeros(len(rows), size, dtype=torch.long)
    positions = torch.zeros(3, len(rows), size, dtype=torch.long)
    visual = torch.full((len(rows), size), -1, dtype=torch.long)
    mask = torch.full((len(rows), 1, size, size), torch.finfo(torch.float32).min)
    source: list[tuple[int, int]] = []
    target: list[int] = []
    for index, row in enumerate(rows):
        length = len(row.token_ids)
        token_ids[index, :length] = torch.tensor(row.token_ids)
        positions[:, index, :length] = torch.tensor(row.positions).T
        visual[index, :length] = torch.tensor(row.visual)
        allowed = _allowed(np.array(row.question), np.array(row.caption))
        mask[index, 0, :length, :length][torch.from_numpy(allowed)] = 0.0
        mask[index, 0].fill_diagonal_(0.0)
        for column, scored in enumerate(row.scored):
            if scored:
                source.append((index, _predecessor(row, column)))
                target.append(row.token_ids[column])
    return PretrainingBatch(
        token_ids, positions, mask, visual, torch.tensor(source), torch.tensor(target)
    )


def _allowed(question: np.ndarray, branch: np.ndarray) -> np.ndarray:
    """Who may look at whom: backwards, at the photos, its own question and its own caption."""
    trunk = question[None, :] == -1
    own_question = question[None, :] == question[:, None]
    own_caption = (branch[None, :] == -1) | (branch[None, :] == branch[:, None])
    size = len(question)
    backwards = np.tril(np.ones((size, size), dtype=bool))
    return np.asarray(backwards & (trunk | (own_question & own_caption)))


def _predecessor(row: TokenRow, column: int) -> int:
    """The token from which a scored token is predicted: the one before it in its own branch."""
    before = column - 1
    if row.caption[before] == row.caption[column] and row.question[before] == row.question[column]:
        return before
    question = row.question[column]
    return max(
        index
        for index in range(column)
        if row.question[index] == question and row.caption[index] == -1
    )


def loss_of(
    model: Qwen2_5_VLForConditionalGeneration, batch: PretrainingBatch, bank: Tensor
) -> Tensor:
    """Mean negative log-likelihood (nats) of the scored tokens; ``bank`` (photos * 16, width)."""
    embedded = model.get_input_embeddings()(batch.token_ids)
    visual = batch.visual >= 0
    embedded[visual] = bank[batch.visual[visual]]
    output = FAMILY.language_model_of(model)(
        inputs_embeds=embedded, attention_mask=batch.mask, position_ids=batch.positions
    )
    hidden = output.last_hidden_state[batch.source[:, 0], batch.source[:, 1]]
    return nn.functional.cross_entropy(model.lm_head(hidden), batch.target)


def photo_bank(
    model: Qwen2_5_VLForConditionalGeneration, processor: Qwen2_5_VLProcessor, num_products: int
) -> tuple[list[Photo], Tensor]:
    """Photos of pretraining products and their visual tokens, (photos * 16, width)."""
    drawn = draw_bank(range(num_products))
    pixels = stacked(drawn)
    with torch.no_grad():
        tokens = [
            visual_tokens(model, pixels[first : first + 256], processor).flatten(0, 1)
            for first in range(0, len(pixels), 256)
        ]
    return [photo for photo, _ in drawn], torch.cat(tokens)


def teach_language(
    model: Qwen2_5_VLForConditionalGeneration,
    processor: Qwen2_5_VLProcessor,
    course: Course,
    *,
    num_products: int,
    seed: int = 0,
) -> None:
    """Train ``model``'s language side in place; its vision tower stays as it is.

    Matrices are multiplied in bfloat16, several times as fast on CPUs that know it.
    """
    num_steps = course.num_steps
    photos, bank = photo_bank(model, processor, num_products)
    lessons = Lessons(processor, photos, course)
    model.model.visual.requires_grad_(False)
    optimizer = Optimizer(
        [p for p in model.parameters() if p.requires_grad],
        num_steps,
        embeddings=[model.get_input_embeddings().weight],
        scale=course.rate,
    )
    lottery = random.Random(derive("language lessons", seed))
    started, average = time.monotonic(), 0.0
    for step in range(num_steps):
        easy = step < num_steps * course.easy_share
        batch = collate(lessons.batch(lottery, most_photos=1 if easy else 5))
        with torch.autocast("cpu", torch.bfloat16):
            loss = loss_of(model, batch, bank)
        optimizer.step(loss)
        average = 0.95 * average + 0.05 * loss.item() if step else loss.item()
        if step % 50 == 0 or step == num_steps - 1:
            elapsed = time.monotonic() - started
            figures = (course.lesson, step, num_steps, elapsed, average)
            logger.info("%s %d/%d %.0f s loss %.4f", *figures)
