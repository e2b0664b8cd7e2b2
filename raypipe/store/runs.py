"""Open the run that a configuration names, or find an existing one."""

import json
from pathlib import Path

from raypipe import config as configuration
from raypipe.config import Config
from raypipe.errors import ArtifactError, ConfigError, InputError
from raypipe.store.artifacts import Run
from raypipe.store.documents import parse_object
from raypipe.store.paths import EXPORTS, RUN

LAYOUT = 3
"""Version of the run directory's layout; raise it when names or documents in it change."""
_LAYOUT_KEY = "layout"


def open_run(config: Config) -> Run:
    """The run's directory, created if needed, with the configuration that it was started with.

    Raises:
        ConfigError: the run has another layout on disk.
    """
    run = run_of(config)
    values = {_LAYOUT_KEY: LAYOUT} | config.shown()
    if not run.create(RUN, json.dumps(values, indent=1).encode()):
        _check_layout(run)
    return run


def run_of(config: Config) -> Run:
    """The same directory, existing or not."""
    return Run(f"{config.run.directory.rstrip('/')}/{config.run.name}")


def exports_of(config: Config, run: Run) -> Path:
    """Where a run's exports go: ``<run>/exports``, or ``exports/<run>`` below the working
    directory when the run is in an object store."""
    return Path(run.path(EXPORTS) if run.is_local else f"{EXPORTS}/{config.run.name}")


def begun_run(config: Config) -> Run:
    """The configured run, for jobs that extend an existing run; creates nothing.

    Raises:
        InputError: there is none; the message lists what is there.
        StorageError: the storage cannot be reached.
    """
    return find_run(run_of(config).location, config.run.directory)


def find_run(name: str, directory: str = "runs") -> Run:
    """An existing run; creates nothing.

    Args:
        name: path or URI of a run, or its name below ``directory``.

    Raises:
        ConfigError: the name is an unsupported URI, or the run has another layout.
        InputError: there is none; the message lists what is there.
        StorageError: the storage cannot be reached.
    """
    below = f"{directory.rstrip('/')}/{name}"
    places = [name] if "://" in name or Path(name).is_absolute() else [name, below]
    there = [place for place in places if "://" in place or Path(place).is_dir()]
    for place in there:
        run = Run(place)
        if _check_layout(run):
            return run
    if there:
        held = ", ".join(_held(Run(there[0]))) or "nothing"
        raise InputError(f"{there[0]} is no run: it has no {RUN}, and holds {held}")
    known = ""
    if "://" not in directory and Path(directory).is_dir():
        found = sorted(path.parent.name for path in Path(directory).glob(f"*/{RUN}"))
        known = f"; runs in {directory}: {', '.join(found) or 'none'}"
    raise InputError(f"there is no run at {' or '.join(places)}{known}")


def begun_with(run: Run) -> Config:
    """The configuration that a run was started with.

    Raises:
        ArtifactError: it cannot be read.
        ConfigError: it has keys or values that this version of raypipe does not support.
    """
    values = run.read_json(RUN, "delete it, and the next job writes its own")
    if values is None:
        raise ArtifactError(f"{run.location} has no {RUN}")
    values.pop(_LAYOUT_KEY, None)
    try:
        return configuration.resolve(values)
    except ConfigError as error:
        raise ConfigError(f"{run.location}/{RUN}: {error}") from error


def _check_layout(run: Run) -> bool:
    """Whether there is a run. Raises ConfigError when its directory has another layout."""
    content = run.read(RUN)
    if content is None:
        return False
    try:
        layout = parse_object(content, RUN).get(_LAYOUT_KEY)
    except ArtifactError:  # begun_with reports it
        return True
    if layout != LAYOUT:
        raise ConfigError(
            f"{run.location} was made by another version of raypipe and has another layout on disk "
            f"({layout or 1}; this version reads {LAYOUT}): choose another run.name, or delete the "
            "directory to start over"
        )
    return True


def _held(run: Run) -> list[str]:
    """Names of the first few things in a directory."""
    import pyarrow.fs as pafs

    selector = pafs.FileSelector(run.root, allow_not_found=True)
    names = sorted(info.base_name for info in run.look(selector))
    return [*names[:6], f"{len(names) - 6} more"] if len(names) > 6 else names
