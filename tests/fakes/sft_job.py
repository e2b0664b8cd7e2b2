"""A job that prepares the small catalog and trains its SFT, as a process that may be stopped.

    python -m tests.fakes.sft_job DIRECTORY [section.key=value …]

It ends like a job: with the exit code of a raypipe error, its message on stderr.
"""

import sys
from collections.abc import Sequence

from raypipe import config as configuration
from raypipe.catalog import stage as catalog
from raypipe.cli.jobs import report_error
from raypipe.errors import RaypipeError
from raypipe.runtime.cluster import ray_session
from raypipe.runtime.console import Console
from raypipe.runtime.interruption import stoppable
from raypipe.store.runs import open_run
from raypipe.training import stage as training
from tests.fakes.small_run import SMALL


def main(directory: str, overrides: Sequence[str]) -> int:
    settings = configuration.load(None, (*SMALL, f"run.directory={directory}", *overrides))
    console = Console()
    with stoppable():
        try:
            run = open_run(settings)
            with ray_session(settings.cluster):
                catalog.run(settings, run)
                console.stage_done("sft/adapter", training.run_sft(settings, run))
        except RaypipeError as error:
            return report_error(error)
        except KeyboardInterrupt:
            return 130
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
