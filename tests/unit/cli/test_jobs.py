"""The command line of a job: exit codes, and messages without a traceback."""

import errno
import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from raypipe.cli import main as cli
from raypipe.cli.jobs import main
from raypipe.config import Config, load
from raypipe.errors import (
    AdapterInactiveError,
    ArtifactError,
    CollapseError,
    ConfigDriftError,
    EngineStartError,
    InputError,
    NonFiniteLossError,
    QuarantineLimitError,
    RaypipeError,
    StorageDeniedError,
    StorageError,
)
from raypipe.runtime import progress
from raypipe.store.runs import open_run


@pytest.fixture(autouse=True)
def _leaves_the_process_as_it_was(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(progress.logger, "handlers", list(progress.logger.handlers))
    propagate, level = progress.logger.propagate, progress.logger.level
    yield
    progress.logger.propagate = propagate
    logging.getLogger(progress.logger.name).setLevel(level)


def round_that_raises(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    def scripted_rounds(config: Config, console: object) -> None:
        raise error

    monkeypatch.setattr("raypipe.rounds.driver.run_rounds", scripted_rounds)


def test_a_job_gets_its_configuration_and_exits_0(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Config] = []
    monkeypatch.setattr(
        "raypipe.rounds.driver.run_rounds", lambda config, console: seen.append(config)
    )
    assert main("round", None, ["sampling.num_chains=5", "training.learning_rate=1e-4"]) == 0
    assert (seen[0].sampling.num_chains, seen[0].training.learning_rate) == (5, 1e-4)
    assert seen[0].run.name == "local"


def test_options_may_stand_anywhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text("catalog: {embedded: {}}\nrun: {name: own}\n")
    seen: list[Config] = []
    monkeypatch.setattr(
        "raypipe.rounds.driver.run_rounds", lambda config, console: seen.append(config)
    )
    config = ["--config", str(tmp_path / "own.yaml")]
    assert main("round", None, ["run.seed=3", *config, "sampling.num_chains=5"]) == 0
    assert (seen[0].run.name, seen[0].run.seed, seen[0].sampling.num_chains) == ("own", 3, 5)


@pytest.mark.parametrize(
    "arguments",
    [
        ["--api-key", "canary-of-mine"],
        ["--api-key=canary-of-mine"],
        ["run.seed=1", "--hf", "x=canary-of-mine"],
    ],
)
def test_an_option_that_nobody_knows_is_named_without_its_value(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        main("round", None, arguments)
    said = capsys.readouterr().err
    assert "canary" not in said
    assert next(word for word in arguments if word.startswith("-")).partition("=")[0] in said


def test_a_configuration_file_is_taken_by_name(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "own.yaml").write_text("catalog: {embedded: {}}\nrun: {name: own}\n")
    seen: list[Config] = []
    monkeypatch.setattr(
        "raypipe.rounds.driver.run_rounds", lambda config, console: seen.append(config)
    )
    assert main("round", None, ["--config", str(tmp_path / "own.yaml"), "run.seed=3"]) == 0
    assert (seen[0].run.name, seen[0].run.seed) == ("own", 3)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["training.bata=1"], "nearest known key is 'training.beta'"),
        (["training.beta=-1"], "training.beta: "),
        (["training.beta"], "an override reads section.key=value"),
        (["--config", "/absent/config.yaml"], "cannot read /absent/config.yaml"),
        (["training.step=stock", "cluster.num_train_workers=5"], "not a multiple"),
        (["cluster.zero_stage=3"], "needs training.step=stock"),
        (["cluster.min_train_workers=1", "cluster.zero_stage=1"], "needs cluster.zero_stage=0"),
    ],
)
def test_a_wrong_configuration_exits_2(
    capsys: pytest.CaptureFixture[str], arguments: list[str], says: str
) -> None:
    assert main("round", None, arguments) == 2
    shown = capsys.readouterr()
    assert shown.err.startswith("ConfigError: ")
    assert says in shown.err
    assert "Traceback" not in shown.err
    assert shown.out == ""


@pytest.mark.parametrize(
    ("kind", "exit_code"),
    [
        (ConfigDriftError, 2),
        (RaypipeError, 3),
        (InputError, 3),
        (QuarantineLimitError, 3),
        (ArtifactError, 3),
        (AdapterInactiveError, 3),
        (NonFiniteLossError, 3),
        (CollapseError, 3),
        (EngineStartError, 4),
        (StorageError, 4),
        (StorageDeniedError, 2),
    ],
)
def test_every_error_has_its_exit_code_and_no_traceback(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    kind: type[RaypipeError],
    exit_code: int,
) -> None:
    round_that_raises(monkeypatch, kind("what happened and what to do"))
    assert main("round", None, []) == exit_code
    assert capsys.readouterr().err == f"{kind.__name__}: what happened and what to do\n"


def test_a_missing_catalog_exits_3_and_names_the_file(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    catalog = {
        "listings": tmp_path / "absent.parquet",
        "attribute_schema": tmp_path / "schema.yaml",
        "seed": tmp_path / "seed.parquet",
        "truth": tmp_path / "truth.parquet",
    }
    own = [f"catalog.{key}={path}" for key, path in catalog.items()]
    (tmp_path / "schema.yaml").write_text(
        "- {vertical: Shoe, attribute: heel, description: The heel., values: [Flat, High]}\n"
    )
    arguments = ["catalog.embedded=null", f"run.directory={tmp_path}/runs", *own]
    assert main("prepare", None, arguments) == 3
    shown = capsys.readouterr().err
    assert shown.startswith("InputError: ")
    assert str(tmp_path) in shown
    assert "Traceback" not in shown


def test_a_bug_is_not_dressed_up_as_a_users_error(monkeypatch: pytest.MonkeyPatch) -> None:
    round_that_raises(monkeypatch, KeyError("bug"))
    with pytest.raises(KeyError, match="bug"):
        main("round", None, [])
    round_that_raises(monkeypatch, FileNotFoundError(2, "no such file", "bug"))
    with pytest.raises(FileNotFoundError, match="bug"):
        main("round", None, [])


@pytest.mark.parametrize(
    ("error", "exit_code"),
    [
        (OSError("When listing objects: AWS Error SLOW_DOWN during ListObjectsV2 operation"), 4),
        (OSError(errno.ENOSPC, "No space left on device"), 4),
        (OSError("AWS Error ACCESS_DENIED during HeadObject operation: No response body."), 2),
    ],
)
def test_what_a_storage_says_is_told_wherever_it_comes_from(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: OSError,
    exit_code: int,
) -> None:
    round_that_raises(monkeypatch, error)
    assert main("round", None, []) == cli.main(["round"]) == exit_code
    shown = capsys.readouterr().err
    assert shown.startswith("Storage")
    assert "Traceback" not in shown


def test_help_exits_0_and_tells_about_overrides(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as raised:
        main("round", "What the job does.", ["--help"])
    assert raised.value.code == 0
    shown = capsys.readouterr().out
    assert "What the job does." in shown
    assert "section.key=value" in shown


@pytest.mark.parametrize("run", [lambda: main("round", None, []), lambda: cli.main(["round"])])
def test_a_keyboard_interrupt_of_its_own_exits_130(
    monkeypatch: pytest.MonkeyPatch, run: Callable[[], int]
) -> None:
    round_that_raises(monkeypatch, KeyboardInterrupt())
    assert run() == 130


def test_a_review_is_imported_with_its_file_and_role(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[object] = []
    monkeypatch.setattr(
        "raypipe.review.importing.import_reviews", lambda config, *given: seen.extend(given)
    )
    monkeypatch.setattr("raypipe.review.console.print_imported", lambda *_: None)
    assert main("review", None, ["run.name=own", "--import", "export.json", "--as", "seed"]) == 0
    assert seen == ["export.json", "seed"]


@pytest.mark.parametrize("arguments", [["--import", "export.json"], ["--as", "seed"]])
def test_half_of_an_import_exits_2(
    capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    assert main("review", None, arguments) == 2
    assert "--import and --as need each other" in capsys.readouterr().err


def test_a_role_that_is_none_exits_2(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as raised:
        main("review", None, ["--import", "export.json", "--as", "pool"])
    assert raised.value.code == 2
    assert "invalid choice: 'pool'" in capsys.readouterr().err


def test_a_run_without_labels_has_nothing_to_review(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    open_run(load(None, [f"run.directory={tmp_path}"]))
    assert main("review", None, [f"run.directory={tmp_path}"]) == 3
    assert "has no labels yet: make them with jobs/label.py" in capsys.readouterr().err


def test_a_flag_of_a_job_is_given_to_it(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[bool] = []
    monkeypatch.setattr(
        "raypipe.labeling.driver.label_catalog",
        lambda config, console, plan_only: seen.append(plan_only),
    )
    assert main("label", None, ["--plan"]) == main("label", None, []) == 0
    assert seen == [True, False]


def test_engines_are_not_told_to_unpickle_what_files_hold(
    capsys: pytest.CaptureFixture[str],
) -> None:
    name = "RAY_DATA_AUTOLOAD_PICKLE_OBJECT_SCALAR"
    assert main("round", None, [f"sampling.environment={{{name}: '1'}}"]) == 2
    assert name in capsys.readouterr().err
