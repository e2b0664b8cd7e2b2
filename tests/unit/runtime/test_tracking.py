"""Trackers of a whole run: each point once, whatever is called how often and whatever fails."""

import importlib.machinery
import json
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from tensorboardX.proto import event_pb2

from raypipe.cli.jobs import main
from raypipe.config import Config, resolve
from raypipe.errors import ConfigError
from raypipe.runtime import tracking
from raypipe.runtime.tracking import LoggedPoint, Tracking, tracked
from raypipe.store.artifacts import Run
from raypipe.store.paths import TRACKING

Points = dict[LoggedPoint, float]
FIRST: Points = {("eval/accuracy", 0): 0.5, ("pairs", 0): 7.0}
SECOND: Points = {("eval/accuracy", 1): 0.625, ("pairs", 1): 3.0}


def config_of(*report_to: str) -> Config:
    return resolve(
        {"run": {"report_to": report_to, "name": "tracked"}, "catalog": {"embedded": {}}}
    )


def tell(told: Tracking, points: Points) -> None:
    for (tag, step), value in points.items():
        told.log(step, {tag: value})


def interrupted(config: Config, run: Run, points: Points, report: str = "") -> None:
    """A call that is stopped after so many stages."""
    with tracked(config, run, print) as told:
        tell(told, points)
        told.text("report", report)
        raise KeyboardInterrupt


def call(config: Config, run: Run, *points: Points) -> list[str]:
    """One call of the job, which tells all stages that it finds or makes; its warnings."""
    warnings: list[str] = []
    with tracked(config, run, warnings.append) as told:
        for part in points:
            tell(told, part)
    return warnings


def events(run: Run) -> list[Any]:
    """Every event of the run's own files, by the record format of TensorFlow."""
    found = []
    for path in sorted(Path(run.path("tensorboard", "run")).iterdir()):
        content, first = path.read_bytes(), 0
        while first < len(content):
            (size,) = struct.unpack("<Q", content[first : first + 8])
            found.append(event_pb2.Event.FromString(content[first + 12 : first + 12 + size]))
            first += size + 16
    return found


def scalars(run: Run) -> list[tuple[LoggedPoint, float]]:
    return [
        ((value.tag, event.step), value.simple_value)
        for event in events(run)
        for value in event.summary.value
        if value.HasField("simple_value")
    ]


def words(run: Run) -> dict[str, str]:
    return {
        value.tag: value.tensor.string_val[0].decode()
        for event in events(run)
        for value in event.summary.value
        if value.HasField("tensor")
    }


# TensorBoard


def test_points_and_the_configuration_are_in_the_event_files(run: Run) -> None:
    assert call(config_of("tensorboard"), run, FIRST, SECOND) == []
    assert sorted(scalars(run)) == sorted((FIRST | SECOND).items())
    (config,) = words(run).values()
    assert "| run.name | `tracked` |" in config
    assert "| sampling.num_chains | `7` |" in config


def test_a_run_called_three_times_has_each_point_once(run: Run) -> None:
    call(config_of("tensorboard"), run, FIRST)
    call(config_of("tensorboard"), run, FIRST, SECOND)
    call(config_of("tensorboard"), run, FIRST, SECOND)
    assert sorted(scalars(run)) == sorted((FIRST | SECOND).items())


def test_a_killed_call_leaves_its_points_to_the_next_one(run: Run) -> None:
    with pytest.raises(KeyboardInterrupt):
        interrupted(config_of("tensorboard"), run, FIRST)
    assert sorted(scalars(run)) == sorted(FIRST.items())
    call(config_of("tensorboard"), run, FIRST, SECOND)
    assert sorted(scalars(run)) == sorted((FIRST | SECOND).items())


def test_a_viewer_that_has_read_an_earlier_call_is_told_to_forget_it(run: Run) -> None:
    call(config_of("tensorboard"), run, FIRST)
    started = event_pb2.SessionLog.SessionStatus.Value("START")
    assert [event.step for event in events(run) if event.session_log.status == started] == [0]


def test_the_event_files_of_trainings_stay(run: Run) -> None:
    other = Path(run.path("tensorboard", "round-1", "events"))
    other.parent.mkdir(parents=True)
    other.write_bytes(b"steps")
    call(config_of("tensorboard"), run, FIRST)
    assert other.read_bytes() == b"steps"


def test_tensorboards_own_reader_finds_each_point_once(run: Run) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    for _ in range(3):
        call(config_of("tensorboard"), run, FIRST, SECOND)
    read = accumulator.EventAccumulator(run.path("tensorboard", "run"))
    read.Reload()
    found = {
        (tag, point.step): point.value
        for tag in read.Tags()["scalars"]
        for point in read.Scalars(tag)
    }
    assert found == FIRST | SECOND
    assert sum(len(read.Scalars(tag)) for tag in read.Tags()["scalars"]) == len(found)


# None, several, and those that fail


@pytest.mark.parametrize("report_to", [(), ("none",), ("codecarbon",)])
def test_without_a_tracker_nothing_is_written(run: Run, report_to: tuple[str, ...]) -> None:
    assert call(config_of(*report_to), run, FIRST) == []
    assert list(Path(run.root).iterdir()) == []


class Failing:
    """A tracker whose server goes after its first point."""

    name = "failing"

    def __init__(self) -> None:
        self.known: set[LoggedPoint] = set()
        self.asked = 0

    def log(self, step: int, values: dict[str, float]) -> None:
        self.asked += 1
        if self.asked > 1:
            raise ConnectionError("the server is gone\nwith a page of its own")

    def text(self, name: str, text: str) -> None:
        raise AssertionError

    def end(self, *, failed: bool) -> None:
        raise AssertionError


class Listening(Failing):
    """A tracker that keeps what it is told."""

    name = "listening"

    def __init__(self) -> None:
        super().__init__()
        self.ended: list[bool] = []

    def log(self, step: int, values: dict[str, float]) -> None:
        self.asked += 1

    def end(self, *, failed: bool) -> None:
        self.ended.append(failed)


def test_a_tracker_that_fails_is_left_out_with_one_warning_and_the_others_go_on() -> None:
    failing, listening, warnings = Failing(), Listening(), []
    told = Tracking({"failing": lambda: failing, "listening": lambda: listening}, warnings.append)
    for step in range(4):
        told.log(step, {"pairs": 1.0})
    told.end(failed=False)
    assert warnings == ["failing is disabled for this call: the server is gone"]
    assert (failing.asked, listening.asked, listening.ended) == (2, 4, [False])


def test_a_tracker_that_cannot_begin_is_left_out_too() -> None:
    def unreachable() -> Failing:
        raise OSError("no route to host")

    listening, warnings = Listening(), []
    told = Tracking({"failing": unreachable, "listening": lambda: listening}, warnings.append)
    told.log(0, {"pairs": 1.0})
    assert (len(warnings), listening.asked) == (1, 1)


def test_a_point_is_not_told_twice_in_one_call_either() -> None:
    listening = Listening()
    told = Tracking({"listening": lambda: listening})
    for _ in range(3):
        told.log(1, {"pairs": 1.0})
    assert listening.asked == 1


@pytest.mark.parametrize("name", ["mlflow", "wandb"])
def test_a_tracker_that_is_not_installed_is_refused_at_the_start_with_the_command(
    name: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    monkeypatch.setattr(tracking, "_installed", lambda package: False)
    with pytest.raises(ConfigError, match=f"pip install {name}"):
        tracking.check_trackers(("tensorboard", name))
    started: list[object] = []
    monkeypatch.setattr("raypipe.rounds.driver.ray_session", started.append)
    arguments = [f"run.directory={tmp_path}", f"run.report_to=[{name}]"]
    assert main("round", None, arguments) == 2
    assert f"pip install {name}" in capsys.readouterr().err
    assert started == []


def test_all_means_what_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracking, "_installed", lambda package: package == "wandb")
    assert tracking.check_trackers(("all",)) == ["tensorboard", "wandb"]


# MLflow: the package itself where it is installed, and a stand-in with the same few calls


class FakeMlflowError(Exception):
    error_code = "RESOURCE_DOES_NOT_EXIST"


class FakeClient:
    """The calls of MLflow's client that are made, in memory."""

    def __init__(self, store: dict[str, SimpleNamespace]) -> None:
        self._store = store

    def get_experiment_by_name(self, name: str) -> None:
        return None

    def create_experiment(self, name: str) -> str:
        return "1"

    def search_experiments(self) -> list[SimpleNamespace]:
        return [SimpleNamespace(experiment_id="1")]

    def search_runs(self, experiment_ids: list[str]) -> list[SimpleNamespace]:
        return list(self._store.values())

    def create_run(self, experiment_id: str, run_name: str) -> SimpleNamespace:
        name = f"{len(self._store) + 1:032}"
        data = SimpleNamespace(metrics={}, params={}, tags={})
        info = SimpleNamespace(run_id=name, run_name=run_name, status="RUNNING")
        self._store[name] = SimpleNamespace(info=info, data=data, history=[])
        return self._store[name]

    def get_run(self, run_id: str) -> SimpleNamespace:
        if run_id not in self._store:
            raise FakeMlflowError
        return self._store[run_id]

    def get_metric_history(self, run_id: str, key: str) -> list[SimpleNamespace]:
        return [point for point in self._store[run_id].history if point.key == key]

    def log_batch(self, run_id: str, metrics: Any = (), params: Any = ()) -> None:
        assert len(params) <= 100
        found = self._store[run_id]
        found.history += metrics
        found.data.metrics |= {metric.key: metric.value for metric in metrics}
        found.data.params |= {param.key: param.value for param in params}

    def set_tag(self, run_id: str, key: str, value: str) -> None:
        self._store[run_id].data.tags[key] = value

    def update_run(self, run_id: str, status: str) -> None:
        self._store[run_id].info.status = status

    set_terminated = update_run


def fake_mlflow() -> ModuleType:
    """A stand-in for the package."""

    def metric(key: str, value: float, timestamp: int, step: int) -> SimpleNamespace:
        return SimpleNamespace(key=key, value=value, step=step)

    def param(key: str, value: str) -> SimpleNamespace:
        return SimpleNamespace(key=key, value=value)

    module: Any = ModuleType("mlflow")
    module.__spec__ = importlib.machinery.ModuleSpec("mlflow", None)
    store: dict[str, SimpleNamespace] = {}
    module.MlflowClient = lambda: FakeClient(store)
    module.MlflowException = FakeMlflowError
    module.entities = SimpleNamespace(Metric=metric, Param=param)
    module.get_tracking_uri = lambda: "memory"
    return module  # type: ignore[no-any-return]


@pytest.fixture(params=["fake", "real"])
def mlflow(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[Any]:
    for name in ("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "MLFLOW_HTTP_REQUEST_TIMEOUT"):
        monkeypatch.setenv(name, "1")
    monkeypatch.delenv("MLFLOW_EXPERIMENT_NAME", raising=False)
    if request.param == "fake":
        module: Any = fake_mlflow()
        monkeypatch.setitem(sys.modules, "mlflow", module)
        yield module
        return
    module = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.chdir(tmp_path)
    yield module


def mlflow_runs(mlflow: Any) -> list[Any]:
    client = mlflow.MlflowClient()
    places = [experiment.experiment_id for experiment in client.search_experiments()]
    return list(client.search_runs(places))


def mlflow_points(mlflow: Any, found: Any) -> list[tuple[LoggedPoint, float]]:
    client = mlflow.MlflowClient()
    return [
        ((tag, point.step), point.value)
        for tag in found.data.metrics
        for point in client.get_metric_history(found.info.run_id, tag)
    ]


def test_mlflow_has_one_run_of_a_run_and_each_point_once(mlflow: Any, run: Run) -> None:
    config = config_of("mlflow")
    assert call(config, run, FIRST) == []
    assert call(config, run, FIRST, SECOND) == []
    assert call(config, run, FIRST, SECOND) == []
    (found,) = mlflow_runs(mlflow)
    assert sorted(mlflow_points(mlflow, found)) == sorted((FIRST | SECOND).items())
    assert found.data.params["sampling.num_chains"] == "7"
    assert (found.info.run_name, found.info.status) == ("tracked", "FINISHED")


def test_mlflow_knows_how_a_call_ended_and_where_the_report_is(mlflow: Any, run: Run) -> None:
    with pytest.raises(KeyboardInterrupt):
        interrupted(config_of("mlflow"), run, FIRST, "runs/tracked/report/index.html")
    (found,) = mlflow_runs(mlflow)
    assert found.info.status == "FAILED"
    assert found.data.tags["report"] == "runs/tracked/report/index.html"


def test_mlflow_begins_anew_where_the_server_has_forgotten_the_run(mlflow: Any, run: Run) -> None:
    call(config_of("mlflow"), run, FIRST)
    memory = run.read(TRACKING)
    assert memory is not None
    (found,) = mlflow_runs(mlflow)
    run.replace(TRACKING, memory.replace(found.info.run_id.encode(), b"0" * 32))
    call(config_of("mlflow"), run, FIRST)
    runs = mlflow_runs(mlflow)
    assert [sorted(mlflow_points(mlflow, each)) for each in runs] == [sorted(FIRST.items())] * 2


def test_a_servers_password_is_not_written_into_the_run_and_may_change(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    mlflow = fake_mlflow()
    monkeypatch.setitem(sys.modules, "mlflow", mlflow)
    for password in ("hunter2", "hunter3"):
        uri = f"https://me:{password}@tracking.example.com/mlflow"
        monkeypatch.setattr(mlflow, "get_tracking_uri", lambda uri=uri: uri)
        assert call(config_of("mlflow"), run, FIRST) == []
    assert len(mlflow_runs(mlflow)) == 1
    assert b"hunter" not in (run.read(TRACKING) or b"")
    monkeypatch.setattr(mlflow, "get_tracking_uri", lambda: "https://other.example.com/mlflow")
    call(config_of("mlflow"), run, FIRST)
    assert len(mlflow_runs(mlflow)) == 2


def test_what_an_earlier_version_remembered_is_kept_without_its_password(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    mlflow = fake_mlflow()
    monkeypatch.setitem(sys.modules, "mlflow", mlflow)
    uri = "https://me:hunter2@tracking.example.com"
    monkeypatch.setattr(mlflow, "get_tracking_uri", lambda: uri)
    known = mlflow.MlflowClient().create_run("1", "tracked").info.run_id
    memory = {f"mlflow {uri}": {"run": known}, "wandb": {"id": "w", "known": []}}
    run.replace(TRACKING, json.dumps(memory).encode())
    call(config_of("mlflow"), run, FIRST)
    assert len(mlflow_runs(mlflow)) == 1
    kept = json.loads(run.read(TRACKING) or b"")
    assert "hunter2" not in str(kept)
    assert kept["wandb"] == memory["wandb"]


def test_an_mlflow_server_out_of_reach_costs_a_warning(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    (warning,) = call(config_of("mlflow", "tensorboard"), run, FIRST, SECOND)
    assert warning.startswith("mlflow is disabled for this call: ")
    assert len(scalars(run)) == len(FIRST | SECOND)


# W&B


@pytest.fixture
def wandb(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A stand-in that keeps what it is told, by the id of the W&B run."""
    told = SimpleNamespace(begun=[], logged=[], summary={}, ended=[])

    def init(**arguments: Any) -> SimpleNamespace:
        told.begun.append(arguments)
        return SimpleNamespace(
            define_metric=lambda name, step_metric: None,
            log=told.logged.append,
            summary=told.summary,
            finish=lambda exit_code: told.ended.append(exit_code),
        )

    module: Any = ModuleType("wandb")
    module.__spec__ = importlib.machinery.ModuleSpec("wandb", None)
    module.init = init
    module.Settings = lambda **settings: settings
    monkeypatch.setitem(sys.modules, "wandb", module)
    return told


def test_wandb_goes_on_with_the_same_run_and_hears_each_point_once(
    wandb: SimpleNamespace, run: Run
) -> None:
    config = config_of("wandb")
    assert call(config, run, FIRST) == []
    assert call(config, run, FIRST, SECOND) == []
    assert call(config, run, FIRST, SECOND) == []
    assert len({arguments["id"] for arguments in wandb.begun}) == 1
    assert {arguments["resume"] for arguments in wandb.begun} == {"allow"}
    logged = [
        ((tag, row["round"]), value)
        for row in wandb.logged
        for tag, value in row.items()
        if tag != "round"
    ]
    assert sorted(logged) == sorted((FIRST | SECOND).items())
    assert wandb.ended == [0, 0, 0]


def test_wandb_offline_writes_below_the_run(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert call(config_of("wandb"), run, FIRST) == []
    assert call(config_of("wandb"), run, FIRST, SECOND) == []
    assert len(list(Path(run.root, "wandb").glob("offline-run-*"))) == 2


# An object store


def test_events_of_a_run_in_an_object_store_are_put_there_whole(
    tmp_path: Path,
) -> None:
    (tmp_path / "stored").mkdir()
    run = Run(f"file://{tmp_path}/stored")
    run.is_local = False  # its files are then made elsewhere and put through Run.replace
    call(config_of("tensorboard"), run, FIRST)
    call(config_of("tensorboard"), run, FIRST, SECOND)
    assert sorted(scalars(run)) == sorted((FIRST | SECOND).items())
