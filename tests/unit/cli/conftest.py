"""Runs as a killed or a finished driver leaves them, made through artifacts alone."""

from pathlib import Path

import pytest

from raypipe.config import load
from raypipe.schemas import QUARANTINE, TRUTH
from raypipe.store.artifacts import Attempt, Run
from raypipe.store.runs import open_run
from raypipe.summaries import Metrics
from tests.fakes.documents import metrics
from tests.fakes.partial_runs import Begin, Finish, WriteRows


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home of its own, so that no cache of this machine is looked at."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def begin(tmp_path: Path) -> Begin:
    """Begin a run of one round; nothing is committed."""

    def begin(*overrides: str) -> Run:
        own = [f"run.directory={tmp_path}/runs", "run.name=mine", "rounds.num_rounds=1"]
        return open_run(load(None, [*own, *overrides]))

    return begin


@pytest.fixture
def finish() -> Finish:
    """Commit these artifacts, each with what the command line looks at."""

    def finish(run: Run, *names: str) -> None:
        for name in names:
            learned = 1 if name == "sft/chains" else None
            fingerprint = {"name": name, "policy_id": "b" * 16, "round_index": learned}
            attempt = run.artifact(name).attempt(fingerprint)
            if name.endswith("/evaluation"):
                attempt.write_json(Metrics.FILE, metrics(0.75, 0.7).to_json())
            elif name.endswith("/adapter"):
                attempt.write_file("adapter_model.safetensors", name.encode())
            attempt.commit(counts={"num_steps": 3, "last_loss": 0.5, "chains": 70, "tokens": 700})

    return finish


@pytest.fixture
def write_rows() -> WriteRows:
    """Write listings of a truth table, and a refusal, as an attempt that is never committed."""

    def write(run: Run, name: str, *listings: str, refused: str = "") -> Attempt:
        attempt = run.artifact(name, TRUTH).attempt({"name": name})
        for listing in listings:
            answers = [{"attribute": "colour", "value": "Red"}]
            attempt.write(TRUTH.from_rows([{"listing_id": listing, "answers": answers}]))
        if refused:
            row = {"id": refused, "stage": "x", "reason": "no_image", "detail": "none"}
            attempt.write(QUARANTINE.from_rows([row]), "quarantine")
        return attempt

    return write
