"""A policy's id names its weights: the base model's and the adapter's, wherever they lie."""

from pathlib import Path

import pytest

from raypipe.config import ModelConfig
from raypipe.errors import ArtifactError, ConfigError
from raypipe.models.policies import (
    ADAPTER_WEIGHTS,
    PRETRAINED,
    SFT,
    model_identity,
    model_path,
    policy,
    round_name,
)
from raypipe.store.artifacts import Run
from tests.conftest import CommitRows


def test_the_id_is_sixteen_hex_digits_and_stable(run: Run, tiny_model: ModelConfig) -> None:
    policy_id = policy(run, tiny_model, PRETRAINED).policy_id
    assert len(policy_id) == 16
    assert int(policy_id, 16) >= 0
    assert policy(run, tiny_model, PRETRAINED).policy_id == policy_id


def test_the_id_depends_on_the_adapters_weights_and_not_on_its_name(
    run: Run, tiny_model: ModelConfig, commit_rows: CommitRows
) -> None:
    for name, weights in (("sft", b"one"), ("round-1", b"two"), ("round-2", b"one")):
        commit_rows(run, f"{name}/adapter", files={ADAPTER_WEIGHTS: weights, "other": b"x"})
    base, sft, first, second = (
        policy(run, tiny_model, name).policy_id
        for name in (PRETRAINED, SFT, round_name(1), round_name(2))
    )
    assert len({base, sft, first}) == 3
    assert second == sft


@pytest.mark.parametrize(
    "changed", [{"dtype": "bfloat16"}, {"revision": "abc"}, {"answer_format": "answer_only"}]
)
def test_the_id_depends_on_how_the_base_is_used(
    run: Run, tiny_model: ModelConfig, changed: dict[str, str]
) -> None:
    other = tiny_model.model_copy(update=changed)
    assert policy(run, other, PRETRAINED).policy_id != policy(run, tiny_model, PRETRAINED).policy_id


def test_the_id_depends_on_the_bytes_of_the_base(run: Run, tiny_model: ModelConfig) -> None:
    weights = Path(tiny_model.path) / "model.safetensors"
    before = policy(run, tiny_model, PRETRAINED).policy_id
    weights.write_bytes(b"Base")
    assert policy(run, tiny_model, PRETRAINED).policy_id != before
    weights.write_bytes(b"base")
    assert policy(run, tiny_model, PRETRAINED).policy_id == before


def test_a_hugging_face_model_is_known_by_id_and_revision_without_a_download() -> None:
    model = ModelConfig(path="Qwen/Qwen2.5-VL-3B-Instruct", revision="66285546d2b8")
    assert model_path(model) == "Qwen/Qwen2.5-VL-3B-Instruct"
    identity = model_identity(model)
    assert identity["model.revision"] == "66285546d2b8"
    assert "model.files" not in identity


def test_an_unknown_embedded_model_is_a_configuration_error() -> None:
    with pytest.raises(ConfigError, match=r"model\.path.*no embedded model 'micro'"):
        model_path(ModelConfig(path="embedded:micro"))


def test_the_base_has_no_adapter_and_any_other_policy_must_be_committed(
    run: Run, tiny_model: ModelConfig, commit_rows: CommitRows
) -> None:
    assert policy(run, tiny_model, PRETRAINED).adapter_directory() is None
    sft = policy(run, tiny_model, SFT)
    with pytest.raises(ArtifactError, match="sft/adapter is not committed"):
        _ = sft.policy_id
    commit_rows(run, "sft/adapter", files={ADAPTER_WEIGHTS: b"one"})
    directory = sft.adapter_directory()
    assert directory is not None
    assert (directory / ADAPTER_WEIGHTS).read_bytes() == b"one"


def test_an_adapter_from_elsewhere_is_a_policy_known_by_its_weights(
    run: Run, tiny_model: ModelConfig, tmp_path: Path
) -> None:
    directories = [tmp_path / name for name in ("one", "same", "other")]
    for directory, weights in zip(directories, (b"one", b"one", b"two"), strict=True):
        directory.mkdir()
        (directory / ADAPTER_WEIGHTS).write_bytes(weights)
    one, same, other = (policy(run, tiny_model, str(directory)) for directory in directories)
    assert one.adapter_directory() == directories[0]
    assert one.policy_id == same.policy_id != other.policy_id
    assert one.policy_id != policy(run, tiny_model, PRETRAINED).policy_id


def test_a_checkpoint_from_elsewhere_is_a_policy_without_an_adapter(
    run: Run, tiny_model: ModelConfig, tmp_path: Path
) -> None:
    directory = tmp_path / "merged"
    directory.mkdir()
    (directory / "config.json").write_text("{}")
    (directory / "model.safetensors").write_bytes(b"merged")
    whole = policy(run, tiny_model.model_copy(update={"revision": "abc"}), str(directory))
    assert whole.adapter_directory() is None
    assert (whole.name, whole.model.path, whole.model.revision) == (
        "merged",
        str(directory),
        None,
    )
    assert whole.policy_id != policy(run, tiny_model, PRETRAINED).policy_id


def test_a_path_that_holds_no_policy_is_a_configuration_error(
    run: Run, tiny_model: ModelConfig, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=r"no directory with adapter_model\.safetensors or"):
        policy(run, tiny_model, str(tmp_path / "absent"))


@pytest.mark.parametrize(
    "pickled",
    ["adapter_model.bin", "pytorch_model.bin", "pytorch_model-00001-of-00002.bin", "weights.bin"],
)
def test_a_directory_whose_weights_are_pickles_is_no_policy(
    run: Run, tiny_model: ModelConfig, tmp_path: Path, pickled: str
) -> None:
    (tmp_path / "given").mkdir()
    for name in (pickled, "config.json", "adapter_config.json"):
        (tmp_path / "given" / name).write_bytes(b"{}")
    with pytest.raises(ConfigError, match=rf"{pickled} and no \*\.safetensors"):
        policy(run, tiny_model, str(tmp_path / "given"))


def test_a_base_model_of_pickles_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(ConfigError, match=r"model\.path: .* a pickle is never loaded"):
        model_path(ModelConfig(path=str(tmp_path)))
    (tmp_path / "model.safetensors").write_bytes(b"")
    assert model_path(ModelConfig(path=str(tmp_path))) == str(tmp_path)
