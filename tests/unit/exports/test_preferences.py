"""The pairs as others open them: Hugging Face datasets and TRL."""

import io

import pytest
from datasets import Image, List, Value, load_dataset
from PIL import Image as Pictures
from trl.data_utils import is_conversational, prepare_multimodal_messages

import raypipe.consensus.stage as consensus
from raypipe.attributes import prompts
from raypipe.config import resolve
from raypipe.exports.preferences import export_preferences
from raypipe.schemas import PAIRS


@pytest.fixture(params=["reasoning", "answer_only"])
def exported(request, make_run, tmp_path):
    config = resolve({"model": {"answer_format": request.param}})
    run = make_run("run")
    consensus.run(config, run, scope="sft", round_index=1)
    path = export_preferences(config, run, "sft", tmp_path / "export")
    cache = str(tmp_path / "cache")
    dataset = load_dataset("parquet", data_files=str(path), split="train", cache_dir=cache)
    return request.param, run, dataset


def test_load_dataset_finds_columns_types_and_every_pair(exported):
    _, run, dataset = exported
    messages = List({"role": Value("string"), "content": Value("string")})
    assert dataset.features == {
        "prompt": messages,
        "chosen": messages,
        "rejected": messages,
        "images": List(Image()),
        "meta_listing_id": Value("string"),
        "meta_attribute": Value("string"),
    }
    queries = run.artifact("sft/pairs", PAIRS).read().to_pylist()
    wanted = [
        (row["listing_id"], row["attribute"], pair["chosen"], pair["rejected"])
        for row in queries
        for pair in row["pairs"]
    ]
    got = [
        (
            row["meta_listing_id"],
            row["meta_attribute"],
            row["chosen"][0]["content"],
            row["rejected"][0]["content"],
        )
        for row in dataset.remove_columns("images")
    ]
    assert sorted(got) == sorted(wanted)


def test_images_decode_to_the_pixels_of_the_listing(exported, listing_rows):
    _, _, dataset = exported
    images = {row["listing_id"]: row["images"] for row in listing_rows}
    for row in dataset:
        stored = [Pictures.open(io.BytesIO(part)) for part in images[row["meta_listing_id"]]]
        assert [image.tobytes() for image in row["images"]] == [s.tobytes() for s in stored]


def test_trl_makes_the_conversation_that_we_ask_with(exported, listing_rows):
    answer_format, _, dataset = exported
    asked = {
        (row["listing_id"], query["attribute"]): query["prompt"]
        for row in listing_rows
        for query in row["queries"]
    }
    for row in dataset:
        assert is_conversational(row)
        prepared = prepare_multimodal_messages(row["prompt"], images=row["images"])
        for message in prepared:
            for part in message["content"]:
                part.pop("image", None)
        question = asked[row["meta_listing_id"], row["meta_attribute"]]
        assert prepared == prompts.messages(question, len(row["images"]), answer_format)
        (chosen,) = prepare_multimodal_messages(row["chosen"])
        assert chosen["role"] == "assistant"
