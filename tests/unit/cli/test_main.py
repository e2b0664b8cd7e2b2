"""The command line itself: what it offers, its exit codes, and that it is the jobs' own."""

import logging
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from raypipe.cli import jobs
from raypipe.cli.main import COMMANDS, JOBS, main
from raypipe.config import Config
from raypipe.errors import EngineStartError, RaypipeError
from raypipe.runtime import progress
from tests.fakes.partial_runs import STAGES, Begin, Finish

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(autouse=True)
def _leaves_the_process_as_it_was(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(progress.logger, "handlers", list(progress.logger.handlers))
    propagate, level = progress.logger.propagate, progress.logger.level
    handler = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, handler)
    progress.logger.propagate = propagate
    logging.getLogger(progress.logger.name).setLevel(level)


def test_help_names_every_command_and_answers_at_once() -> None:
    started = time.monotonic()
    ran = subprocess.run(
        [sys.executable, "-m", "raypipe.cli.main", "--help"],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    )
    assert time.monotonic() - started < 5  # 0.2 s on a quiet machine
    for name in (*COMMANDS, *JOBS):
        assert f"\n    {name} " in ran.stdout, name


def test_every_job_is_offered_under_its_own_name() -> None:
    scripts = {path.stem for path in (ROOT / "jobs").glob("*.py")}
    assert scripts <= {*COMMANDS, *JOBS}


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_itself(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as raised:
        main([name, "--help"])
    assert raised.value.code == 0
    assert capsys.readouterr().out.startswith(f"usage: raypipe {name} ")


@pytest.mark.parametrize(
    "arguments", [[], ["paint"], ["status"], ["gc", "run", "--shred"], ["plan", "--job", "paint"]]
)
def test_a_wrong_usage_exits_2(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as raised:
        main(arguments)
    assert raised.value.code == 2


def test_a_job_gets_what_its_script_would_get(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Config] = []
    monkeypatch.setattr(
        "raypipe.rounds.driver.run_rounds", lambda config, console: seen.append(config)
    )
    arguments = ["sampling.num_chains=5", "run.seed=3"]
    assert main(["round", *arguments]) == 0
    assert jobs.main("round", None, arguments) == 0
    assert seen[0] == seen[1]
    assert seen[0].sampling.num_chains == 5


def test_a_job_takes_its_own_flags(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sweep", "--plan", f"run.directory={tmp_path}", "sweep.groups=[table4]"]) == 0
    assert "What the sweep would take" in capsys.readouterr().out
    with pytest.raises(SystemExit) as raised:
        main(["label", "--help"])
    assert raised.value.code == 0
    shown = capsys.readouterr().out
    assert shown.startswith("usage: raypipe label ")
    assert "--plan" in shown


@pytest.mark.parametrize("kind", [RaypipeError, EngineStartError])
def test_errors_keep_their_exit_codes(
    kind: type[RaypipeError], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def scripted(config: Config, console: object) -> None:
        raise kind("what happened and what to do")

    monkeypatch.setattr("raypipe.rounds.driver.run_rounds", scripted)
    assert main(["round"]) == kind.exit_code
    assert capsys.readouterr().err == f"{kind.__name__}: what happened and what to do\n"


def test_a_sweep_says_how_it_was_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[str] = []
    monkeypatch.setattr(
        "raypipe.experiments.driver.run_sweep",
        lambda config, console, command: asked.append(command),
    )
    monkeypatch.setattr(sys, "argv", ["/somewhere/bin/raypipe", "sweep", "sweep.seeds=[0, 1]"])
    assert main() == 0
    monkeypatch.setattr(sys, "argv", ["jobs/sweep.py", "sweep.seeds=[0, 1]"])
    assert jobs.main("sweep", None) == 0
    assert asked == [
        "raypipe sweep 'sweep.seeds=[0, 1]'",
        "python jobs/sweep.py 'sweep.seeds=[0, 1]'",
    ]


def test_a_report_is_written_again_from_what_the_run_was_begun_with(
    begin: Begin,
    finish: Finish,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = begin("sampling.num_chains=5")
    finish(run, *STAGES)
    asked: list[tuple[int, str]] = []

    def write(config: Config, run: object) -> str:
        asked.append((config.sampling.num_chains, config.run.name))
        return "page.html"

    monkeypatch.setattr("raypipe.report.stage.run", write)
    assert main(["report", run.location]) == 0
    assert asked == [(5, "mine")]
    assert capsys.readouterr().out == "report   page.html\n"


def test_the_page_of_an_unfinished_run_is_written(begin: Begin) -> None:
    run = begin()
    assert main(["report", run.location]) == 0
    assert b"<html" in (run.read("report/index.html") or b"")


@pytest.mark.parametrize(
    ("content", "exit_code", "says"),
    [
        (b"{", 3, "ArtifactError: "),
        (b'{"layout": 3, "run": {"name": "mine", "colour": "red"}}', 2, "unknown key 'run.colour'"),
    ],
)
def test_a_run_whose_configuration_is_not_understood_has_no_page(
    begin: Begin, capsys: pytest.CaptureFixture[str], content: bytes, exit_code: int, says: str
) -> None:
    run = begin()
    run.replace("run.json", content)
    assert main(["report", run.location]) == exit_code
    assert says in capsys.readouterr().err


def test_the_page_of_a_sweep_is_written_from_its_results(
    begin: Begin, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = begin()
    run.replace("results.json", (ROOT / "docs" / "results.json").read_bytes())
    monkeypatch.setattr("raypipe.experiments.report.stage.build_gallery", lambda *_: None)
    monkeypatch.setattr("raypipe.experiments.report.stage.FlipGallery", lambda *_: None)
    assert main(["report", run.location]) == 0
    assert b"DPO from SFT" in (run.read("results.md") or b"")
    run.replace("results.json", b"{}")
    assert main(["report", run.location]) == 3
    assert "results.json is unreadable" in capsys.readouterr().err
