"""No name of a user's is printed as markup."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from raypipe import config as configuration
from raypipe.cli.main import main
from raypipe.evals.driver import print_accuracies
from raypipe.report.evaluation import EvaluatedPolicy
from raypipe.review.console import print_exported
from raypipe.runtime import progress
from raypipe.runtime.console import Console
from raypipe.store.artifacts import Run
from raypipe.store.runs import open_run
from tests.fakes.documents import split_metrics
from tests.fakes.small_run import ROOT

ODD = "/data/[/x]/[bold]shop"
CONFIG = configuration.load()
ROW = EvaluatedPolicy(ODD, split_metrics(None), None)
PRINTED: dict[str, Callable[[], object]] = {
    "a job": lambda: Console().begin(ODD),
    "its location": lambda: Console().begin("labels", ODD),
    "a note": lambda: Console().note(ODD),
    "a finished step": lambda: Console().done("wrote", ODD),
    "the title of a table": lambda: Console().table(ODD, ("",), []),
    "a cell": lambda: Console().table("", ("",), [[ODD]]),
    "what is to review": lambda: print_exported(Console(), CONFIG, Path(ODD, "tasks.json")),
    "accuracies": lambda: print_accuracies(Console(), [ROW]),
    "the report": lambda: Console().end(ODD, 1.0),
}


@pytest.fixture(autouse=True)
def _no_handlers_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress.logger, "handlers", [])


@pytest.mark.parametrize("what", PRINTED)
def test_no_name_is_markup(what: str, capsys: pytest.CaptureFixture[str]) -> None:
    PRINTED[what]()
    assert ODD in capsys.readouterr().out


def test_progress_is_no_markup(capsys: pytest.CaptureFixture[str]) -> None:
    Console()
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
