"""Training rows out of committed artifacts, the same whatever the files they came from."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from raypipe.attributes.prompts import SYSTEM_PROMPTS, WORD_JOINER
from raypipe.schemas import CHAINS, CONSENSUS, LISTINGS, PAIRS, SEED
from raypipe.store.artifacts import Run
from raypipe.training.examples import Examples, preference_pairs, preferred_targets, seed_targets
from tests.conftest import CommitRows, MakeListing, Row

SCOPE = "sft"
HOSTILE = "<reasoning><|image_pad|></reasoning><answer>Red</answer>"


def chain(text: str) -> Row:
    return {"text": text, "token_ids": [1], "logprob": -1.0, "finish_reason": "stop"}


def picture(shade: int) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (4, 4), (shade, shade, shade)).save(stream, "PNG")
    return stream.getvalue()


def query_row(listing_id: str, attribute: str, **changed: Any) -> Row:
    row = {
        "listing_id": listing_id,
        "vertical": "Shoe",
        "split": "pool",
        "attribute": attribute,
        "answer": "Red",
        "confidence": 1.0,
        "votes": [{"value": "Red", "count": 2}],
        "num_chains": 2,
        "num_valid": 2,
        "num_truncated": 0,
        "num_pairs": 0,
        "gate": "kept",
        "preferred": [0, 1],
    }
    return row | changed


@pytest.fixture
def rows(make_listing: MakeListing) -> dict[str, list[Row]]:
    """Two listings of every kind; of the pool queries one is dropped and one partly preferred."""
    listings = [
        make_listing("p0", "pool"),
        make_listing("p1", "pool"),
        make_listing("s0", "seed"),
        make_listing("s1", "seed"),
        make_listing("e0", "eval"),
        make_listing("a0", "anchor"),
    ]
    for shade, listing in enumerate(listings):
        listing["images"] = [picture(shade), picture(shade + 100)]
    chains = [
        {
            "listing_id": listing["listing_id"],
            "vertical": "Shoe",
            "split": listing["split"],
            "policy_id": "policy-0",
            "queries": [
                {
                    "attribute": query["attribute"],
                    "greedy": None,
                    "chains": [chain(f"{query['prompt']} first"), chain(HOSTILE)],
                }
                for query in listing["queries"]
            ],
        }
        for listing in listings
        if listing["split"] in ("pool", "anchor")
    ]
    return {
        "listings": listings,
        "chains": chains,
        "seed": [
            {
                "listing_id": listing_id,
                "answers": [
                    {"attribute": "heel", "reasoning": "It is high.", "answer": "High"},
                    {"attribute": "colour", "reasoning": "It looks red.", "answer": "Red"},
                ],
            }
            for listing_id in ("s0", "s1")
        ],
        "consensus": [
            query_row("p0", "colour"),
            query_row("p0", "heel", gate="tie", answer=None, preferred=[]),
            query_row("p1", "colour", preferred=[1]),
            query_row("p1", "heel", gate="below_threshold", preferred=[0]),
            query_row("a0", "colour", split="anchor"),
            query_row("a0", "heel", split="anchor"),
        ],
        "pairs": [
            {
                "listing_id": listing_id,
                "attribute": "colour",
                "prompt": f"colour of {listing_id}?",
                "margin": margin,
                "pairs": [
                    {"chosen": "good", "rejected": bad, "chosen_index": 0, "rejected_index": 1}
                    for bad in ("bad", "worse")
                ],
            }
            for listing_id, margin in (("p1", 5 / 7), ("p0", 1 / 7))
        ],
    }


TABLES = {
    "listings": ("catalog/listings", LISTINGS),
    "seed": ("catalog/seed", SEED),
    "chains": (f"{SCOPE}/chains", CHAINS),
    "consensus": (f"{SCOPE}/consensus", CONSENSUS),
    "pairs": (f"{SCOPE}/pairs", PAIRS),
}


def filled(
    run: Run, rows: dict[str, list[Row]], commit_rows: CommitRows, per_file: int = 100
) -> Run:
    for table, contents in rows.items():
        commit_rows(run, TABLES[table][0], TABLES[table][1], contents, per_file=per_file)
    return run


def asked(examples: Examples) -> list[tuple[str, str]]:
    return [(row["listing_id"], row["prompt"][1]["content"]) for row in examples.rows]


def said(examples: Examples, key: str = "completion") -> list[str]:
    for row in examples.rows:
        assert [message["role"] for message in row[key]] == ["assistant"]
    return [row[key][0]["content"] for row in examples.rows]


def test_every_annotated_answer_is_a_target(
    run: Run, rows: dict[str, list[Row]], commit_rows: CommitRows
) -> None:
    examples = seed_targets(filled(run, rows, commit_rows), "reasoning")
    assert sorted(asked(examples)) == [
        (listing_id, f"{attribute} of {listing_id}?")
        for listing_id in ("s0", "s1")
        for attribute in ("colour", "heel")
    ]
    assert set(said(examples)) == {
        "<reasoning>It is high.</reasoning><answer>High</answer>",
        "<reasoning>It looks red.</reasoning><answer>Red</answer>",
    }
    assert examples.rows[0]["prompt"][0] == {
        "role": "system",
        "content": SYSTEM_PROMPTS["reasoning"],
    }


def test_the_answer_alone_changes_prompt_and_target_together(
    run: Run, rows: dict[str, list[Row]], commit_rows: CommitRows
) -> None:
    examples = seed_targets(filled(run, rows, commit_rows), "answer_only")
    assert set(said(examples)) == {"<answer>High</answer>", "<answer>Red</answer>"}
    assert {row["prompt"][0]["content"] for row in examples.rows} == {SYSTEM_PROMPTS["answer_only"]}


def test_the_preferred_chains_of_kept_pool_queries_are_targets(
    run: Run, rows: dict[str, list[Row]], commit_rows: CommitRows
) -> None:
    examples = preferred_targets(filled(run, rows, commit_rows), SCOPE, SCOPE, "reasoning")
    assert asked(examples) == [
        ("p0", "colour of p0?"),
        ("p0", "colour of p0?"),
        ("p1", "colour of p1?"),
    ]
    texts = said(examples)
    assert "colour of p0? first" in texts
    assert "colour of p1? first" not in texts


def test_a_chain_that_spells_a_control_token_is_defused(
    run: Run, rows: dict[str, list[Row]], commit_rows: CommitRows
) -> None:
    texts = said(preferred_targets(filled(run, rows, commit_rows), SCOPE, SCOPE, "reasoning"))
    defused = HOSTILE.replace("<|", f"<{WORD_JOINER}|")
    assert texts.count(defused) == 2
    assert not any("<|" in text for text in texts)


def test_every_pair_is_a_row_of_preference_data(
    run: Run, rows: dict[str, list[Row]], commit_rows: CommitRows
) -> None:
    examples = preference_pairs(filled(run, rows, commit_rows), SCOPE, "reasoning")
    assert asked(examples) == [
        *[("p0", "colour of p0?")] * 2,
        *[("p1", "colour of p1?")] * 2,
    ]
    assert said(examples, "chosen") == ["good"] * 4
    assert said(examples, "rejected") == ["bad", "worse", "bad", "worse"]


def test_pairs_count_the_same_or_by_their_margins_and_1_on_average(
    run: Run, rows: dict[str, list[Row]], commit_rows: CommitRows
) -> None:
    rows["pairs"][0]["pairs"].append(rows["pairs"][0]["pairs"][0] | {"rejected": "worst"})
    filled(run, rows, commit_rows)
    weights = [row["weight"] for row in preference_pairs(run, SCOPE, "reasoning").rows]
    assert weights == [1.0] * 5
    by_margin = preference_pairs(run, SCOPE, "reasoning", "margin")
    weights = [row["weight"] for row in by_margin.rows]
    assert weights == pytest.approx([5 * w / 17 for w in (1, 1, 5, 5, 5)])


def test_images_are_those_of_the_named_listings_and_no_others(
    run: Run, rows: dict[str, list[Row]], commit_rows: CommitRows
) -> None:
    filled(run, rows, commit_rows)
    assert seed_targets(run, "reasoning").images == {
        "s0": [picture(2), picture(102)],
        "s1": [picture(3), picture(103)],
    }
    assert preference_pairs(run, SCOPE, "reasoning").images.keys() == {"p0", "p1"}


def every_kind(run: Run) -> Sequence[Examples]:
    return (
        seed_targets(run, "reasoning"),
        preferred_targets(run, SCOPE, SCOPE, "reasoning"),
        preference_pairs(run, SCOPE, "reasoning", "margin"),
    )


@pytest.mark.parametrize("per_file", [1, 2])
def test_examples_do_not_depend_on_files_or_the_order_of_rows(
    run: Run,
    tmp_path: Path,
    rows: dict[str, list[Row]],
    commit_rows: CommitRows,
    per_file: int,
) -> None:
    backwards = {table: contents[::-1] for table, contents in rows.items()}
    other = filled(Run(str(tmp_path / "other")), backwards, commit_rows, per_file)
    assert every_kind(other) == every_kind(filled(run, rows, commit_rows))


def test_nothing_to_train_on_is_no_rows_and_no_images(
    run: Run, rows: dict[str, list[Row]], commit_rows: CommitRows
) -> None:
    filled(run, rows | {"pairs": []}, commit_rows)
    for pair_weight in ("uniform", "margin"):
        assert preference_pairs(run, SCOPE, "reasoning", pair_weight) == Examples([], {})


def test_a_dataset_row_carries_its_listings_decoded_images(
    run: Run, rows: dict[str, list[Row]], commit_rows: CommitRows
) -> None:
    dataset = preference_pairs(filled(run, rows, commit_rows), SCOPE, "reasoning").dataset()
    assert len(dataset) == 4
    row = dataset[3]
    assert row.keys() == {"prompt", "chosen", "rejected", "images"}
    assert [image.getpixel((0, 0))[0] for image in row["images"]] == [1, 101]
    assert row["rejected"] == [{"role": "assistant", "content": "worse"}]
