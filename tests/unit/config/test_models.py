"""A model of the Hugging Face Hub is named with its commit."""

from pathlib import Path
from typing import Any

import pytest

from raypipe.config import CONFIGS, Config, load, resolve, split_backbone
from raypipe.errors import ConfigError

COMMIT = "66285546d2b821cf421d4f5eb2576359d3770cd3"
OTHER = "895c3a49bc3fa70a340399125c650a463535e71c"
MODEL = "Qwen/Qwen2.5-VL-3B-Instruct"


def configured(**model: Any) -> Config:
    return resolve({"model": model})


@pytest.mark.parametrize(
    "revision", [None, "main", "v1.0", COMMIT[:12], COMMIT.upper(), f"{COMMIT}0", f"{COMMIT}\n"]
)
def test_a_model_of_the_hub_needs_its_commit(revision: str | None) -> None:
    with pytest.raises(ConfigError, match=r"model\.revision is no commit"):
        configured(path=MODEL, revision=revision)
    taken = configured(path=MODEL, revision=revision, allow_unpinned=True)
    assert taken.model.revision == revision


def test_with_its_commit_it_is_taken() -> None:
    assert configured(path=MODEL, revision=COMMIT).model.revision == COMMIT


def test_a_name_that_is_no_directory_here_is_of_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="is no directory here"):
        configured(path="models/own")
    (tmp_path / "models/own").mkdir(parents=True)
    for path in ("models/own", "./absent", str(tmp_path / "absent"), "embedded:nano"):
        configured(path=path)


def test_a_backbone_needs_its_commit_too() -> None:
    with pytest.raises(ConfigError, match=r"sweep\.backbones: .* lacks its commit"):
        resolve({"sweep": {"backbones": [MODEL]}})
    resolve({"sweep": {"backbones": [f"{MODEL}@{COMMIT}", "/models/a@b"]}})
    assert split_backbone(f"{MODEL}@{COMMIT}") == (MODEL, COMMIT)
    assert split_backbone("/models/a@b") == ("/models/a@b", None)


@pytest.mark.parametrize("name", ["model", "revision", "tokenizer", "hf_config_path"])
def test_the_engine_serves_no_other_model(name: str) -> None:
    with pytest.raises(ConfigError, match=rf"sampling\.engine: {name} changes the model"):
        resolve({"sampling": {"engine": {name: "someone/else"}}})


def test_the_engine_computes_in_the_models_type() -> None:
    with pytest.raises(ConfigError, match=r"sampling\.engine: dtype .* set model\.dtype"):
        resolve({"sampling": {"engine": {"dtype": "bfloat16"}}})


def test_an_adapter_has_a_target() -> None:
    with pytest.raises(ConfigError, match=r"lora\.targets"):
        resolve({"lora": {"targets": []}})


def test_a_draft_model_of_the_engine_needs_its_commit() -> None:
    draft: dict[str, Any] = {"model": "someone/draft", "num_speculative_tokens": 3}
    with pytest.raises(ConfigError, match=r"speculative_config\.model: .* lacks its commit"):
        resolve({"sampling": {"engine": {"speculative_config": draft}}})
    resolve({"sampling": {"engine": {"speculative_config": draft | {"revision": OTHER}}}})


def test_what_is_shipped_names_the_commits() -> None:
    small, large = load(CONFIGS / "qwen2-vl-2b.yaml"), load(CONFIGS / "qwen2.5-vl-3b.yaml")
    assert (small.model.revision, large.model.revision) == (OTHER, COMMIT)
    assert large.sweep.backbones == (f"{small.model.path}@{OTHER}",)
