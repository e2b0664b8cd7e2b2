"""No key of the configuration takes a credential, and no error repeats one."""

import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raypipe.config import Config, key_names, load, resolve
from raypipe.errors import EXIT_CONFIG, ConfigError
from raypipe.store.paths import RUN
from raypipe.store.runs import open_run

HUSH = "hush-canary-4e1f"
CREDENTIALS = (
    f"s3://AKIAKEY:{HUSH}@bucket/listings",
    f"delta:s3://key:{HUSH}@bucket/table@3",
    f"https://host/listings?X-Amz-Signature={HUSH}",
    f"s3://bucket/l?region=eu&secret_key={HUSH}",
    f"s3://bucket/l?secret%5Fkey={HUSH}",
    f"me:{HUSH}@host:3128",
    f'{{"nested": {{"api_key": "{HUSH}"}}}}',
    f"Authorization: Bearer {HUSH}",
)
FREE = ("sampling.engine", "sampling.environment", "catalog.iceberg")


def nested(key: str, value: Any) -> dict[str, Any]:
    for name in reversed(key.split(".")):
        value = {name: value}
    return dict(value)


def refused(values: dict[str, Any]) -> str:
    """The error's message; neither it nor the traceback around it holds the secret."""
    with pytest.raises(ConfigError) as raised:
        resolve(values)
    told = "".join(traceback.format_exception(raised.value))
    assert HUSH not in str(raised.value) + told
    assert raised.value.exit_code == EXIT_CONFIG
    return str(raised.value)


@pytest.mark.parametrize("key", sorted(key_names(Config)))
def test_no_key_takes_a_credential(key: str) -> None:
    for credential in CREDENTIALS:
        for value in (credential, [credential], {"inner": [{"place": credential}]}):
            assert refused(nested(key, value)).startswith(key)


@pytest.mark.parametrize("key", FREE)
@pytest.mark.parametrize("name", ["hf_token", "HF_TOKEN", "api_key", "password", "s3.secret-key"])
def test_a_dictionary_takes_nothing_of_a_secret_s_name(key: str, name: str) -> None:
    values: dict[str, Any] = {name: HUSH}
    assert f"{key}.{name} holds a secret" in refused(nested(key, values))
    assert refused(nested(key, {"deeper": {"still": [{name: HUSH}]}})).startswith(f"{key}.deeper")


def test_a_number_may_be_a_password_and_a_flag_is_none() -> None:
    assert "password holds" in refused(nested("sampling.engine.password", 1234))
    resolve(nested("sampling.engine", {"token": True, "api_key": None, "eos_token": "<end>"}))


@given(st.text(min_size=6).filter(lambda text: "@" not in text))
def test_no_password_in_an_address_is_repeated(password: str) -> None:
    if (
        password[:5].isdigit()
        or any(mark in password for mark in " \t\n\r?#'\"/:")
        or not (password.isprintable() and password.isascii())
    ):
        return
    with pytest.raises(ConfigError) as raised:
        resolve(nested("labeling.listings", f"s3://KEY:{password}@bucket/whole"))
    assert password not in str(raised.value).replace("labeling.listings holds", "")


@pytest.mark.parametrize(
    "override",
    [
        f"sampling.environment.HF_TOKEN=[{HUSH}",
        f"training.beta=s3://A:{HUSH}@b",
        f"trainning.key=s3://A:{HUSH}@b",
        f"s3://A:{HUSH}@bucket.x/y?z=3",
        f"run.name.x={HUSH}",
        f"sampling.api_key.x={HUSH}",
        f"training.epochs={HUSH}",
        f"training.method={HUSH}",
        f"run.seed=[{HUSH}]",
        f"lora={HUSH}",
    ],
)
def test_an_error_of_the_command_line_repeats_no_value(override: str) -> None:
    with pytest.raises(ConfigError) as raised:
        load(None, [override])
    assert HUSH not in "".join(traceback.format_exception(raised.value))


def test_an_error_of_a_file_repeats_no_value(tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    path.write_text(f"sampling:\n  engine:\n    hf_token: {{{HUSH}: [\n")
    with pytest.raises(ConfigError, match=r"own\.yaml is not YAML.*line 4") as raised:
        load(path)
    assert HUSH not in "".join(traceback.format_exception(raised.value))


def test_the_remedy_is_where_the_secret_belongs() -> None:
    remedies = {
        "sampling.environment.HF_TOKEN": "write null instead of the value",
        "sampling.engine.hf_token": "sampling.environment.HF_TOKEN=null",
        "catalog.iceberg.s3.secret-access-key": "PYICEBERG_CATALOG__DEFAULT__S3__SECRET_ACCESS_KEY",
        "annotation.endpoint": "annotation.api_key_variable",
        "run.directory": "AWS_SECRET_ACCESS_KEY",
    }
    for key, remedy in remedies.items():
        section, name, *rest = key.split(".")
        value: Any = {".".join(rest): HUSH} if rest else f"https://a:{HUSH}@h/v1"
        assert remedy in refused({section: {name: value}})


def test_an_option_that_no_storage_has_is_refused_whatever_its_name() -> None:
    said = refused(nested("labeling.listings", f"s3://bucket/whole?x={HUSH}"))
    assert said.startswith("labeling.listings holds the parameter 'x' in an address")
    harmless = "s3://bucket/whole?endpoint_override=minio:9000&scheme=http&region=eu"
    assert resolve(nested("labeling.listings", harmless)).labeling.listings == harmless


def files(directory: Path) -> Iterator[Path]:
    return (path for path in directory.rglob("*") if path.is_file())


def test_of_an_engine_s_variables_names_alone_are_written(tmp_path: Path) -> None:
    config = load(
        None,
        [
            f"run.directory={tmp_path}",
            "sampling.environment.HF_TOKEN=null",
            f"sampling.environment.SHOP={HUSH}",
            'sampling.environment.OMP_NUM_THREADS="1"',
        ],
    )
    run = open_run(config)
    written = (Path(run.location) / RUN).read_text()
    assert '"HF_TOKEN": null' in written
    assert '"SHOP": null' in written
    assert [path for path in files(tmp_path) if HUSH in path.read_text()] == []


def test_null_takes_the_job_s_own_value() -> None:
    overrides = ["sampling.environment.HF_TOKEN=null", 'sampling.environment.OMP_NUM_THREADS="3"']
    sampling = load(None, overrides).sampling
    found = sampling.variables({"HF_TOKEN": HUSH})
    assert (found["HF_TOKEN"], found["OMP_NUM_THREADS"]) == (HUSH, "3")
    with pytest.raises(ConfigError, match=r"environment, which has none: export HF_TOKEN="):
        sampling.variables({})
