"""Open the run that a configuration names, or find one that is there."""

import json
import re
from pathlib import Path
from typing import Any

from raypipe import config as configuration
from raypipe.artifacts import Run
from raypipe.config import Config
from raypipe.errors import ArtifactError, ConfigError, InputError

CONFIGURATION = "run.json"
SUMMARY = "summary.json"
_POLICY = re.compile(r"\w[\w.-]{0,99}(/\w[\w.-]{0,99}){0,3}")


def open_run(config: Config) -> Run:
    """The run's directory, made if needed, with the configuration that it was begun with."""
    run = run_of(config)
    run.create(CONFIGURATION, json.dumps(config.shown(), indent=1).encode())
    return run


def run_of(config: Config) -> Run:
    """The same directory, begun or not."""
    return Run(f"{config.run.directory.rstrip('/')}/{config.run.name}")


def exports_of(config: Config, run: Run) -> Path:
    """Where a run's exports go: ``<run>/exports``, or ``exports/<run>`` below the working
    directory when the run is in an object store."""
    return Path(run.path("exports") if run.is_local else f"exports/{config.run.name}")


def begun_run(config: Config) -> Run:
    """The configured run, for jobs that add to what is there; nothing is made.

    Raises:
        InputError: there is none; says what is there instead.
        StorageError: its storage is out of reach.
    """
    return find_run(run_of(config).location, config.run.directory)


def find_run(name: str, directory: str = "runs") -> Run:
    """A run that exists; nothing is made.

    Args:
        name: path or URI of a run, or its name below ``directory``.

    Raises:
        ConfigError: the name is a URI of no kind that is known.
        InputError: there is none; says what is there instead.
        StorageError: its storage is out of reach.
    """
    below = f"{directory.rstrip('/')}/{name}"
    places = [name] if "://" in name or Path(name).is_absolute() else [name, below]
    there = [place for place in places if "://" in place or Path(place).is_dir()]
    for place in there:
        run = Run(place)
        if run.read(CONFIGURATION) is not None:
            return run
    if there:
        held = ", ".join(_held(Run(there[0]))) or "nothing"
        raise InputError(f"{there[0]} is no run: it has no {CONFIGURATION}, and holds {held}")
    known = ""
    if "://" not in directory and Path(directory).is_dir():
        found = sorted(path.parent.name for path in Path(directory).glob(f"*/{CONFIGURATION}"))
        known = f"; runs in {directory}: {', '.join(found) or 'none'}"
    raise InputError(f"there is no run at {' or '.join(places)}{known}")


def begun_with(run: Run) -> Config:
    """The configuration that a run was begun with.

    Raises:
        ArtifactError: it cannot be read.
        ConfigError: this version of raypipe does not know what it says.
    """
    values = run.read_json(CONFIGURATION, "delete it, and the next job writes its own")
    if values is None:
        raise ArtifactError(f"{run.location} has no {CONFIGURATION}")
    if isinstance(values.get("model"), dict):
        # Earlier versions began runs of models without a commit; what they made can be looked at.
        values["model"].setdefault("allow_unpinned", True)
    try:
        return configuration.resolve(values)
    except ConfigError as error:
        raise ConfigError(f"{run.location}/{CONFIGURATION}: {error}") from error


def run_summary(run: Run) -> dict[str, Any] | None:
    """What ``summary.json`` says of a run's end; None where there is none.

    Raises:
        ArtifactError: it is unreadable, or lacks what is told of a run's end.
    """
    remedy = "jobs/round.py writes it again"
    summary = run.read_json(SUMMARY, remedy)
    if summary is None:
        return None
    try:
        if not _POLICY.fullmatch(summary["best"]):
            raise ValueError("'best' names no policy")
        _ = (summary.get("alarm") or {"reason": ""})["reason"] + ""
        for record in summary.get("pairs") or ():
            _ = int(record["round"]), record["outcome"] + "", record.get("reason", "") + ""
        compared = summary.get("comparison")
        _ = compared is None or compared["to"] + ""
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ArtifactError(
            f"{run.path(SUMMARY)} lacks what a run ends with ({type(error).__name__}: {error}); "
            f"{remedy}"
        ) from error
    return summary


def _held(run: Run) -> list[str]:
    """Names of the first few things in a directory."""
    import pyarrow.fs as pafs

    selector = pafs.FileSelector(run.root, allow_not_found=True)
    names = sorted(info.base_name for info in run.look(selector))
    return [*names[:6], f"{len(names) - 6} more"] if len(names) > 6 else names
