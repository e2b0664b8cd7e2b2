"""What is known of a model family holds for its models, and for sampler and trainer alike."""

import pytest
from PIL import Image

from raypipe.attributes.prompts import answer_turn, conversation, neutralise
from raypipe.config import CatalogConfig
from raypipe.config.models import AnswerFormat
from raypipe.errors import ConfigError
from raypipe.models.families import FAMILIES, family_named, family_of, family_of_checkpoint
from raypipe.sampling.engine import Prompt, prompt_text
from raypipe.training.examples import Examples
from raypipe.training.trees import build_trees
from tests.fakes import tiny_models as models
from tests.fakes.tiny_models import Family

EACH = pytest.mark.parametrize("model_type", FAMILIES)


@EACH
@pytest.mark.parametrize("num_images", [1, 2, 5])
@pytest.mark.parametrize("answer_format", ["reasoning", "answer_only"])
def test_sampler_and_trainer_put_the_same_tokens_before_an_answer(
    model_type: Family, num_images: int, answer_format: AnswerFormat
) -> None:
    own, side = models.processor(model_type), models.side(model_type)
    question = "which heel? Options: ['flat', 'high']"
    names = tuple(map(str, range(num_images)))
    text = prompt_text(own.tokenizer, Prompt(question, (b"",) * num_images, names), answer_format)
    blank = [Image.new("RGB", (side, side))] * num_images
    sampled = own(text=[text], images=[blank])["input_ids"][0]
    row = {
        "listing_id": "a",
        "attribute": "heel",
        "prompt": conversation(question, answer_format),
        "completion": [answer_turn("<answer>flat</answer>")],
    }
    size = FAMILIES[model_type].tokens_per_image(side)
    [tree] = build_trees(Examples([row], {"a": [b""] * num_images}), own, size)
    assert [*tree.trunk, *tree.stems[0].token_ids] == list(sampled)


@EACH
def test_a_family_is_where_its_model_says(model_type: Family) -> None:
    family, model = FAMILIES[model_type], models.model(model_type)
    assert family_of(model) is family_of(models.with_adapter(model)) is family
    assert family.language_model_of(model) is model.get_decoder()
    vision = model.config.vision_config
    sizes = (family.patch_size, family.merge_size)
    assert (vision.patch_size, vision.spatial_merge_size) == sizes


@EACH
def test_no_control_token_comes_out_of_data(model_type: Family) -> None:
    for token in FAMILIES[model_type].control_tokens:
        assert token not in neutralise(f"a {token} b")


@EACH
def test_images_of_no_whole_number_of_tokens_are_refused_with_the_nearest_sides(
    model_type: Family,
) -> None:
    family = FAMILIES[model_type]
    family.check_side(3 * family.pixel_multiple)
    family.check_side(CatalogConfig.model_fields["image_size"].default)
    with pytest.raises(
        ConfigError, match=rf"{model_type}.*; set 224 or {224 + family.pixel_multiple}"
    ):
        family.check_side(228)


def test_another_family_keeps_its_processors_size() -> None:
    other, own = family_named("llava"), models.processor()
    before = own.image_processor.size
    other.bound_pixels(own, 224)
    assert own.image_processor.size == before
    assert other.engine_arguments(224) == {}
    other.check_side(225)


def test_a_model_of_the_hub_is_known_without_asking_for_it() -> None:
    assert family_of_checkpoint("Qwen/Qwen2-VL-2B-Instruct", None) is FAMILIES["qwen2_vl"]
