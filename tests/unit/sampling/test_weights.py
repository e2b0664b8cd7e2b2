"""Merged weights belong to one policy: another adapter at the same place never finds them."""

import hashlib
import os
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForImageTextToText

from raypipe.config import ModelConfig
from raypipe.models.policies import Policy, model_path
from raypipe.sampling.weights import MergedCheckpoint, merged_checkpoint

MODEL = ModelConfig(path="embedded:nano", dtype="float32")


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))


def write_adapter(directory: Path, seed: int) -> Path:
    base = AutoModelForImageTextToText.from_pretrained(model_path(MODEL))
    lora = LoraConfig(r=4, target_modules=r".*language_model.*\.(q_proj|v_proj)")
    model = get_peft_model(base, lora)
    torch.manual_seed(seed)
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.05)
    model.save_pretrained(directory)
    return directory


def merged(adapter: Path) -> MergedCheckpoint:
    policy = Policy("round-1", MODEL, adapter)
    return merged_checkpoint(model_path(MODEL), None, MODEL.dtype, adapter, policy.policy_id)


def weights_of(checkpoint: MergedCheckpoint) -> str:
    return hashlib.sha256((Path(checkpoint.path) / "model.safetensors").read_bytes()).hexdigest()


def test_another_adapter_written_over_the_first_is_served_by_weights_of_its_own(
    tmp_path: Path,
) -> None:
    place = tmp_path / "adapter"
    first = merged(write_adapter(place, seed=1))
    again = merged(place)
    second = merged(write_adapter(place, seed=2))
    assert again == first
    assert second.path != first.path
    assert weights_of(second) != weights_of(first)
    assert second.base_logprobs == first.base_logprobs
    assert second.policy_logprobs != first.policy_logprobs


def test_every_use_makes_a_checkpoint_young_again(tmp_path: Path) -> None:
    place = write_adapter(tmp_path / "adapter", seed=1)
    probe = Path(merged(place).path) / "raypipe_probe.json"
    os.utime(probe, (1e9, 1e9))
    merged(place)
    assert probe.stat().st_mtime > 1e9


@pytest.mark.parametrize("harm", ["flipped", "cut", "deleted", "no probe", "cut probe", "foreign"])
def test_weights_that_are_no_longer_what_was_merged_are_made_again(
    tmp_path: Path, harm: str
) -> None:
    place = write_adapter(tmp_path / "adapter", seed=1)
    first = merged(place)
    wanted = weights_of(first)
    name = "raypipe_probe.json" if "probe" in harm else "model.safetensors"
    path = Path(first.path) / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 8
    match harm:
        case "flipped":
            path.write_bytes(bytes(content))
        case "cut" | "cut probe":
            path.write_bytes(path.read_bytes()[:-9])
        case "foreign":
            (path.parent / "adapter_config.json").write_text("{}")
        case _:
            path.unlink()
    again = merged(place)
    assert again == first
    assert weights_of(again) == wanted
    assert not (path.parent / "adapter_config.json").exists()
    assert [child.name for child in path.parent.parent.iterdir()] == [path.parent.name]
