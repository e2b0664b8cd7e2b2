"""What is printed is what was said: no name of a user's is taken for markup."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from raypipe import config as configuration
from raypipe import progress
from raypipe.annotation.console import AnnotationConsole
from raypipe.artifacts import Run
from raypipe.cli.main import main
from raypipe.console import StageConsole
from raypipe.judging.console import JudgingConsole
from raypipe.labeling.console import LabelingConsole
from raypipe.policies import Policy
from raypipe.rounds.console import Console
from raypipe.runs import open_run
from raypipe.sweep.console import SweepConsole
from tests.small_run import ROOT

ODD = "/data/[/x]/[bold]shop"
CONFIG = configuration.load(
    None,
    [
        f"run.directory={ODD}",
        f"model.path={ODD}",
        f"labeling.listings={ODD}",
        f"judging.listings={ODD}",
        f"judging.truth={ODD}",
        "annotation.endpoint=http://127.0.0.1:1/v1",
        "annotation.endpoint_model='[/x]'",
    ],
)
POLICY = Policy(ODD, CONFIG.model)
ROW = {"name": ODD, "accuracy": None, "gain": None}
SAID: dict[str, Callable[[], object]] = {
    "a round": lambda: Console().begin(CONFIG, ODD),
    "the end of a round": lambda: StageConsole().note(ODD),
    "a sweep": lambda: SweepConsole().begin(CONFIG, ODD, {}),
    "an annotation": lambda: AnnotationConsole().begin(CONFIG, ODD, ODD),
    "a labeling": lambda: LabelingConsole().begin(CONFIG, POLICY, ODD),
    "what is to review": lambda: LabelingConsole().exported(CONFIG, Path(ODD, "tasks.json")),
    "an evaluation": lambda: JudgingConsole().begin(CONFIG, ODD, ODD),
    "its table": lambda: JudgingConsole().table([ROW]),
    "its end": lambda: JudgingConsole().end(ODD, 1.0),
}


@pytest.fixture(autouse=True)
def _no_handlers_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress.logger, "handlers", [])


@pytest.mark.parametrize("what", SAID)
def test_no_name_is_markup(what: str, capsys: pytest.CaptureFixture[str]) -> None:
    SAID[what]()
    assert ODD in capsys.readouterr().out


def test_progress_is_no_markup(capsys: pytest.CaptureFixture[str]) -> None:
    StageConsole()
    progress.logger.info(f"2 of 3 listings, {ODD}")
    assert ODD in capsys.readouterr().out


@pytest.mark.parametrize("command", ["status", "gc"])
def test_a_run_of_any_name_is_looked_after(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = configuration.load(None, [f"run.directory={tmp_path}{ODD}"])
    run: Run = open_run(config)
    assert main([command, run.location]) == 0
    assert ODD in "".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("arguments", [["status"], ["status", "--json"], ["gc"]])
def test_whoever_stops_reading_gets_no_traceback(tmp_path: Path, arguments: list[str]) -> None:
    run = open_run(configuration.load(None, [f"run.directory={tmp_path}"]))
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "raypipe.cli.main", *arguments, run.location]
    try:
        done = subprocess.run(
            command, stdout=writer, stderr=subprocess.PIPE, text=True, cwd=ROOT, check=False
        )
    finally:
        os.close(writer)
    assert (done.returncode, done.stderr) == (141, "")
