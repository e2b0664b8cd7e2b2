"""``raypipe doctor``: check this machine, its surroundings and the configuration before a run.

Exits 0 when nothing fails, 2 when something must be mended first, and 4 when all that fails may
mend itself, such as storage out of reach.
"""

import argparse
import os

from raypipe.cli.arguments import add_configuration
from raypipe.doctor.finding import Finding, exit_code

SUMMARY = "check this machine and the configuration before a run"
_COLORS = {"ok": "green", "warn": "yellow", "fail": "red"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_configuration(parser)


def run(parsed: argparse.Namespace) -> int:
    """Print a line per check; returns the exit code."""
    from raypipe.doctor.checks import examine
    from raypipe.runtime.console import plain_console

    console = plain_console()
    found: list[Finding] = []
    for finding in examine(parsed.config, parsed.overrides, os.environ):
        found.append(finding)
        console.print(_line(finding))
    verdicts = [finding.verdict for finding in found]
    console.print(
        f"{verdicts.count('ok')} ok, {verdicts.count('warn')} to look at, "
        f"{verdicts.count('fail')} to mend"
    )
    return exit_code(found)


def _line(finding: Finding) -> str:
    from rich.markup import escape

    verdict = f"[{_COLORS[finding.verdict]}]{finding.verdict:<4}[/]"
    fix = f"  [bold]→ {escape(finding.fix)}[/bold]" if finding.fix else ""
    return f"{verdict}  {escape(finding.what)}  [dim]— {escape(finding.detail)}[/dim]{fix}"
