"""The gallery shows flips, both ways, chosen by nobody."""

import base64
import io
import random

import pyarrow as pa
from PIL import Image

from raypipe.report.gallery import build_gallery, choose, find_flips
from raypipe.report.run_data import read_evaluation
from raypipe.schemas import EVALUATION

VERTICALS = ("shoe", "sari", "watch")


def rows(right: list[bool], split: str = "eval", text: str = "") -> pa.Table:
    """One query per entry, spread over the verticals."""
    return EVALUATION.from_rows(
        [
            {
                "listing_id": f"{split}-{index:03d}",
                "vertical": VERTICALS[index % 3],
                "split": split,
                "attribute": "color",
                "truth": "Red",
                "answer": "Red" if correct else None,
                "reason": "ok" if correct else "malformed",
                "correct": correct,
                "text": text or "<reasoning>It is red.</reasoning><answer>Red</answer>",
            }
            for index, correct in enumerate(right)
        ]
    )


def test_only_changed_queries_are_flips():
    flips = find_flips(rows([True, True, False, False]), rows([True, False, True, False]))
    assert [(flip.listing_id, flip.after.correct) for flip in flips] == [
        ("eval-001", False),
        ("eval-002", True),
    ]


def test_the_anchor_split_is_left_out():
    assert not find_flips(rows([True], "anchor"), rows([False], "anchor"))


def test_a_query_that_one_policy_was_not_asked_is_no_flip():
    assert not find_flips(rows([True]), rows([True, False]))


def test_the_choice_goes_round_the_verticals_whatever_the_order_of_rows():
    flips = find_flips(rows([False] * 60), rows([True] * 60))
    chosen = choose(flips, 6)
    assert sorted(flip.vertical for flip in chosen) == sorted(VERTICALS * 2)
    random.Random(3).shuffle(flips)
    assert choose(flips, 6) == chosen


def test_a_vertical_with_few_flips_leaves_its_place_to_others():
    flips = find_flips(rows([False] * 30), rows([True] * 30))
    scarce = [flip for flip in flips if flip.vertical == "shoe"] + flips[1:2]
    assert len(choose(scarce, 6)) == 6


def test_reasoning_is_taken_out_of_its_tags():
    (flip,) = find_flips(rows([False]), rows([True]))
    assert flip.after.reasoning == "It is red."
    assert flip.after.answer == "Red"


def test_a_chain_without_closed_reasoning_is_shown_as_it_is():
    (flip,) = find_flips(rows([False], text="<reasoning>and on and on"), rows([True]))
    assert flip.before.reasoning == "<reasoning>and on and on"
    assert flip.before.answer is None


def test_exhibits_carry_images_options_and_the_sellers_value(finished_run):
    gallery = build_gallery(finished_run, "sft", "round-2")
    assert len(gallery.mended) == 6
    assert gallery.num_mended >= 6
    for exhibit in (*gallery.mended, *gallery.broken):
        assert exhibit.flip.truth in exhibit.options
        assert 1 <= len(exhibit.images) <= 5
    assert all(exhibit.flip.after.correct for exhibit in gallery.mended)
    assert all(exhibit.flip.before.correct for exhibit in gallery.broken)
    correct_before = {
        (row["listing_id"], row["attribute"]): row["correct"]
        for row in read_evaluation(finished_run, "sft").to_pylist()
    }
    for exhibit in gallery.broken:
        assert correct_before[exhibit.flip.listing_id, exhibit.flip.attribute]


def test_thumbnails_are_small_jpegs(finished_run):
    gallery = build_gallery(finished_run, "sft", "round-2", size=1)
    data = gallery.mended[0].images[0].removeprefix("data:image/jpeg;base64,")
    image = Image.open(io.BytesIO(base64.b64decode(data)))
    assert image.format == "JPEG"
    assert max(image.size) <= 200
