"""Console output of a job: a line per stage, progress below it, and tables."""

import logging
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any

from rich.console import Console as RichConsole
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from raypipe.config import Config
from raypipe.errors import EXIT_UNREAD
from raypipe.runtime import progress
from raypipe.runtime.cost import Plan, known
from raypipe.security.terminal import printable
from raypipe.store.manifest import Commit

# Wide enough for the tables, also in a job's log, which has no terminal width.
_WIDTH = 110
_RATES = ("chains_per_second", "engine_hour", "examples_per_second", "trainer_hour")
Cells = Sequence[str | Text]


class _PlainConsole(RichConsole):
    """Removes control characters from text, in lines and tables."""

    def render_str(self, text: str, **how: Any) -> Text:
        return super().render_str(printable(text), **how)

    def on_broken_pipe(self) -> None:
        try:
            super().on_broken_pipe()
        except SystemExit:
            raise SystemExit(EXIT_UNREAD) from None


def plain_console() -> RichConsole:
    """Standard output with a fixed width and no automatic highlighting."""
    return _PlainConsole(highlight=False, soft_wrap=True, width=_WIDTH)


def table(
    title: str,
    columns: Sequence[str],
    rows: Iterable[Cells],
    *,
    left: Collection[str] = (),
    totals: Iterable[Cells] = (),
    caption: str | None = None,
) -> Table:
    """A table; texts are not parsed as markup. ``left`` are columns besides the first that are
    left-aligned, ``totals`` rows below a separator."""
    made = Table(title=escape(title), title_justify="left", caption=caption, caption_justify="left")
    for number, column in enumerate(columns):
        justify = "left" if number == 0 or column in left else "right"
        made.add_column(column, justify=justify, overflow="fold")  # type: ignore[arg-type]
    for section in (rows, totals):
        for row in section:
            made.add_row(*(escape(cell) if isinstance(cell, str) else cell for cell in row))
        made.add_section()
    return made


class _ProgressHandler(logging.Handler):
    """Prints progress below its stage."""

    def __init__(self, rich: RichConsole) -> None:
        super().__init__()
        self._rich = rich

    def emit(self, record: logging.LogRecord) -> None:
        self._rich.print(f"[dim]    {escape(record.getMessage())}[/dim]")


class Console:
    """Prints to standard output: one line per stage, also in a job's log."""

    def __init__(self) -> None:
        self._rich = plain_console()
        progress.logger.addHandler(_ProgressHandler(self._rich))
        progress.logger.setLevel(logging.INFO)
        progress.logger.propagate = False

    def begin(self, text: str, *details: str) -> None:
        """Print what the job does, with details below."""
        self._rich.print(f"[bold]raypipe[/bold] {escape(text)}")
        for detail in details:
            self.detail(detail)

    def stage(self, name: str) -> None:
        self.detail(f"… {name}")

    def stage_done(self, name: str, commit: Commit) -> None:
        rows = f"{commit.rows:,} rows" if commit.rows else ""
        refused = f", {commit.quarantined:,} quarantined" if commit.quarantined else ""
        figures = ", ".join(
            f"{key.replace('_', ' ')} {value:,}"
            for key, value in commit.counts.items()
            if isinstance(value, int)
        )
        what = ", ".join(part for part in (rows, figures) if part) + refused
        when = "already done" if commit.reused else f"{commit.seconds:.1f} s"
        self.done(f"{name:<24} {when:>12} ", what)

    def run_stage(self, name: str, work: Callable[[], Commit]) -> Commit:
        """Run a stage, with a line before and after."""
        self.stage(name)
        commit = work()
        self.stage_done(name, commit)
        return commit

    def line(self, text: str, style: str | None = None) -> None:
        self._rich.print(escape(text), style=style)

    def detail(self, text: str) -> None:
        self.line(text, "dim")

    def done(self, text: str, detail: str = "") -> None:
        self._rich.print(
            f"[green]✓[/green] {escape(text)}" + f" [dim]{escape(detail)}[/dim]" * bool(detail)
        )

    def note(self, text: str) -> None:
        self._rich.print(f"[yellow]![/yellow] {escape(text)}")

    def table(self, title: str, columns: Sequence[str], rows: Iterable[Cells], **how: Any) -> None:
        """Print a :func:`table`."""
        self._rich.print(table(title, columns, rows, **how))

    def plan(self, title: str, columns: Sequence[str], plan: Plan, config: Config) -> None:
        """Print the work by item, and the cost of the unfinished part.

        Args:
            columns: the heading of the items' names, and fields of WorkItem.
        """
        self.table(
            title,
            (*columns, "chains", "examples, at most"),
            (
                (
                    item.name,
                    *(f"{getattr(item, column):,}" for column in columns[1:]),
                    "made" if item.is_sampled else f"{item.chains:,}",
                    "made" if item.is_trained else f"{item.examples:,}",
                )
                for item in plan.items
            ),
            totals=_totals(plan, config, [""] * (len(columns) - 1)),
        )
        whence = "counted" if plan.counted else "assumed: the catalog is not prepared yet"
        sizes = ", ".join(
            f"{name} {split.listings:,} listings with {split.queries:,} queries"
            for name, split in plan.splits.items()
        )
        self.detail(f"{sizes} ({whence})")
        if not plan.counted and config.catalog.embedded is None:
            self.note("the sizes are the paper's, not your catalog's: raypipe prepare counts them")
        is_set = {name: bool(getattr(config.rates, name)) for name in _RATES}
        is_set["chains_per_second"] |= plan.left.engine_hours is not None
        unknown = [f"rates.{name}" for name in _RATES if not is_set[name]]
        if unknown:
            self.note(f"set {', '.join(unknown)} to see hours and cost")

    def end(self, page: str | None, seconds: float) -> None:
        """Print the report's location and the duration."""
        if page is not None:
            self.line(f"report   {page}")
        self.line(f"this call took {seconds:.0f} s")


def _totals(plan: Plan, config: Config, blank: list[str]) -> Iterable[Cells]:
    left = plan.left
    most = f"at most {left.chains * config.sampling.max_tokens:,}"
    tokens = most if left.tokens is None else f"{left.tokens:,.0f}"
    yield "to make", *blank, f"{left.chains:,}", f"{left.examples:,}"
    yield "tokens of chains", *blank, tokens, ""
    hours = known(left.engine_hours), known(left.trainer_hours)
    yield "engine hours, trainer hours", *blank, *hours
    yield f"cost ({config.rates.currency})", *blank, known(left.price(config)), ""
