"""Merged weights belong to one policy: another adapter at the same place never finds them."""

import copy
import hashlib
import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageTextToText

from raypipe import storage
from raypipe.config import ModelConfig
from raypipe.errors import AdapterInactiveError, ConfigError
from raypipe.models.policies import Policy, model_path
from raypipe.sampling import weights
from raypipe.sampling.weights import (
    MergedCheckpoint,
    adapter_reference,
    merged_checkpoint,
    write_merged,
)

MODEL = ModelConfig(path="embedded:nano", dtype="float32")


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))


def write_adapter(directory: Path, seed: int, std: float = 0.05, **asked: Any) -> Path:
    base = AutoModelForImageTextToText.from_pretrained(model_path(MODEL))
    asked = {"target_modules": r".*language_model.*\.(q_proj|v_proj)", **asked}
    model = get_peft_model(base, LoraConfig(r=4, **asked))
    torch.manual_seed(seed)
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=std)
    model.save_pretrained(directory)
    return directory


def merged(adapter: Path) -> MergedCheckpoint:
    policy = Policy("round-1", MODEL, adapter)
    return merged_checkpoint(model_path(MODEL), None, MODEL.dtype, adapter, policy.policy_id)


def logprobs(model: torch.nn.Module, text: tuple[int, ...]) -> torch.Tensor:
    token_ids = torch.tensor([text])
    with torch.no_grad():
        said = model.eval()(input_ids=token_ids).logits[0, :-1].log_softmax(-1)
    return said.gather(-1, token_ids[0, 1:, None])[:, 0]


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
    assert second.reference.base == first.reference.base
    assert second.reference.policy != first.reference.policy
    assert first.kept == pytest.approx(1)


def test_engines_that_start_at_once_merge_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapter = write_adapter(tmp_path / "adapter", 1)
    merges = []

    def counted(target: Path, **how: Any) -> Any:
        merges.append(target)
        return storage.whole(target, **how)

    monkeypatch.setattr(weights, "storage", SimpleNamespace(**vars(storage) | {"whole": counted}))
    with ThreadPoolExecutor(3) as engines:
        served = list(engines.map(merged, [adapter] * 3))
    assert len({one.path for one in served}) == len(merges) == 1


def test_every_use_makes_a_checkpoint_young_again(tmp_path: Path) -> None:
    place = write_adapter(tmp_path / "adapter", seed=1)
    probe = Path(merged(place).path) / "raypipe_probe.json"
    os.utime(probe, (1e9, 1e9))
    merged(place)
    assert probe.stat().st_mtime > 1e9


def test_the_same_weights_at_another_scale_are_another_policy(tmp_path: Path) -> None:
    place = write_adapter(tmp_path / "adapter", seed=1)
    first = merged(place)
    beside = adapter_reference(model_path(MODEL), None, MODEL.dtype, place, "0" * 16)
    settings = place / "adapter_config.json"
    settings.write_text(json.dumps(json.loads(settings.read_text()) | {"lora_alpha": 80}))
    again = merged(place)
    assert again.reference.policy != first.reference.policy
    assert adapter_reference(model_path(MODEL), None, MODEL.dtype, place, "0" * 16) != beside


def test_weights_of_a_version_that_did_not_measure_its_loss_are_made_again(tmp_path: Path) -> None:
    place = write_adapter(tmp_path / "adapter", seed=1)
    first = merged(place)
    probe = Path(first.path) / "raypipe_probe.json"
    probe.write_text(json.dumps({"sha256": json.loads(probe.read_text())["sha256"]}))
    assert merged(place) == first
    assert json.loads(probe.read_text())["kept"] == first.kept


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_probe_expects_what_adapter_and_base_say_in_float32(tmp_path: Path, dtype: str) -> None:
    place = write_adapter(tmp_path / "adapter", seed=1)
    policy_id = Policy("round-1", MODEL, place).policy_id
    reference = merged_checkpoint(model_path(MODEL), None, dtype, place, policy_id).reference
    base = AutoModelForImageTextToText.from_pretrained(
        model_path(MODEL), dtype=getattr(torch, dtype)
    ).float()
    (before, after) = (
        logprobs(model, reference.token_ids[0])[reference.shared - 1 :]
        for model in (base, PeftModel.from_pretrained(copy.deepcopy(base), str(place)))
    )
    torch.testing.assert_close(before, torch.tensor(reference.base[0]), rtol=0, atol=2e-3)
    torch.testing.assert_close(after, torch.tensor(reference.policy[0]), rtol=0, atol=2e-3)
    assert reference.noise == 1e-4 if dtype == "float32" else reference.noise > 1e-3


def test_an_adapter_beside_the_weights_has_the_same_reference_kept_for_the_next_engine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = write_adapter(tmp_path / "adapter", seed=1)
    first = adapter_reference(model_path(MODEL), None, MODEL.dtype, place, "0" * 16)
    assert first == merged(place).reference
    monkeypatch.setattr("raypipe.sampling.weights.load_base_model", lambda *_: pytest.fail("again"))
    assert adapter_reference(model_path(MODEL), None, MODEL.dtype, place, "0" * 16) == first


def test_no_policy_of_no_change_has_a_reference(tmp_path: Path) -> None:
    place = write_adapter(tmp_path / "adapter", seed=1, std=0.0)
    with pytest.raises(AdapterInactiveError, match="all its updates are 0"):
        adapter_reference(model_path(MODEL), None, MODEL.dtype, place, "0" * 16)


@pytest.mark.parametrize(
    "asked",
    [
        {"use_dora": True},
        {"lora_bias": True},
        {"target_modules": ["q_proj", "lm_head"]},
        {"target_modules": ["q_proj", "embed_tokens"]},
        {"target_parameters": ["mlp.gate_proj.weight"]},
    ],
)
def test_an_adapter_of_which_a_merge_would_leave_a_part_out_is_refused(
    tmp_path: Path, asked: dict[str, Any]
) -> None:
    place = write_adapter(tmp_path / "adapter", seed=1, **asked)
    with pytest.raises(ConfigError, match="is no plain LoRA of a linear layer"):
        write_merged(model_path(MODEL), None, "float32", place, tmp_path / "merged")


@pytest.mark.parametrize("harm", ["nan", "inf", "no settings", "cut"])
def test_an_adapter_that_is_malformed_is_refused_by_its_path(tmp_path: Path, harm: str) -> None:
    place = write_adapter(tmp_path / "adapter", seed=1)
    weights = place / "adapter_model.safetensors"
    if harm in ("nan", "inf"):
        save_file({n: w.fill_(float(harm)) for n, w in load_file(weights).items()}, weights)
    if harm == "no settings":
        (place / "adapter_config.json").unlink()
    if harm == "cut":
        weights.write_bytes(weights.read_bytes()[:500])
    with pytest.raises(ConfigError, match=f"the adapter {place} "):
        merged_checkpoint(model_path(MODEL), None, "float32", place, "0" * 16)


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
