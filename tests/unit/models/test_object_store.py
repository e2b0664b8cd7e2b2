"""Base models in an object store, here one on the local disk."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from pyarrow import fs as pafs

from raypipe.config import ModelConfig
from raypipe.doctor import model as doctor
from raypipe.errors import ConfigError, StorageError
from raypipe.models import object_store
from raypipe.models.licences import UNKNOWN, licence
from raypipe.models.object_store import fetched, is_in_store, list_model
from raypipe.models.policies import files_digest, model_identity, model_path

CARD = "---\nlicense: mit\nlicense_link: https://example.com/LICENSE\n---\n# A model\n"


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    fetched.cache_clear()
    yield
    fetched.cache_clear()


@pytest.fixture
def store(tmp_path: Path) -> Path:
    folder = tmp_path / "bucket" / "mine"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"model_type": "qwen2_5_vl"}))
    (folder / "model.safetensors").write_bytes(b"w" * 1000)
    (folder / "README.md").write_text(CARD)
    return folder


def model(store: Path, revision: str | None = None) -> ModelConfig:
    return ModelConfig(path=store.as_uri(), revision=revision)


def copies(tmp_path: Path) -> list[Path]:
    kept = tmp_path / "home" / ".cache" / "raypipe" / "models"
    return [path for path in kept.glob("*") if path.is_dir()] if kept.is_dir() else []


def test_addresses_are_told_from_directories_and_ids_of_the_hub() -> None:
    assert is_in_store("s3://bucket/models/mine")
    assert is_in_store("gs://bucket/mine")
    for path in ("Qwen/Qwen2.5-VL-3B-Instruct", "/models/mine", "embedded:nano", "models/mine"):
        assert not is_in_store(path)


def test_a_model_is_copied_once_and_known_by_its_bytes(store: Path, tmp_path: Path) -> None:
    copy = Path(model_path(model(store)))
    assert copies(tmp_path) == [copy]
    assert (copy / "model.safetensors").read_bytes() == b"w" * 1000
    assert model_identity(model(store))["model.files"] == files_digest(store)
    made = copy.stat().st_ino
    fetched.cache_clear()
    assert Path(model_path(model(store))).stat().st_ino == made
    (store / "model.safetensors").write_bytes(b"v" * 1000)
    fetched.cache_clear()
    other = Path(model_path(model(store)))
    assert other != copy
    assert (other / "model.safetensors").read_bytes() == b"v" * 1000


def test_pickles_and_code_are_never_copied(store: Path) -> None:
    for name in ("pytorch_model.bin", "modeling_mine.py", "optimizer.pt", ".hidden.json"):
        (store / name).write_bytes(b"x")
    (store / "more").mkdir()
    copy = fetched(store.as_uri())
    assert sorted(path.name for path in copy.iterdir()) == [
        "README.md",
        "config.json",
        "model.safetensors",
    ]
    (store / "model.safetensors").unlink()
    with pytest.raises(ConfigError, match=r"no \*\.safetensors; a pickle is never loaded"):
        list_model(store.as_uri())


def test_what_is_no_model_is_refused(store: Path) -> None:
    (store / "config.json").unlink()
    with pytest.raises(ConfigError, match=r"no config\.json"):
        list_model(store.as_uri())
    with pytest.raises(ConfigError, match=r"no config\.json"):
        list_model((store / "missing").as_uri())
    with pytest.raises(ConfigError, match="no address of an object store"):
        list_model("carrier://pigeon/model")
    with pytest.raises(ConfigError, match="holds"):
        list_model("s3://AKIAIOSFODNN7EXAMPLE:wJalrXUtnFEMIK7MDENGbPxRfiCYEXAMPLEKEY@bucket/mine")


def test_a_revision_is_the_digest_of_the_files(store: Path) -> None:
    digest = files_digest(store)
    assert Path(model_path(model(store, digest))).is_dir()
    with pytest.raises(ConfigError, match=f"the digest of its files is {digest}"):
        model_path(model(store, "0" * 32))


def test_a_copy_that_fails_leaves_nothing(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(stored: object, file: pafs.FileInfo, target: Path) -> None:
        target.write_bytes(b"half")
        raise StorageError("gone")

    with monkeypatch.context() as patched:
        patched.setattr(object_store, "_copy", broken)
        with pytest.raises(StorageError):
            fetched(store.as_uri())
    assert copies(tmp_path) == []
    assert fetched(store.as_uri()).is_dir()


def test_a_copy_that_is_killed_is_made_by_the_next_process(store: Path, tmp_path: Path) -> None:
    killing = (
        "import os, signal, sys; from raypipe.models import object_store as o\n"
        "def half(model, file, target):\n"
        "    target.write_bytes(b'half'); os.kill(os.getpid(), signal.SIGKILL)\n"
        "o._copy = half; o.fetched(sys.argv[1])"
    )
    command = [sys.executable, "-c", killing, store.as_uri()]
    killed = subprocess.run(command, check=False, env=os.environ)
    assert killed.returncode == -signal.SIGKILL
    copy = fetched(store.as_uri())
    assert (copy / "model.safetensors").read_bytes() == b"w" * 1000


def test_licence_and_revision_are_told(store: Path, tmp_path: Path) -> None:
    mine = model(store)
    told = {finding.what: finding for finding in doctor.check_model(mine, {}, lambda *_: False)}
    assert told["model.path"].verdict == "warn"
    assert "every node copies it first" in told["model.path"].detail
    assert copies(tmp_path) == []  # nothing is copied to look
    assert licence(mine) == UNKNOWN
    fetched(store.as_uri())
    told = {finding.what: finding for finding in doctor.check_model(mine, {}, lambda *_: False)}
    assert told["model.path"].verdict == "ok"
    assert told["model.revision"].fix == f"model.revision={files_digest(store)}"
    assert told["model.path"].detail.endswith("licence mit (https://example.com/LICENSE)")
    assert licence(mine)["license"] == "mit"
