"""An exported adapter loads with PEFT, and its card holds what the run knows."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from huggingface_hub import ModelCard
from peft import PeftModel
from transformers import AutoModelForImageTextToText

from raypipe.config import ModelConfig, resolve
from raypipe.errors import EXIT_INPUT, ArtifactError, ConfigDriftError
from raypipe.exports.adapters import export_adapter
from raypipe.exports.modelcard import base_name, model_card
from raypipe.models.licences import licence
from raypipe.models.policies import Policy, model_path
from raypipe.store.artifacts import Run
from tests.fakes.adapters import NAMED, NANO, PAIRS_DIGEST, adapted_run, nano_config, write_adapter


@pytest.fixture(scope="module")
def adapted(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return adapted_run(tmp_path_factory.mktemp("runs") / "shoes")


@pytest.fixture
def exported(adapted: Run, tmp_path: Path) -> Path:
    return export_adapter(nano_config(), adapted, "round-1", tmp_path / "adapters-round-1")


def weights(directory: Path) -> dict[str, torch.Tensor]:
    base = AutoModelForImageTextToText.from_pretrained(model_path(NANO))
    model = PeftModel.from_pretrained(base, str(directory))
    return {name: weight for name, weight in model.named_parameters() if "lora_" in name}


def test_peft_loads_it_with_the_weights_of_the_run(adapted: Run, exported: Path) -> None:
    found = weights(exported)
    wanted = weights(adapted.artifact("round-1/adapter").local_directory())
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)


def test_it_names_the_base_as_the_configuration_does_and_no_directory(
    adapted: Run, exported: Path
) -> None:
    values = json.loads((exported / "adapter_config.json").read_text())
    assert values["base_model_name_or_path"] == "embedded:nano"
    text = "".join(path.read_text() for path in exported.glob("*.[jm][sd]*"))
    assert str(Path(adapted.root).parent) not in text
    assert "site-packages" not in text


def test_the_run_keeps_its_own_files(adapted: Run, exported: Path) -> None:
    assert not (adapted.artifact("round-1/adapter").local_directory() / "README.md").exists()


def test_a_second_export_takes_the_place_of_the_first(adapted: Run, exported: Path) -> None:
    (exported / "stale").write_text("of another policy")
    again = export_adapter(nano_config(), adapted, "round-1", exported)
    assert again == exported
    assert not (exported / "stale").exists()
    assert [path.name for path in exported.parent.iterdir() if path.name.startswith(".")] == []


def test_an_adapter_that_is_not_committed_is_refused(adapted: Run, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="round-2/adapter is not committed"):
        export_adapter(nano_config(), adapted, "round-2", tmp_path / "round-2")


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        (
            {"model": {"path": "Qwen/Qwen2.5-VL-3B-Instruct", "allow_unpinned": True}},
            "model.path: 'embedded:nano' -> 'Q",
        ),
        (
            {"model": {"answer_format": "answer_only"}},
            "model.answer_format: 'reasoning' -> 'answer_",
        ),
        ({"lora": {"rank": 16}}, "lora.rank: 32 -> 16"),
        ({"lora": {"targets": ["q_proj"]}}, "lora.targets: ['q_proj', 'v_proj'] -> ['q_proj']"),
    ],
)
def test_a_card_never_names_a_base_or_lora_that_the_adapter_was_not_trained_with(
    adapted: Run, tmp_path: Path, changed: dict[str, Any], says: str
) -> None:
    config = resolve({**NAMED, **changed})
    with pytest.raises(ConfigDriftError, match="round-1/adapter was made with other") as raised:
        export_adapter(config, adapted, "round-1", tmp_path / "round-1")
    assert says in str(raised.value)
    assert list(tmp_path.iterdir()) == []


# The card


def card_of(adapted: Run, **model: str) -> ModelCard:
    """The card of round 1, as if the base model were another one."""
    policy = Policy("round-1", NANO, adapted.artifact("round-1/adapter"))
    return ModelCard(model_card(nano_config(**model), adapted, policy, "adapter"))


def test_the_hub_reads_the_front_matter(adapted: Run) -> None:
    data = card_of(adapted, path="Qwen/Qwen2.5-VL-3B-Instruct", revision="66285546").data
    assert data.base_model == "Qwen/Qwen2.5-VL-3B-Instruct"
    assert data.get("base_model_relation") == "adapter"
    assert data.get("base_model_revision") == "66285546"
    assert (data.license, data.license_name) == ("other", "qwen-research")
    assert (data.library_name, data.pipeline_tag) == ("peft", "image-text-to-text")
    assert {"raypipe", "lora", "dpo"} <= set(data.tags or ())
    assert data.model_name == "shoes/round-1"
    (result,) = data.eval_results or ()
    assert (result.metric_type, result.metric_value) == ("accuracy", 0.6)


def test_the_front_matter_is_plain_yaml_with_the_fields_that_the_hub_knows(adapted: Run) -> None:
    """What the Hub's own check asks for, as far as that can be asked without a network."""
    _, front, _ = str(card_of(adapted, path="Qwen/Qwen2-VL-2B-Instruct")).split("---\n", 2)
    values: dict[str, Any] = yaml.safe_load(front)
    assert values["license"] == "apache-2.0"
    assert all(isinstance(tag, str) for tag in values["tags"])
    (index,) = values["model-index"]
    (result,) = index["results"]
    assert result.keys() == {"task", "dataset", "metrics"}
    assert result["dataset"].keys() == {"type", "name"}
    assert re.fullmatch(r"[\w.-]+/[\w.-]+", values["base_model"])


def test_a_base_that_is_not_on_the_hub_is_not_named_as_if_it_were(adapted: Run) -> None:
    card = card_of(adapted)
    assert card.data.base_model is None
    assert card.data.license == "apache-2.0"
    assert "raypipe's `embedded:nano`" in card.text


def test_the_card_tells_accuracy_against_the_base_and_what_it_learned_from(adapted: Run) -> None:
    text = card_of(adapted).text
    assert "| round-1 | 0.600 | 0.550 – 0.650 | 400 | 2.5 % |" in text
    assert "| base model | 0.500 | 0.450 – 0.550 | 400 | 2.5 % |" in text
    assert "round-1 − sft: +3.1 points, 95 % [-1.0, +7.0]" in text
    assert f"| preference pairs of `sft` | 96 from 40 queries | `{PAIRS_DIGEST}` |" in text
    assert adapted.artifact("round-1/adapter").require_commit().digest in text
    assert "--enable-lora --max-lora-rank 32 --lora-modules round-1=" in text
    for heading in ("Data", "Accuracy", "How to load it", "Intended use and limits", "Licence"):
        assert f"\n## {heading}\n" in text


def test_the_card_of_a_foreign_adapter_claims_nothing(adapted: Run, tmp_path: Path) -> None:
    """Also where it bears the name of a policy of the run."""
    foreign = Policy("round-1", NANO, write_adapter(tmp_path / "round-1", seed=3))
    card = ModelCard(model_card(nano_config(), adapted, foreign, "merged"))
    assert card.data.eval_results is None
    assert "Not measured." in card.text
    assert PAIRS_DIGEST not in card.text


def test_an_unknown_licence_has_to_be_filled_in(adapted: Run, tiny_model: ModelConfig) -> None:
    card = card_of(adapted, path=tiny_model.path)
    assert card.data.license == "unknown"
    assert "**To be filled in before this is published:**" in card.text
    assert tiny_model.path not in str(card)


def test_a_local_checkpoint_is_taken_at_its_own_cards_word(tiny_model: ModelConfig) -> None:
    (Path(tiny_model.path) / "README.md").write_text("---\nlicense: mit\ntags: [x]\n---\n# Base\n")
    assert licence(tiny_model) == {"license": "mit"}
    assert base_name(tiny_model) is None


@pytest.mark.parametrize(
    "card",
    [
        "# Base\n\na | b\n---|---\nc: d: e | [\n",
        "---\nlicense: [mit\n---\n# Base\n",
        "---\nlicense: mit\n",
        "---\nlicense: null\n---\n",
        "---\nlicense: [mit, apache-2.0]\n---\n",
        "---\nlicense_link: https://example.org\n---\n",
        "---\n- license\n---\n",
        "",
    ],
)
def test_a_base_whose_card_says_no_licence_plainly_has_an_unknown_one(
    adapted: Run, tiny_model: ModelConfig, card: str
) -> None:
    (Path(tiny_model.path) / "README.md").write_text(card)
    assert licence(tiny_model) == {"license": "unknown"}
    text = card_of(adapted, path=tiny_model.path).text
    assert "**To be filled in before this is published:**" in text


def test_a_licence_with_a_name_and_a_link_keeps_both(adapted: Run, tiny_model: ModelConfig) -> None:
    front = "---\nlicense: other\nlicense_name: ours\nlicense_link: https://x.org\n---\n"
    (Path(tiny_model.path) / "README.md").write_text(f"{front}# Ours – ©\n", encoding="utf-8")
    assert licence(tiny_model) == {
        "license": "other", "license_name": "ours", "license_link": "https://x.org",
    }  # fmt: skip
    text = card_of(adapted, path=tiny_model.path).text
    assert "The base model's: ours ([text](https://x.org))" in text


def test_what_no_manifest_names_is_not_exported(tmp_path: Path) -> None:
    run = adapted_run(tmp_path / "shoes")
    (run.artifact("round-1/adapter").local_directory() / "adapter_model.bin").write_bytes(b"a")
    exported = export_adapter(nano_config(), run, "round-1", tmp_path / "exported")
    named = {"adapter_config.json", "adapter_model.safetensors", "README.md"}
    assert {path.name for path in exported.iterdir()} == named


@pytest.mark.parametrize("name", ["adapter_model.safetensors", "adapter_config.json"])
@pytest.mark.parametrize("harm", ["zeros", "cut", "deleted"])
def test_an_adapter_that_is_not_what_was_committed_is_not_exported(
    tmp_path: Path, name: str, harm: str
) -> None:
    run = adapted_run(tmp_path / "shoes")
    (path,) = (Path(run.root) / "round-1" / "adapter" / "files").rglob(name)
    content = path.read_bytes()
    half = len(content) // 2
    if harm == "deleted":
        path.unlink()
    else:
        path.write_bytes(content[:half] + (bytes(len(content) - half) if harm == "zeros" else b""))
    target = tmp_path / "exported"
    with pytest.raises(ArtifactError, match=f"{name} is missing or corrupt") as raised:
        export_adapter(nano_config(), run, "round-1", target)
    assert raised.value.exit_code == EXIT_INPUT
    assert "restore it from a copy" in str(raised.value)
    assert not target.exists()
    path.write_bytes(content)
    assert export_adapter(nano_config(), run, "round-1", target) == target
