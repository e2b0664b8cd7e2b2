"""What a person sees of a labeling: the plan, the stages, what came out and what it took."""

from collections.abc import Mapping

from rich.table import Table

from raypipe.config import Config
from raypipe.console import StageConsole
from raypipe.labeling.estimate import Work, lines
from raypipe.policies import Policy


class LabelingConsole(StageConsole):
    """Prints to standard output."""

    def begin(self, config: Config, policy: Policy, location: str) -> None:
        labeling = config.labeling
        source = labeling.listings or "the run's own listings"
        self._rich.print(
            f"[bold]raypipe[/bold] labels {source} with [bold]{policy.name}[/bold] "
            f"({labeling.mode}, precision {labeling.precision:g})"
        )
        self._rich.print(f"[dim]{location}[/dim]")

    def plan(self, config: Config, plan: Work, done: Work | None) -> None:
        """The table of what it takes; before the work with one column of figures."""
        table = Table(title="What it takes", title_justify="left")
        table.add_column("")
        table.add_column("expected", justify="right")
        if done is not None:
            table.add_column("took", justify="right")
        for name, expected, took in lines(plan, done, config):
            table.add_row(name, expected, *([took] if done is not None else []))
        self._rich.print(table)

    def outcomes(self, counted: Mapping[str, int]) -> None:
        """How many labels were published, and why the others were not."""
        total = sum(counted.values())
        table = Table(title="Labels", title_justify="left")
        for column in ("outcome", "labels", "share"):
            table.add_column(column, justify="left" if column == "outcome" else "right")
        for name, count in sorted(counted.items(), key=lambda pair: -pair[1]):
            table.add_row(name.replace("_", " "), f"{count:,}", f"{count / total:.1%}")
        self._rich.print(table)

    def end(self, page: str, seconds: float) -> None:
        self._rich.print(f"report   {page}")
        self._rich.print(f"this call took {seconds:.0f} s")
