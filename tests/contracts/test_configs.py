"""Every shipped configuration parses, and says what the paper says where it claims to."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic.fields import FieldInfo

from raypipe.config import CONFIGS, Config, Section, flatten, load
from raypipe.models.families import QwenVLFamily, family_of_checkpoint

SHIPPED = sorted(CONFIGS.glob("*.yaml"))
GPU = (
    "qwen2.5-vl-3b.yaml",
    "qwen2-vl-2b.yaml",
    "qwen3-vl-2b.yaml",
    "qwen3-vl-4b.yaml",
    "qwen3-vl-8b.yaml",
)
PAPER = {
    "catalog.image_size": 224,
    "catalog.max_images": 5,
    "lora.rank": 32,
    "lora.alpha": 32,
    "lora.targets": ("q_proj", "v_proj"),
    "sft.learning_rate": 3e-5,
    "sampling.num_chains": 7,
    "sampling.temperature": 1.0,
    "sampling.top_p": 1.0,
    "sampling.max_tokens": 200,
    "consensus.threshold": 0.5,
    "training.method": "dpo",
    "training.learning_rate": 1e-5,
    "training.beta": 0.2,
    "training.label_smoothing": 0.0,
    "training.pair_weight": "uniform",
    "training.epochs": 1,
    "training.batch_size": 128,
    "training.reference": "start",
    "rounds.start": "sft",
}
# What the laptop's run may set otherwise than the paper: sizes and learning rates of the nano.
LOCAL_MAY_DIFFER = {
    "catalog.image_size",
    "sft.learning_rate",
    "sft.epochs",
    "sft.batch_size",
    "sampling.max_tokens",
    "training.learning_rate",
    "training.batch_size",
}


def values_of(path: Path) -> dict[str, Any]:
    return flatten(load(path).model_dump())


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
def test_a_shipped_configuration_parses_and_names_its_run_after_itself(path: Path) -> None:
    assert load(path).run.name == path.stem


def test_the_local_configuration_and_those_for_gpus_are_shipped() -> None:
    assert {"local.yaml", *GPU} <= {path.name for path in SHIPPED}


def test_the_local_configuration_is_the_default_and_needs_nothing_of_the_users() -> None:
    assert load() == load(CONFIGS / "local.yaml")
    assert load().model.path == "embedded:nano"
    assert load().catalog.embedded is not None
    assert not load().cluster.use_gpu


def test_the_local_configuration_evaluates_enough_queries_in_at_least_two_rounds() -> None:
    embedded = load().catalog.embedded
    assert embedded is not None
    assert embedded.num_eval >= 250  # about four queries a listing: more than 1,000
    assert load().rounds.num_rounds >= 2


def test_the_local_configuration_departs_from_the_paper_in_sizes_and_rates_alone() -> None:
    values = values_of(CONFIGS / "local.yaml")
    assert {key for key in PAPER if values[key] != PAPER[key]} <= LOCAL_MAY_DIFFER


@pytest.mark.parametrize("name", GPU)
@pytest.mark.parametrize("key", sorted(PAPER))
def test_a_gpu_configuration_holds_the_papers_value(name: str, key: str) -> None:
    assert values_of(CONFIGS / name)[key] == PAPER[key]


@pytest.mark.parametrize("name", GPU)
def test_a_gpu_configuration_uses_gpus_and_leaves_room_for_prompt_and_chain(name: str) -> None:
    config = load(CONFIGS / name)
    assert config.cluster.use_gpu
    assert config.sampling.gpus_per_actor >= 1
    assert config.model.dtype == "bfloat16"
    family = family_of_checkpoint(config.model.path, config.model.revision)
    assert isinstance(family, QwenVLFamily)
    assert config.catalog.image_size % family.pixel_multiple == 0
    tokens_per_image = family.tokens_per_image(config.catalog.image_size)
    most = config.catalog.max_images * tokens_per_image + config.sampling.max_tokens
    assert config.sampling.engine["max_model_len"] >= most + 1000
    assert config.rounds.num_rounds == 3


def fields_of(section: type[Section], prefix: str = "") -> Iterator[tuple[str, FieldInfo]]:
    for name, field in section.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, Section):
            yield from fields_of(kind, f"{prefix}{name}.")
        else:
            yield prefix + name, field


FIELDS = dict(fields_of(Config))


@pytest.mark.parametrize("name", sorted(FIELDS))
def test_every_key_is_described_in_a_sentence(name: str) -> None:
    description = FIELDS[name].description
    assert description, f"{name} has no docstring"
    assert description.strip().endswith(".")


@pytest.mark.parametrize(
    "name", sorted(name for name, field in FIELDS.items() if "None" in str(field.annotation))
)
def test_a_key_that_may_be_none_says_what_none_means(name: str) -> None:
    needed_with_listings = {
        "catalog.listings",
        "catalog.attribute_schema",
        "catalog.seed",
        "catalog.truth",
    }
    if name not in needed_with_listings:
        assert "None" in (FIELDS[name].description or "")
