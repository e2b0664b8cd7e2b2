"""What a person sees of a job: a line per stage, and progress under it."""

import logging
from typing import Any

from rich.console import Console as RichConsole
from rich.markup import escape
from rich.text import Text

from raypipe import progress
from raypipe.errors import EXIT_UNREAD
from raypipe.manifest import Commit
from raypipe.terminal import printable

# Wide enough for the tables, also in the log of a job, which has no width of its own.
_WIDTH = 110


class _PlainConsole(RichConsole):
    """Prints no control character of a text, in a line or in a table."""

    def render_str(self, text: str, **how: Any) -> Text:
        return super().render_str(printable(text), **how)

    def on_broken_pipe(self) -> None:
        try:
            super().on_broken_pipe()
        except SystemExit:
            raise SystemExit(EXIT_UNREAD) from None


def plain_console() -> RichConsole:
    """Standard output, of one width everywhere, with nothing coloured that was not meant to be."""
    return _PlainConsole(highlight=False, soft_wrap=True, width=_WIDTH)


class _Lines(logging.Handler):
    """Prints progress under the stage that it belongs to."""

    def __init__(self, rich: RichConsole) -> None:
        super().__init__()
        self._rich = rich

    def emit(self, record: logging.LogRecord) -> None:
        self._rich.print(f"[dim]    {escape(record.getMessage())}[/dim]")


class StageConsole:
    """Prints to standard output; one line for every stage, also in a log file of a job."""

    def __init__(self) -> None:
        self._rich = plain_console()
        progress.logger.addHandler(_Lines(self._rich))
        progress.logger.setLevel(logging.INFO)
        progress.logger.propagate = False

    def stage(self, name: str) -> None:
        self._rich.print(f"[dim]… {name}[/dim]")

    def committed(self, name: str, commit: Commit) -> None:
        rows = f"{commit.rows:,} rows" if commit.rows else ""
        refused = f", {commit.quarantined:,} quarantined" if commit.quarantined else ""
        figures = ", ".join(
            f"{key.replace('_', ' ')} {value:,}"
            for key, value in commit.counts.items()
            if isinstance(value, int)
        )
        what = ", ".join(part for part in (rows, figures) if part) + refused
        when = "already done" if commit.reused else f"{commit.seconds:.1f} s"
        self._rich.print(f"[green]✓[/green] {name:<24} {when:>12}  [dim]{what}[/dim]")

    def note(self, text: str) -> None:
        self._rich.print(f"[yellow]![/yellow] {escape(text)}")


def figure_or_unknown(figure: float | None) -> str:
    """Hours or money with two decimals; None is what nobody can tell yet."""
    return "unknown" if figure is None else f"{figure:,.2f}"
