"""``raypipe status``: what of a run is done, what is under way, and what comes next.

Reads manifests, and of the files that they name whether they are there with their size; --verify
reads those files too and compares each with its sha256. Exits 3 when something in it is broken.
"""

import argparse
import json
import time
from typing import TYPE_CHECKING

from raypipe.cli.arguments import add_run

if TYPE_CHECKING:
    from rich.console import Group
    from rich.text import Text

    from raypipe.maintenance.status import RunStatus, StageLine


SUMMARY = "what of a run is done, and what is next"
_MARKS = {
    "done": "[green]✓[/green]",
    "under way": "[blue]…[/blue]",
    "interrupted": "[yellow]![/yellow]",
    "next": "[bold]→[/bold]",
    "waiting": "[dim]·[/dim]",
    "broken": "[red]✗[/red]",
    "superseded": "[dim]-[/dim]",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_run(parser)
    shown = parser.add_mutually_exclusive_group()
    shown.add_argument("--watch", action="store_true", help="look again until it is done")
    shown.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument(
        "--verify", action="store_true", help="read every committed file and compare its sha256"
    )
    parser.add_argument(
        "--every", type=float, default=5.0, metavar="SECONDS", help="between two looks (5)"
    )


def run(parsed: argparse.Namespace) -> int:
    """Print how the run stands; returns the exit code.

    Raises:
        InputError: there is no such run.
    """
    from raypipe.errors import EXIT_INPUT
    from raypipe.maintenance.status import inspect
    from raypipe.runtime.console import plain_console
    from raypipe.store.runs import find_run

    target = find_run(parsed.run, parsed.directory)
    if parsed.json:
        run_status = inspect(target, time.time(), verify=parsed.verify)
        print(json.dumps(run_status.to_json(), indent=1))  # noqa: T201
        return EXIT_INPUT if run_status.faults else 0
    console = plain_console()
    if not parsed.watch:
        run_status = inspect(target, time.time(), verify=parsed.verify)
        console.print(view(run_status))
        return EXIT_INPUT if run_status.faults else 0
    from rich.live import Live

    with Live(console=console, auto_refresh=False) as live:
        while True:
            run_status = inspect(target, time.time(), verify=parsed.verify)
            live.update(view(run_status), refresh=True)
            if run_status.is_done or run_status.faults:
                return EXIT_INPUT if run_status.faults else 0
            time.sleep(parsed.every)


def view(run_status: "RunStatus") -> "Group":
    """The table, what is broken, and what is next."""
    from rich.console import Group
    from rich.markup import escape
    from rich.text import Text

    from raypipe.runtime.console import table

    shown = table(
        run_status.location,
        ("", "stage", "state", "rows", "refused", "seconds", ""),
        map(_cells, run_status.stages),
        left=["stage", "state", ""],
        totals=map(_cells, run_status.others),
    )
    shown.columns[-1].style = "dim"
    faults = [Text.from_markup(f"[red]✗[/red] {escape(fault)}") for fault in run_status.faults]
    return Group(shown, *faults, Text(run_status.summary))


def _cells(line: "StageLine") -> "tuple[str | Text, ...]":
    from rich.text import Text

    age = "" if line.age_s is None else f", last written {age_text(line.age_s)} ago"
    return (
        Text.from_markup(_MARKS[line.state]),
        line.name,
        line.state,
        "" if line.rows is None else f"{line.rows:,}",
        "" if line.refused is None else f"{line.refused:,}",
        "" if line.seconds is None else f"{line.seconds:,.1f}",
        line.detail + age,
    )


def age_text(seconds: float) -> str:
    """An age as a person says it: 40 s, 12 min, 3 h, 2 days."""
    for limit, unit, word in ((120, 1, "s"), (7200, 60, "min"), (172_800, 3600, "h")):
        if seconds < limit:
            return f"{seconds / unit:.0f} {word}"
    return f"{seconds / 86_400:.0f} days"
