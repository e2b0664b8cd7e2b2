"""``raypipe report``: write the page of a run, or of a sweep, again.

The page is made from what is committed and from the configuration that the run was begun with.
"""

import argparse

from raypipe.cli.arguments import add_run

SUMMARY = "write a run's page again"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_run(parser)


def run(parsed: argparse.Namespace) -> int:
    """Write it and print where it is; returns the exit code.

    Raises:
        InputError: there is no such run.
        ArtifactError: something committed is corrupt.
    """
    from raypipe.experiments.report.stage import write_sweep_report
    from raypipe.experiments.results import Results
    from raypipe.report import stage
    from raypipe.runtime.console import plain_console
    from raypipe.store.runs import begun_with, find_run

    target = find_run(parsed.run, parsed.directory)
    results = Results.find(target)
    if results is not None:
        page = write_sweep_report(target, results)
    else:
        page = stage.run(begun_with(target), target)
    plain_console().print(f"report   {page}", markup=False)
    return 0
