"""The language lessons: what is taught is what the product asks, and reading is about photos."""

import random

import pytest
import torch
from transformers import AutoModelForImageTextToText, AutoProcessor, Qwen2_5_VLProcessor

from raypipe.attributes.prompts import messages
from raypipe.config import ModelConfig
from raypipe.embedded import language
from raypipe.embedded.bank import draw_views, stacked
from raypipe.embedded.language import COURSES, Course, Lessons, TokenRow, collate, loss_of
from raypipe.embedded.look import Product
from raypipe.embedded.schema import attributes
from raypipe.models.policies import model_path

NANO = model_path(ModelConfig(path="embedded:nano"))
READING = Course("reading", num_steps=1, batch_size=6, easy_share=0, rate=1)
SPEAKING = Course("speaking", num_steps=1, batch_size=2, easy_share=0, rate=1)
DRAWN = [photo for index in range(6) for photo in draw_views(index)]
PHOTOS = [photo for photo, _ in DRAWN]


@pytest.fixture(scope="module")
def processor() -> Qwen2_5_VLProcessor:
    return AutoProcessor.from_pretrained(NANO)


def rows(processor: Qwen2_5_VLProcessor, course: Course, seed: int = 0) -> list[TokenRow]:
    return Lessons(processor, PHOTOS, course).batch(random.Random(seed))


def branch(row: TokenRow, question: int, caption: int) -> list[int]:
    """The tokens that lead to a caption's end: photos, its question, itself."""
    return [
        token
        for token, q, c in zip(row.token_ids, row.question, row.caption, strict=True)
        if q == -1 or (q == question and c in (-1, caption))
    ]


def product_of(row: TokenRow) -> Product:
    first = next(place for place in row.visual if place >= 0)
    return PHOTOS[first // language.IMAGE_TOKENS].product


def branches(row: TokenRow) -> list[tuple[int, int]]:
    return sorted({pair for pair in zip(row.question, row.caption, strict=True) if -1 not in pair})


def test_reading_scores_true_values_of_views_that_show_them(
    processor: Qwen2_5_VLProcessor,
) -> None:
    for row in rows(processor, READING):
        product = product_of(row)
        entries = attributes()[product.vertical]
        for question, caption in branches(row):
            entry = entries[question]
            scored = [
                token
                for token, *place, told in zip(
                    row.token_ids, row.question, row.caption, row.scored, strict=True
                )
                if told and place == [question, caption]
            ]
            assert processor.tokenizer.decode(scored) == f" {product.values[entry.name]}"
            said = processor.tokenizer.decode(branch(row, question, caption))
            opening = said.rpartition("<reasoning>")[2]
            assert opening.partition(" view ")[0].split()[-1] in entry.shown_in


def test_speaking_asks_in_the_words_of_the_product(processor: Qwen2_5_VLProcessor) -> None:
    for row in rows(processor, SPEAKING):
        text = processor.tokenizer.decode(branch(row, 0, 0))
        answer_format = "reasoning" if "<reasoning> ... </reasoning>" in text else "answer_only"
        asked = text.split("<|vision_end|>")[-1].partition("<|im_end|>")[0]
        num_images = text.count("<|vision_start|>")
        prompt = processor.apply_chat_template(
            messages(asked, num_images, answer_format), tokenize=False, add_generation_prompt=True
        )
        expanded = prompt.replace("<|image_pad|>", "<|image_pad|>" * language.IMAGE_TOKENS)
        assert text.startswith(expanded)
        assert text.endswith("<|im_end|>\n")
        assert asked.startswith("what is the most suitable value for")


def test_a_branch_has_the_loss_of_a_row_of_its_own(processor: Qwen2_5_VLProcessor) -> None:
    """The tree in one row against transformers' own causal forward of a single caption."""
    model = AutoModelForImageTextToText.from_pretrained(NANO, dtype=torch.float32)
    tokens = language.visual_tokens(model, stacked(DRAWN), processor).flatten(0, 1).detach()
    [row] = rows(processor, Course("speaking", 1, 1, 0, 1))
    alone = TokenRow()
    for index, (q, c) in enumerate(zip(row.question, row.caption, strict=True)):
        if q in (-1, 0) and c in (-1, 0):
            alone.token_ids.append(row.token_ids[index])
            alone.positions.append(row.positions[index])
            alone.visual.append(row.visual[index])
            alone.question.append(q)
            alone.caption.append(c)
            alone.scored.append(row.scored[index])
    only = TokenRow(
        **vars(row)
        | {
            "scored": [
                scored and (q, c) == (0, 0)
                for scored, q, c in zip(row.scored, row.question, row.caption, strict=True)
            ]
        }
    )
    with torch.no_grad():
        in_tree = loss_of(model, collate([only]), tokens)
        by_itself = loss_of(model, collate([alone]), tokens)
    torch.testing.assert_close(in_tree, by_itself, atol=1e-5, rtol=1e-5)


def test_the_courses_read_before_they_speak() -> None:
    assert [course.lesson for course in COURSES] == ["reading", "speaking"]
