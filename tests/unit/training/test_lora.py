"""The adapter sits on the language model's projections and nowhere else, counted and by name.

Real architectures at their real size, on the meta device: no weights.
"""

import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import get_peft_model
from safetensors.torch import save_file
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForImageTextToText,
    PreTrainedConfig,
    Qwen2_5_VLConfig,
    Qwen2VLConfig,
    Qwen3VLConfig,
)

from raypipe.config import CONFIGS, LoraConfig, load
from raypipe.errors import ConfigError
from raypipe.models.families import QWEN2_5_VL
from raypipe.training.lora import (
    check_trainable,
    expected_parameters,
    load_reference,
    lora_config,
    same_adapter,
    with_adapter,
)

PROJECTION = re.compile(
    r".*\.language_model\.layers\.\d+\.self_attn\.(q_proj|v_proj)\.lora_[AB]\.default\.weight"
)


def qwen25_vl_3b(layers: int = 36, depth: int = 32) -> PreTrainedConfig:
    return Qwen2_5_VLConfig(
        text_config={
            "hidden_size": 2048,
            "num_hidden_layers": layers,
            "num_attention_heads": 16,
            "num_key_value_heads": 2,
            "intermediate_size": 11008,
            "vocab_size": 151936,
        },
        vision_config={"depth": depth, "hidden_size": 1280, "out_hidden_size": 2048},
    )


def qwen2_vl_2b() -> PreTrainedConfig:
    return Qwen2VLConfig(
        text_config={
            "hidden_size": 1536,
            "num_hidden_layers": 28,
            "num_attention_heads": 12,
            "num_key_value_heads": 2,
            "intermediate_size": 8960,
            "vocab_size": 151936,
        },
        vision_config={"depth": 32, "embed_dim": 1280, "hidden_size": 1536},
    )


def qwen3_vl_2b() -> PreTrainedConfig:
    return Qwen3VLConfig(
        text_config={
            "hidden_size": 2048,
            "num_hidden_layers": 28,
            "num_attention_heads": 16,
            "num_key_value_heads": 8,
            "head_dim": 128,
            "intermediate_size": 6144,
            "vocab_size": 151936,
        },
        vision_config={
            "depth": 24,
            "hidden_size": 1024,
            "intermediate_size": 4096,
            "out_hidden_size": 2048,
            "deepstack_visual_indexes": [5, 11, 17],
        },
    )


def of_four_layers(kind: str) -> PreTrainedConfig:
    config = AutoConfig.for_model(kind)
    text = config.get_text_config()
    small = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 4, "head_dim": 16}
    for name, value in (small | {"num_attention_heads": 4, "num_key_value_heads": 2}).items():
        if hasattr(text, name):
            setattr(text, name, value)
    if getattr(text, "layer_types", None):
        text.layer_types = text.layer_types[:4]
    text.pad_token_id = None
    return config


def on_meta(config: PreTrainedConfig) -> Any:
    with torch.device("meta"):
        return AutoModelForImageTextToText.from_config(config)


@pytest.mark.parametrize(
    ("shipped", "architecture", "num_parameters"),
    [
        ("qwen2.5-vl-3b.yaml", qwen25_vl_3b, 7_372_800),
        ("qwen2-vl-2b.yaml", qwen2_vl_2b, 4_358_144),
        ("qwen3-vl-2b.yaml", qwen3_vl_2b, 6_422_528),
    ],
)
def test_the_shipped_settings_train_exactly_the_projections(
    shipped: str, architecture: Callable[[], PreTrainedConfig], num_parameters: int
) -> None:
    lora = load(CONFIGS / shipped).lora
    model = with_adapter(on_meta(architecture()), lora, None)
    trainable = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert sum(p.numel() for p in trainable.values()) == num_parameters
    assert all(PROJECTION.fullmatch(name) for name in trainable)
    assert check_trainable(model, lora) == num_parameters


def test_the_expected_count_follows_rank_and_targets() -> None:
    model = on_meta(qwen25_vl_3b(layers=3, depth=1))
    query, value = 3 * (2048 + 2048), 3 * (2048 + 256)
    assert expected_parameters(model, LoraConfig(rank=1, targets=("q_proj",))) == query
    assert expected_parameters(model, LoraConfig(rank=8, targets=("v_proj",))) == 8 * value
    every = LoraConfig(rank=1, targets=("q_proj", "k_proj", "v_proj", "o_proj"))
    assert expected_parameters(model, every) == 2 * (query + value)


@pytest.mark.parametrize("targets", [("q_proj.*",), ("q_proj", "qkv"), ("q_proj", "lm_head")])
def test_a_target_that_is_no_projection_is_refused_by_name(targets: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError, match=rf"lora\.targets: \['{re.escape(targets[-1])}'\]"):
        expected_parameters(on_meta(small()), LoraConfig(targets=targets))


@pytest.mark.parametrize("kind", ["qwen3_5", "idefics3", "gemma3", "internvl", "llava"])
def test_the_modules_of_a_model_say_what_to_expect(kind: str) -> None:
    """In Qwen3.5 every fourth layer attends, with queries twice as wide as its heads."""
    lora = LoraConfig(rank=2)
    model = with_adapter(on_meta(of_four_layers(kind)), lora, None)
    adapted = {name: module for name, module in model.named_modules() if hasattr(module, "lora_A")}
    assert len(adapted) == (2 if kind == "qwen3_5" else 8)
    assert not any("vision" in name for name in adapted)
    widths = [m.base_layer.in_features + m.base_layer.out_features for m in adapted.values()]
    assert check_trainable(model, lora) == 2 * sum(widths)


@cache
def small() -> PreTrainedConfig:
    return qwen25_vl_3b(layers=2, depth=2)


def test_an_adapter_on_other_modules_than_the_targets_is_refused() -> None:
    model = with_adapter(on_meta(small()), LoraConfig(targets=("q_proj", "k_proj")), None)
    with pytest.raises(ConfigError, match=r"outside lora\.targets would be trained.*k_proj"):
        check_trainable(model, LoraConfig())


def test_an_adapter_on_the_vision_tower_is_refused() -> None:
    settings = lora_config(LoraConfig())
    settings.target_modules = r".*(language_model.*\.(q_proj|v_proj)|visual.*\.proj)"
    with pytest.raises(ConfigError, match="visual"):
        check_trainable(get_peft_model(on_meta(small()), settings), LoraConfig())


def test_a_trainable_parameter_of_the_base_is_refused() -> None:
    model = with_adapter(on_meta(small()), LoraConfig(), None)
    model.get_base_model().lm_head.weight.requires_grad_(True)
    with pytest.raises(ConfigError, match="lm_head"):
        check_trainable(model, LoraConfig())


def test_another_rank_or_a_missing_target_is_refused_with_both_counts() -> None:
    model = with_adapter(on_meta(small()), LoraConfig(), None)
    with pytest.raises(ConfigError, match="409,600 parameters instead of 204,800"):
        check_trainable(model, LoraConfig(rank=16))
    with pytest.raises(ConfigError, match="409,600 parameters instead of"):
        check_trainable(model, LoraConfig(targets=("q_proj", "v_proj", "o_proj")))


@pytest.mark.parametrize(
    ("module", "hit"),
    [
        ("model.language_model.layers.0.self_attn.q_proj", True),
        ("base_model.model.model.language_model.layers.35.self_attn.v_proj", True),
        ("model.language_model.layers.0.self_attn.k_proj", False),
        ("model.language_model.layers.0.self_attn.my_q_proj", False),
        ("model.visual.blocks.0.attn.q_proj", False),
        ("model.visual.blocks.0.attn.qkv", False),
    ],
)
def test_the_pattern_hits_the_language_models_projections_alone(module: str, hit: bool) -> None:
    assert bool(re.fullmatch(QWEN2_5_VL.lora_pattern(LoraConfig().targets), module)) is hit


class Projections(nn.Module):
    """The part of a language model that adapters see, small enough to have weights."""

    def __init__(self) -> None:
        super().__init__()
        self.language_model = nn.Module()
        self.language_model.attention = nn.Module()
        self.language_model.attention.q_proj = nn.Linear(4, 4, dtype=torch.bfloat16)
        self.language_model.attention.v_proj = nn.Linear(4, 2, dtype=torch.bfloat16)


def projections_with_adapter(lora: LoraConfig, start: Path | None = None) -> Any:
    torch.manual_seed(0)
    if start is None:
        settings = lora_config(lora)
        settings.task_type = None
        return get_peft_model(Projections(), settings)
    return with_adapter(Projections(), lora, start)


def weights_of(model: Any, adapter: str) -> dict[str, torch.Tensor]:
    return {
        name.replace(f".{adapter}.", "."): parameter.detach().clone()
        for name, parameter in model.named_parameters()
        if f".{adapter}." in name
    }


@pytest.fixture
def saved_adapter(tmp_path: Path) -> Path:
    """An adapter that has been trained: none of its weights is zero."""
    model = projections_with_adapter(LoraConfig(rank=2, alpha=2))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.normal_()
    model.save_pretrained(tmp_path / "adapter")
    return tmp_path / "adapter"


def test_an_adapter_goes_on_from_another_trainable_and_in_float32(saved_adapter: Path) -> None:
    model = projections_with_adapter(LoraConfig(rank=2), saved_adapter)
    weights = weights_of(model, "default")
    assert all(float(weight.abs().min()) > 0 for weight in weights.values())
    assert {weight.dtype for weight in weights.values()} == {torch.float32}
    trainable = [name for name, p in model.named_parameters() if p.requires_grad]
    assert len(trainable) == 4
    assert all("lora_" in name for name in trainable)


def test_a_fresh_adapter_is_in_float32_on_a_bfloat16_base() -> None:
    weights = weights_of(projections_with_adapter(LoraConfig(rank=2)), "default")
    assert {weight.dtype for weight in weights.values()} == {torch.float32}


def test_the_reference_becomes_the_adapter_that_is_given_and_the_policy_stays(
    saved_adapter: Path,
) -> None:
    model = projections_with_adapter(LoraConfig(rank=2))
    settings = lora_config(LoraConfig(rank=2))
    settings.task_type = None
    model.add_adapter("ref", settings)
    before = weights_of(model, "default")
    load_reference(model, saved_adapter)
    wanted = weights_of(projections_with_adapter(LoraConfig(rank=2), saved_adapter), "default")
    reference = weights_of(model, "ref")
    assert reference.keys() == wanted.keys()
    assert all(torch.equal(reference[name], wanted[name]) for name in wanted)
    assert all(torch.equal(before[name], now) for name, now in weights_of(model, "default").items())


def test_no_reference_adapter_makes_the_base_model_the_reference(saved_adapter: Path) -> None:
    model = projections_with_adapter(LoraConfig(rank=2), saved_adapter)
    model.load_adapter(str(saved_adapter), adapter_name="ref")
    load_reference(model, None)
    model.set_adapter("ref")
    inputs = torch.ones(1, 4, dtype=torch.bfloat16)
    attention = model.get_base_model().language_model.attention
    with_reference = attention.q_proj(inputs)
    with model.disable_adapter():
        assert torch.equal(with_reference, attention.q_proj(inputs))


def test_a_reference_of_other_modules_is_refused(tmp_path: Path) -> None:
    foreign = projections_with_adapter(LoraConfig(rank=2, targets=("q_proj", "v_proj")))
    foreign.save_pretrained(tmp_path)
    model = projections_with_adapter(LoraConfig(rank=2, targets=("v_proj",)))
    settings = lora_config(LoraConfig(rank=2, targets=("v_proj",)))
    settings.task_type = None
    model.add_adapter("ref", settings)
    with pytest.raises(ConfigError, match="reference adapter does not fit"):
        load_reference(model, tmp_path)


@pytest.mark.parametrize(
    ("start", "made", "same"),
    [
        (None, {"q.lora_A.weight": 1.0, "q.lora_B.weight": 0.0}, True),
        (None, {"q.lora_A.weight": 1.0, "q.lora_B.weight": 1e-30}, False),
        ({"q.lora_B.weight": 0.5}, {"q.lora_B.weight": 0.5}, True),
        ({"q.lora_B.weight": 0.5}, {"q.lora_B.weight": 0.5000001}, False),
        ({"q.lora_B.weight": 0.5}, {"v.lora_B.weight": 0.5}, False),
    ],
)
def test_an_adapter_that_training_left_as_it_was_is_known(
    tmp_path: Path, start: dict[str, float] | None, made: dict[str, float], same: bool
) -> None:
    def saved(name: str, weights: dict[str, float]) -> Path:
        tensors = {key: torch.full((2, 2), value) for key, value in weights.items()}
        save_file(tensors, tmp_path / name)
        return tmp_path / name

    before = None if start is None else saved("start", start)
    assert same_adapter(before, saved("made", made)) is same
