"""Logs a whole run to TensorBoard, MLflow and W&B (``run.report_to``), after every stage.

The metrics are derived from commits and logged again by every call of the same command; each
tracker skips the points it has, so a resumed run has every point once. A point is a tag at a step,
and a step is a round.

The trainers log every optimizer step to the same trackers, in separate runs.
"""

import hashlib
import importlib.util
import json
import os
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Protocol

from raypipe.config import Config, flatten
from raypipe.errors import ConfigError
from raypipe.security.secrets import redacted
from raypipe.store.artifacts import Run
from raypipe.store.documents import unreadable_document
from raypipe.store.paths import RUN_EVENTS, TRACKING

"""File of the run with its MLflow and W&B run ids and the points logged to W&B."""
_FORGET = "delete it, and MLflow and W&B start a new run each"
_PROJECT = "raypipe"
_PARAMS_PER_CALL = 100  # MLflow's limit
_LONGEST_PARAM = 6000
LoggedPoint = tuple[str, int]


class Tracker(Protocol):
    """Receives points. ``known`` are the points already logged."""

    name: str
    known: set[LoggedPoint]

    def log(self, step: int, values: Mapping[str, float]) -> None: ...

    def text(self, name: str, text: str) -> None: ...

    def end(self, *, failed: bool) -> None: ...


class Tracking:
    """All trackers of a run, if any. One that fails is disabled, so that a dead server does not
    stop a long run."""

    def __init__(
        self,
        makers: Mapping[str, Callable[[], Tracker]] | None = None,
        warn: Callable[[str], None] = lambda text: None,
    ) -> None:
        self._warn = warn
        self._trackers: list[Tracker] = []
        for name, make in (makers or {}).items():
            with self._forgiving(name):
                self._trackers.append(make())

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Log points by tag, at a step."""
        for tracker in tuple(self._trackers):
            fresh = {
                tag: value for tag, value in values.items() if (tag, step) not in tracker.known
            }
            if fresh:
                with self._forgiving(tracker.name):
                    tracker.log(step, fresh)
                    tracker.known.update((tag, step) for tag in fresh)

    def text(self, name: str, text: str) -> None:
        """Log a text; it replaces an earlier one of the same name."""
        for tracker in tuple(self._trackers):
            with self._forgiving(tracker.name):
                tracker.text(name, text)

    def end(self, *, failed: bool) -> None:
        for tracker in tuple(self._trackers):
            with self._forgiving(tracker.name):
                tracker.end(failed=failed)

    @contextmanager
    def _forgiving(self, name: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # noqa: BLE001 - trackers and their servers fail with errors of any kind
            self._trackers = [tracker for tracker in self._trackers if tracker.name != name]
            reason = (str(error) or type(error).__name__).splitlines()[0]
            self._warn(f"{name} is disabled for this call: {redacted(reason)[:300]}")


@contextmanager
def tracked(config: Config, run: Run, warn: Callable[[str], None]) -> Iterator[Tracking]:
    """The trackers of ``run.report_to`` while the body runs; parameters are logged at the start.

    Args:
        warn: called with one line for each tracker that fails.

    Raises:
        ConfigError: a tracker's package is not installed.
    """
    wanted = check_trackers(config.run.report_to)
    tracking = Tracking({name: _maker(name, config, run) for name in wanted}, warn)
    failed = True
    try:
        yield tracking
        failed = False
    finally:
        tracking.end(failed=failed)


def check_trackers(report_to: Sequence[str]) -> list[str]:
    """The unique names in ``run.report_to`` that have a tracker here.

    Raises:
        ConfigError: one of them is not installed; the message says how to install it.
    """
    if "all" in report_to:
        return ["tensorboard", *(name for name in _OPTIONAL if _installed(name))]
    wanted = [name for name in dict.fromkeys(report_to) if name in _TRACKERS]
    for name in wanted:
        if name in _OPTIONAL and not _installed(name):
            raise ConfigError(
                f"run.report_to names {name}, which is not installed: pip install {name}, or leave "
                "it out"
            )
    return wanted


class TensorBoard:
    """Event files in ``<run>/tensorboard/run``, rewritten by every call."""

    name = "tensorboard"

    def __init__(self, config: Config, run: Run) -> None:
        from tensorboardX import SummaryWriter

        self.known: set[LoggedPoint] = set()
        self._run = run
        # Object stores need whole files: write locally, then upload.
        self._local = None if run.is_local else TemporaryDirectory(prefix="raypipe-events-")
        self._directory = Path(self._local.name if self._local else run.path(RUN_EVENTS))
        self._directory.mkdir(parents=True, exist_ok=True)
        run.filesystem.delete_dir_contents(run.path(RUN_EVENTS), missing_dir_ok=True)
        # Makes a running TensorBoard drop the points of earlier calls.
        self._writer = SummaryWriter(str(self._directory), purge_step=0)
        rows = "".join(f"| {key} | `{value}` |\n" for key, value in _params(config).items())
        self.text("config", f"| key | value |\n| --- | --- |\n{rows}")

    def log(self, step: int, values: Mapping[str, float]) -> None:
        for tag, value in values.items():
            self._writer.add_scalar(tag, value, step)
        self._flush()

    def text(self, name: str, text: str) -> None:
        self._writer.add_text(name, text, 0)
        self._flush()

    def end(self, *, failed: bool) -> None:
        self._writer.close()  # flush() leaves out what the writer's thread has not taken yet
        self._upload()
        if self._local is not None:
            self._local.cleanup()

    def _flush(self) -> None:
        self._writer.flush()
        self._upload()

    def _upload(self) -> None:
        if self._local is not None:
            for path in self._directory.iterdir():
                self._run.replace(f"{RUN_EVENTS}/{path.name}", path.read_bytes())


class MLflow:
    """One MLflow run at ``MLFLOW_TRACKING_URI``, in ``MLFLOW_EXPERIMENT_NAME``."""

    name = "mlflow"

    def __init__(self, config: Config, run: Run) -> None:
        # By default a dead server would block each stage for minutes.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
        import mlflow

        self._mlflow = mlflow
        self._client = mlflow.MlflowClient()
        uri = mlflow.get_tracking_uri()
        memory = _Memory(run, f"mlflow {_server(uri)}", former=f"mlflow {uri}")
        self._id, self.known = self._resumed(memory.values.get("run"))
        if not self._id:
            self._id = self._created(config)
            memory.keep({"run": self._id})

    def log(self, step: int, values: Mapping[str, float]) -> None:
        now = int(1000 * time.time())
        metrics = [
            self._mlflow.entities.Metric(tag, float(value), now, step)
            for tag, value in values.items()
        ]
        self._client.log_batch(self._id, metrics=metrics)

    def text(self, name: str, text: str) -> None:
        self._client.set_tag(self._id, name, text)

    def end(self, *, failed: bool) -> None:
        self._client.set_terminated(self._id, "FAILED" if failed else "FINISHED")

    def _resumed(self, run_id: str | None) -> tuple[str, set[LoggedPoint]]:
        """The MLflow run of an earlier call and its points, if any."""
        if run_id is None:
            return "", set()
        try:
            found = self._client.get_run(run_id)
        except self._mlflow.MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return "", set()
        self._client.update_run(run_id, status="RUNNING")
        known = {
            (tag, point.step)
            for tag in found.data.metrics
            for point in self._client.get_metric_history(run_id, tag)
        }
        return run_id, known

    def _created(self, config: Config) -> str:
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", _PROJECT)
        experiment = self._client.get_experiment_by_name(name)
        place = experiment.experiment_id if experiment else self._client.create_experiment(name)
        run_id = str(self._client.create_run(place, run_name=config.run.name).info.run_id)
        params = [
            self._mlflow.entities.Param(key, value[:_LONGEST_PARAM])
            for key, value in _params(config).items()
        ]
        for first in range(0, len(params), _PARAMS_PER_CALL):
            self._client.log_batch(run_id, params=params[first : first + _PARAMS_PER_CALL])
        return run_id


class WandB:
    """One W&B run in ``WANDB_PROJECT``; ``WANDB_MODE=offline`` writes to ``<run>/wandb``."""

    name = "wandb"

    def __init__(self, config: Config, run: Run) -> None:
        import wandb

        self._memory = _Memory(run, "wandb")
        values = self._memory.values or {"id": uuid.uuid4().hex[:12], "known": []}
        self._id = values["id"]
        self.known: set[LoggedPoint] = {(tag, step) for tag, step in values["known"]}
        # W&B cannot be queried offline, so the run stores the logged points.
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", _PROJECT),
            name=config.run.name,
            id=self._id,
            resume="allow",
            config=_params(config),
            dir=run.root if run.is_local else None,
            settings=wandb.Settings(console="off", quiet=True),
        )
        self._run.define_metric("*", step_metric="round")

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log({"round": step, **values})
        known = sorted(self.known | {(tag, step) for tag in values})
        self._memory.keep({"id": self._id, "known": known})

    def text(self, name: str, text: str) -> None:
        self._run.summary[name] = text

    def end(self, *, failed: bool) -> None:
        self._run.finish(exit_code=int(failed))


class _Memory:
    """Tracker state stored in the run between calls.

    Args:
        former: the key of earlier versions, which could contain a password; replaced on reading.
    """

    def __init__(self, run: Run, key: str, former: str = "") -> None:
        self._run, self._key, self._former = run, key, former
        known = self._all()
        self.values: dict[str, Any] = known.get(key) or known.get(former, {})
        if not isinstance(self.values, dict):
            raise unreadable_document(run.path(TRACKING), f"'{key}' is not an object", _FORGET)
        if former in known:
            self.keep(self.values)

    def keep(self, values: Mapping[str, Any]) -> None:
        kept = {key: known for key, known in self._all().items() if key != self._former}
        content = json.dumps(kept | {self._key: values}, indent=1)
        self._run.replace(TRACKING, content.encode())

    def _all(self) -> dict[str, Any]:
        return self._run.read_json(TRACKING, _FORGET) or {}


def _server(uri: str) -> str:
    """A server's URI without user and password."""
    scheme, separator, rest = uri.partition("://")
    place, slash, path = rest.partition("/")
    plain = f"{scheme}{separator}{place.rpartition('@')[2]}{slash}{path}"
    return hashlib.sha256(plain.encode()).hexdigest()[:12]


_OPTIONAL = ("mlflow", "wandb")
_TRACKERS: dict[str, Callable[[Config, Run], Tracker]] = {
    "tensorboard": TensorBoard,
    "mlflow": MLflow,
    "wandb": WandB,
}


def _maker(name: str, config: Config, run: Run) -> Callable[[], Tracker]:
    return lambda: _TRACKERS[name](config, run)


def _installed(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


def _params(config: Config) -> dict[str, str]:
    """The configuration by dotted key, without unset keys. Of the engine's environment variables
    only the names are logged."""
    values = flatten(config.shown())
    variables = {f"sampling.environment.{name}": "(set)" for name in config.sampling.environment}
    return {
        key: value if isinstance(value, str) else json.dumps(value)
        for key, value in (values | variables).items()
        if value is not None
    }
