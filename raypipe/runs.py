"""Open the run that a configuration names."""

import json

from raypipe.artifacts import Run
from raypipe.config import Config


def open_run(config: Config) -> Run:
    """The run's directory, made if needed, with the configuration that it was begun with."""
    run = run_of(config)
    run.create("run.json", json.dumps(config.model_dump(mode="json"), indent=1).encode())
    return run


def run_of(config: Config) -> Run:
    """The same directory, begun or not."""
    return Run(f"{config.run.directory.rstrip('/')}/{config.run.name}")
