"""A wrong model id is known before anything is started; offline, a filled cache is enough."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import huggingface_hub
import pytest
from huggingface_hub import errors

from raypipe.cli.jobs import main
from raypipe.config import ModelConfig
from raypipe.errors import ConfigError, RaypipeError, StorageError
from raypipe.models.base_model import check_base_model
from tests.fakes.small_run import ROOT

HUB = "someone/some-model"
RESPONSE = httpx.Response(404, request=httpx.Request("GET", "https://hub.example"))


def checkpoint(directory: Path, content: bytes = b'{"model_type": "qwen2_5_vl"}') -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.json").write_bytes(content)
    return directory


def hub_that(monkeypatch: pytest.MonkeyPatch, answer: Callable[[], Any]) -> None:
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *_, **__: None)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", lambda *_, **__: answer())


def raising(error: BaseException) -> Callable[[], Any]:
    def answer() -> Any:
        raise error

    return answer


def test_models_that_are_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check_base_model(ModelConfig())
    check_base_model(ModelConfig(path=str(checkpoint(tmp_path))))
    hub_that(monkeypatch, lambda: str(tmp_path / "config.json"))
    check_base_model(ModelConfig(path=HUB, revision="0" * 40))


@pytest.mark.parametrize(
    "content",
    [b"{", b"[]", b"{}", b'{"model_type": 3}', b"\xff", b"[" * 9999, b"9" * 9999, None],
)
def test_a_directory_that_is_no_model(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        checkpoint(tmp_path, content)
    with pytest.raises(ConfigError, match=f"model.path={tmp_path} is no model"):
        check_base_model(ModelConfig(path=str(tmp_path)))


@pytest.mark.parametrize("path", ["./absent", "/absent/model", "a/b/c", "no such model", "~/x"])
def test_what_is_neither_a_directory_nor_an_id(path: str) -> None:
    with pytest.raises(ConfigError, match="is no directory, and no model id"):
        check_base_model(ModelConfig(path=path))


@pytest.mark.parametrize(
    ("error", "kind", "says"),
    [
        (errors.GatedRepoError("no", response=RESPONSE), ConfigError, "is gated"),
        (errors.RepositoryNotFoundError("no", response=RESPONSE), ConfigError, "not on the hub"),
        (errors.RevisionNotFoundError("no", response=RESPONSE), ConfigError, "not on the hub"),
        (errors.EntryNotFoundError("no"), ConfigError, "no config.json on the hub"),
        (errors.HFValidationError("no"), ConfigError, "no model id"),
        (errors.LocalEntryNotFoundError("no"), StorageError, "out of reach"),
        (errors.HfHubHTTPError("503", response=RESPONSE), StorageError, "out of reach"),
        (httpx.ConnectError("refused"), StorageError, "out of reach"),
        (httpx.ReadTimeout("slow"), StorageError, "out of reach"),
        (OSError("Consistency check failed"), StorageError, "out of reach"),
    ],
)
def test_what_a_hub_says_is_one_line(
    monkeypatch: pytest.MonkeyPatch, error: Exception, kind: type[RaypipeError], says: str
) -> None:
    hub_that(monkeypatch, raising(error))
    with pytest.raises(RaypipeError, match=says) as caught:
        check_base_model(ModelConfig(path=HUB, revision="main"))
    assert type(caught.value) is kind
    assert str(caught.value).startswith(f"model.path={HUB} at model.revision=main ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("job", ["round", "label", "sweep", "evaluate", "merge"])
def test_no_job_starts_with_a_model_that_is_not_there(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    job: str,
) -> None:
    monkeypatch.setattr("raypipe.runtime.cluster.ray_session", pytest.fail)
    target = ["--target", str(tmp_path / "merged")] if job == "merge" else []
    arguments = [*target, f"run.directory={tmp_path}", f"model.path={tmp_path}"]
    assert main(job, None, arguments) == 2
    assert capsys.readouterr().err.startswith(f"ConfigError: model.path={tmp_path} is no model")
    assert not (tmp_path / "local").exists()


def test_offline_the_cache_is_enough(tmp_path: Path) -> None:
    cache = tmp_path / "hub" / "models--someone--some-model"
    checkpoint(cache / "snapshots" / ("a" * 40))
    (cache / "refs").mkdir()
    (cache / "refs" / "main").write_text("a" * 40)
    program = (
        "import sys\nfrom raypipe.models.base_model import check_base_model\n"
        "from raypipe.config import ModelConfig\nfrom raypipe.errors import ConfigError\n"
        f"check_base_model(ModelConfig(path={HUB!r}))\n"
        f"check_base_model(ModelConfig(path={HUB!r}, revision={'a' * 40!r}))\n"
        "try: check_base_model(ModelConfig(path='someone/other'))\n"
        "except ConfigError as error: print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env=os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "someone/other is not in the hub's cache, and HF_HUB_OFFLINE forbids" in done.stdout
    assert json.loads((cache / "snapshots" / ("a" * 40) / "config.json").read_text())
