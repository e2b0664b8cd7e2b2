"""Secrets of the environment are in nothing that a command writes or prints."""

import json
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from raypipe.cli import jobs
from raypipe.cli.main import main
from raypipe.errors import EXIT_CONFIG
from raypipe.security.secrets import spellings
from tests.fakes.catalog_files import LISTINGS, CatalogFiles
from tests.fakes.chat_server import Asked, ChatServer

CANARIES = {
    name: f"canary-{number}-7f3a9c/{name.lower()[:3]}"
    for number, name in enumerate(
        (
            "AWS_ACCESS_KEY_ID",
            "AWS_SECRET_ACCESS_KEY",
            "AWS_SESSION_TOKEN",
            "OPENAI_API_KEY",
            "OPENAI_ORG_ID",
            "HF_TOKEN",
            "SHOP_KEY",
            "WANDB_API_KEY",
            "MLFLOW_TRACKING_PASSWORD",
            "PYICEBERG_CATALOG__DEFAULT__CREDENTIAL",
        )
    )
}
PROXY = "canary-proxy-5d1e"
IN_DATA = "canary-listing-2b8f"


@pytest.fixture
def canary_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Everything that a command could write to, with secrets in the environment."""
    for name, value in CANARIES.items():
        monkeypatch.setenv(name, value)
    for name in ("http_proxy", "https_proxy", "HTTPS_PROXY"):
        monkeypatch.setenv(name, f"http://user:{PROXY}@127.0.0.1:9")
    for name in ("HOME", "TMPDIR", "XDG_CACHE_HOME"):
        (tmp_path / name).mkdir()
        monkeypatch.setenv(name, str(tmp_path / name))
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def shop(canary_home: Path) -> CatalogFiles:
    shop = CatalogFiles(canary_home / "shop")
    for index in range(6):
        shop.add(f"s{index}", 30 * index)
    signed = f"https://user:{IN_DATA}@127.0.0.1/a.jpg?sig={IN_DATA}"
    shop.add("s6", 0, images=[signed.encode()])
    shop.truth["s0"] = [{"attribute": "color", "value": "Red"}]
    shop.seed["s1"] = [{"attribute": "color", "reasoning": "It shows.", "answer": "Red"}]
    shop.write(LISTINGS)
    return shop


@pytest.fixture
def server() -> Iterator[ChatServer]:
    """Refuses every key, and repeats it with all that it was sent."""

    def echo(asked: Asked) -> tuple[int, Any]:
        said = " ".join(f"{name}: {value}" for name, value in asked.headers.items())
        return 401, {"error": {"message": said, "code": said, "param": said}}

    with ChatServer(echo) as server:
        yield server


def assert_no_canary(directory: Path, printed: str, *, leave_out: Path) -> None:
    """Args: leave_out: a directory of what was given, not made."""
    secrets = [*CANARIES.values(), PROXY, IN_DATA]
    forms = [form.encode() for secret in secrets for form in spellings(secret)]
    made = [path for path in directory.rglob("*") if path.is_file()]
    made = [path for path in made if leave_out not in path.parents]
    assert made
    contents = {str(path): path.read_bytes() for path in made} | {"printed": printed.encode()}
    found = [
        (name, form) for name, content in contents.items() for form in forms if form in content
    ]
    assert found == []


def test_no_secret_is_written_or_printed(
    canary_home: Path, shop: CatalogFiles, server: ChatServer, capfd: pytest.CaptureFixture[str]
) -> None:
    values = {
        "run": {"name": "shop", "directory": str(canary_home / "runs")},
        "catalog": shop.config(max_quarantined=1.0, seed=str(canary_home / "seed")).model_dump()[
            "catalog"
        ],
        "sampling": {"environment": dict.fromkeys(CANARIES)},
        "annotation": {"endpoint": server.url, "endpoint_model": "m", "listings_per_vertical": 2},
    }
    path = canary_home / "shop.yaml"
    path.write_text(json.dumps(values))
    (canary_home / "seed").mkdir()
    (shop.directory / "seed.parquet").rename(canary_home / "seed/seed.parquet")
    own = ["--config", str(path)]
    exits = [
        main(["prepare", *own]),
        main(["plan", *own]),
        main(["annotate", *own, "annotation.api_key_variable=SHOP_KEY"]),
        main(["annotate", *own]),
        main(["status", "shop", "--directory", str(canary_home / "runs")]),
        main(["status", "shop", "--directory", str(canary_home / "runs"), "--json"]),
        main(["doctor", *own]),
        main(["export", *own]),
        main(["report", "shop", "--directory", str(canary_home / "runs")]),
        main(["gc", "shop", "--directory", str(canary_home / "runs")]),
        main(["prepare", *own, f"labeling.listings=s3://K:{PROXY}@bucket/whole"]),
        main(["status", f"s3://K:{PROXY}@bucket/runs/shop"]),
    ]
    assert exits[:2] == [0, 0]
    assert exits[2:4] == exits[-2:] == [EXIT_CONFIG, EXIT_CONFIG]
    keys = {asked.headers["authorization"] for asked in server.asked}
    assert keys == {f"Bearer {CANARIES['SHOP_KEY']}", "Bearer none"}
    assert not [asked for asked in server.asked if "openai-organization" in asked.headers]
    shown = capfd.readouterr()
    assert "the key in SHOP_KEY: status 401" in shown.err
    assert_no_canary(canary_home, shown.out + shown.err, leave_out=shop.directory)


def test_trackers_are_told_names_alone(canary_home: Path) -> None:
    from raypipe.config import load
    from raypipe.runtime.tracking import tracked
    from raypipe.store.artifacts import Run

    variables = [f"sampling.environment.{name}=null" for name in CANARIES]
    config = load(None, [*variables, f"sampling.environment.SHOP={IN_DATA}"])
    with tracked(config, Run(str(canary_home / "run")), print):
        pass
    events = b"".join(
        path.read_bytes() for path in (canary_home / "run/tensorboard").rglob("events*")
    )
    assert b"sampling.environment.HF_TOKEN" in events
    assert b"sampling.environment.SHOP" in events
    assert_no_canary(canary_home, "", leave_out=canary_home / "shop")


def test_a_tracker_that_fails_is_told_of_without_its_password() -> None:
    from raypipe.runtime.tracking import Tracking

    def fail() -> Any:
        raise OSError(f"no answer from http://me:{PROXY}@mlflow/api?token={PROXY}")

    said: list[str] = []
    Tracking({"mlflow": fail}, said.append)
    assert PROXY not in said[0]
    assert "http://***@mlflow/api" in said[0]


def test_a_sweep_s_document_repeats_no_value_of_a_variable(
    canary_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []
    monkeypatch.setattr(
        "raypipe.experiments.driver.run_sweep",
        lambda config, console, command: seen.append(command),
    )
    typed = ["sweep.seeds=[0, 1]", f"sampling.environment.SHOP={IN_DATA}"]
    monkeypatch.setattr(sys, "argv", ["jobs/sweep.py", *typed])
    assert jobs.main("sweep", None, typed) == 0
    assert seen == ["python jobs/sweep.py 'sweep.seeds=[0, 1]' sampling.environment.SHOP=null"]


def test_an_argument_that_is_not_understood_is_repeated_without_its_secret(
    capsys: pytest.CaptureFixture[str],
) -> None:
    for arguments in (["round", f"--hf-token={PROXY}"], ["doctor", f"--hf-token={PROXY}"]):
        with pytest.raises(SystemExit):
            main(arguments)
    shown = capsys.readouterr().err
    assert shown.count("unrecognized arguments: --hf-token\n") == 2
    assert PROXY not in shown


def test_the_environment_of_this_test_is_put_back() -> None:
    assert not [value for value in os.environ.values() if PROXY in value]
