"""Secrets of the environment are in nothing that engines, Ray and their errors leave."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from raypipe.security.secrets import spellings
from raypipe.store.artifacts import Run
from tests.fakes.scripted_engine import Driver, make_catalog, new_script

pytestmark = pytest.mark.engine
CANARIES = {
    "HF_TOKEN": "hf-canary-0c71/d2",
    "AWS_SECRET_ACCESS_KEY": "aws-canary-9e44/b8",
    "OPENAI_API_KEY": "sk-canary-51f0/a7",
    "https_proxy": "http://user:proxy-canary-3c6d@127.0.0.1:9",
}


@pytest.fixture
def home() -> Iterator[Path]:
    """A short path: Ray's sockets lie below it."""
    with tempfile.TemporaryDirectory(prefix="rc", dir="/tmp") as directory:
        yield Path(directory)


@pytest.mark.parametrize("act", ["fail", "die"])
def test_no_secret_is_in_what_a_sampling_leaves(home: Path, act: str) -> None:
    run = Run(str(home / "run"))
    make_catalog(run, 24)
    variables = [f"sampling.environment.{name}=null" for name in CANARIES]
    places = dict.fromkeys(("HOME", "TMPDIR", "RAY_TMPDIR"), str(home))
    driver = Driver(
        run,
        new_script(home, acts={"*": act}),
        "sampling.max_engine_deaths=1",
        "catalog.max_quarantined=0.5",
        *variables,
        environment=CANARIES | places,
    )
    assert driver.wait() != 0
    secrets = [value.rpartition("@")[0].rpartition(":")[2] or value for value in CANARIES.values()]
    forms = [form.encode() for secret in secrets for form in spellings(secret)]
    made = [path for path in home.rglob("*") if path.is_file()]
    assert any("driver-" in path.name for path in made)
    assert any("session_" in str(path) for path in made)
    found = [path for path in made if any(form in path.read_bytes() for form in forms)]
    assert found == []
