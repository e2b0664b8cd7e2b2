"""A merged checkpoint is base and adapter in one, and never lands on something else."""

import os
import shutil
from pathlib import Path

import pytest
import torch
from huggingface_hub import ModelCard
from peft import PeftModel
from transformers import AutoModelForImageTextToText, AutoProcessor

from raypipe.cli.jobs import main
from raypipe.errors import (
    AdapterInactiveError,
    ArtifactError,
    ConfigDriftError,
    ConfigError,
    MergeLossError,
)
from raypipe.exports.merged_checkpoint import merge
from raypipe.models.policies import model_path
from raypipe.store.artifacts import Run
from tests.fakes.adapters import NANO, adapted_run, nano_config, summarise


@pytest.fixture(scope="module")
def adapted(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return adapted_run(tmp_path_factory.mktemp("runs") / "shoes")


@pytest.fixture(scope="module")
def merged(adapted: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("served") / "shoes"
    return merge(nano_config(), adapted, "best", target).path


def logits(model: torch.nn.Module) -> torch.Tensor:
    token_ids = torch.arange(5, 45)[None]
    with torch.no_grad():
        return model.eval()(input_ids=token_ids).logits  # type: ignore[no-any-return]


def test_its_logits_are_those_of_base_and_adapter(adapted: Run, merged: Path) -> None:
    base = AutoModelForImageTextToText.from_pretrained(model_path(NANO), dtype=torch.float32)
    plain = logits(base)
    adapter = adapted.artifact("round-1/adapter").local_directory()
    wanted = logits(PeftModel.from_pretrained(base, str(adapter)))
    found = logits(AutoModelForImageTextToText.from_pretrained(merged))
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)
    assert (found - plain).abs().max() > 0.1


def test_it_has_the_processor_and_chat_template_of_the_base(merged: Path) -> None:
    found, base = (AutoProcessor.from_pretrained(path) for path in (merged, model_path(NANO)))
    question = [
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "colour?"}]}
    ]
    assert found.apply_chat_template(question) == base.apply_chat_template(question)
    assert found.tokenizer.get_vocab() == base.tokenizer.get_vocab()


def test_its_card_says_how_to_serve_it(merged: Path) -> None:
    card = ModelCard.load(merged / "README.md")
    assert card.data.library_name == "transformers"
    assert "vllm serve THIS_DIRECTORY" in card.text
    assert "Made in float32: of the adapter's effect" in card.text
    assert "100.0% is kept" in card.text


@pytest.mark.parametrize("std", [1e-4, 7e-4])
def test_in_bfloat16_it_keeps_a_small_adapters_effect(tmp_path: Path, std: float) -> None:
    small = adapted_run(tmp_path / "small", std=std)
    base = AutoModelForImageTextToText.from_pretrained(model_path(NANO), dtype=torch.float32)
    plain = logits(base)
    adapter = small.artifact("round-1/adapter").local_directory()
    wanted = logits(PeftModel.from_pretrained(base, str(adapter))) - plain
    merged = merge(nano_config(), small, "best", tmp_path / "served", dtype="bfloat16")
    served = AutoModelForImageTextToText.from_pretrained(merged.path)
    assert served.dtype == torch.bfloat16
    found = logits(served.float()) - plain
    assert float((found * wanted).sum() / (wanted * wanted).sum()) > 0.85
    assert merged.kept > 0.9
    assert (
        "Made in bfloat16: of the adapter's effect on the outputs"
        in (merged.path / "README.md").read_text()
    )


def test_a_merge_that_loses_too_much_is_refused_and_leaves_nothing(
    adapted: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("raypipe.sampling.weights.MIN_KEPT", 1.5)
    target = tmp_path / "served" / "shoes"
    with pytest.raises(MergeLossError, match=r"merged into bfloat16, the weights keep 1\.00 of"):
        merge(nano_config(), adapted, "best", target, dtype="bfloat16")
    assert os.listdir(target.parent) == []


def test_nothing_but_a_checkpoint_is_in_it(merged: Path) -> None:
    assert {"config.json", "model.safetensors", "tokenizer.json", "README.md"} <= set(
        os.listdir(merged)
    )
    assert not [name for name in os.listdir(merged) if "adapter" in name or "probe" in name]
    assert os.listdir(merged.parent) == [merged.name]


@pytest.mark.parametrize("holds", ["file", "directory"])
def test_a_target_that_holds_something_is_left_alone(
    adapted: Run, tmp_path: Path, holds: str
) -> None:
    target = tmp_path / "served"
    kept = target if holds == "file" else target / "kept"
    kept.parent.mkdir(parents=True, exist_ok=True)
    kept.write_text("mine")
    with pytest.raises(ConfigError, match="not empty"):
        merge(nano_config(), adapted, "round-1", target)
    assert kept.read_text() == "mine"


def test_an_empty_target_is_taken(adapted: Run, tmp_path: Path) -> None:
    (tmp_path / "served").mkdir()
    merge(nano_config(), adapted, "round-1", tmp_path / "served")
    assert (tmp_path / "served" / "model.safetensors").is_file()


def test_the_base_has_nothing_to_merge(adapted: Run, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="'pretrained' has no adapter"):
        merge(nano_config(), adapted, "pretrained", tmp_path / "served")


def test_a_policy_that_was_never_made_is_refused(adapted: Run, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="round-7/adapter is not committed"):
        merge(nano_config(), adapted, "round-7", tmp_path / "served")


def test_an_adapter_that_changes_nothing_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    idle = adapted_run(tmp_path / "idle", std=0.0)
    with pytest.raises(AdapterInactiveError, match="changes nothing"):
        merge(nano_config(), idle, "round-1", tmp_path / "served" / "shoes")
    assert os.listdir(tmp_path / "served") == []


@pytest.mark.parametrize(
    ("model", "says"),
    [
        ({"revision": "66285546"}, "model.revision: None -> '66285546'"),
        ({"dtype": "bfloat16"}, "model.dtype: 'float32' -> 'bfloat16'"),
        ({"path": "Qwen/Qwen2-VL-2B-Instruct"}, "model.path: 'embedded:nano' -> 'Qwen/Qwen2-VL-"),
    ],
)
def test_another_base_than_the_adapters_is_refused_before_it_is_loaded(
    adapted: Run, tmp_path: Path, model: dict[str, str], says: str
) -> None:
    with pytest.raises(ConfigDriftError, match="round-1/adapter was made with other") as raised:
        merge(nano_config(**model), adapted, "best", tmp_path / "served" / "shoes")
    assert says in str(raised.value)
    assert "--config" in str(raised.value)
    assert list(tmp_path.iterdir()) == []


def test_a_base_that_lies_elsewhere_by_now_is_the_same_by_its_files(
    adapted: Run, tmp_path: Path
) -> None:
    moved = tmp_path / "moved"
    shutil.copytree(model_path(NANO), moved)
    served = merge(nano_config(path=str(moved)), adapted, "best", tmp_path / "served").path
    assert (served / "model.safetensors").is_file()
    (moved / "generation_config.json").write_text("{}")
    with pytest.raises(ConfigDriftError, match=r"model\.files"):
        merge(nano_config(path=str(moved)), adapted, "best", tmp_path / "again")


def test_a_card_that_cannot_be_written_is_known_before_the_merge(
    adapted: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "raypipe.exports.merged_checkpoint.write_merged", lambda *_: pytest.fail("merged")
    )
    adapted.replace("summary.json", b"{")
    try:
        with pytest.raises(ArtifactError, match=r"summary\.json is unreadable"):
            merge(nano_config(), adapted, "round-1", tmp_path / "served")
    finally:
        summarise(adapted)


def test_the_job_takes_policy_and_target(
    adapted: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "served"
    where = ["run.name=shoes", f"run.directory={Path(adapted.root).parent}"]
    assert main("merge", None, ["--target", str(target), *where]) == 2
    assert "catalog.image_size: 224 -> 112" in capsys.readouterr().err
    assert not target.exists()
    where.append("catalog.image_size=224")
    assert main("merge", None, ["--policy", "round-1", "--target", str(target), *where]) == 0
    assert "(float32, 100.0% of the adapter's effect kept)" in capsys.readouterr().out
    assert (target / "model.safetensors").is_file()
    assert main("merge", None, ["--target", str(target), *where]) == 2
    assert "is not empty" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main("merge", None, where)
