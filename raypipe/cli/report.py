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
    from pydantic import ValidationError

    from raypipe.console import plain_console
    from raypipe.documents import unreadable
    from raypipe.report import stage
    from raypipe.results import PATH, Results
    from raypipe.runs import begun_with, find_run

    target = find_run(parsed.run, parsed.directory)
    values = target.read_json(PATH, "jobs/sweep.py writes it again")
    if values is not None:
        try:
            page = stage.run_sweep(target, Results.model_validate(values))
        except ValidationError as error:
            raise unreadable(f"{target.location}/{PATH}", error) from error
    else:
        page = stage.run(begun_with(target), target)
    plain_console().print(f"report   {page}", markup=False)
    return 0
