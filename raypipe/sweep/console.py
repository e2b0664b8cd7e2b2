"""What a person sees of a sweep: its arms, a line per stage, and the claims at the end."""

from collections.abc import Mapping, Sequence

from rich.markup import escape
from rich.table import Table

from raypipe.config import Config
from raypipe.console import StageConsole, figure_or_unknown
from raypipe.results import Comparison, Results
from raypipe.sweep.arms import Arm
from raypipe.sweep.estimate import Expectation

_VERDICTS = {"holds": "holds", "fails": "fails", "inside_noise": "inside the noise"}


class SweepConsole(StageConsole):
    """What is printed of a sweep."""

    def begin(self, config: Config, location: str, arms: Mapping[int, Sequence[Arm]]) -> None:
        total = sum(len(planned) for planned in arms.values())
        seeds = ", ".join(str(seed) for seed in arms)
        self._rich.print(
            f"[bold]raypipe[/bold] sweep [bold]{config.run.name}[/bold]: "
            f"{escape(config.model.path)}, "
            f"{total} arms, seeds {seeds}"
        )
        self._rich.print(f"[dim]{escape(location)}[/dim]")

    def plan(self, config: Config, expected: Expectation) -> None:
        """What the sweep would take, arm by arm and in all."""
        self._rich.print(_plan(config, expected))
        whence = "counted" if expected.counted else "assumed: the catalog is not prepared yet"
        sizes = ", ".join(
            f"{name} {split.listings:,} listings with {split.queries:,} queries"
            for name, split in expected.splits.items()
        )
        self._rich.print(f"[dim]{sizes} ({whence})[/dim]")
        unknown = [
            f"rates.{name}"
            for name in ("chains_per_second", "engine_hour", "examples_per_second", "trainer_hour")
            if not getattr(config.rates, name)
        ]
        if unknown:
            self.note(f"set {', '.join(unknown)} to see hours and cost")

    def settled(self, scope: str, reason: str | None) -> None:
        """An arm is through, with figures or with the reason why it has none."""
        if reason is None:
            self._rich.print(f"[green]✓[/green] [bold]{scope}[/bold]")
        else:
            self.note(f"{scope}: {reason}")

    def end(self, results: Results, page: str, seconds: float) -> None:
        """The arms, the claims, and where the page is."""
        self._rich.print(_arms(results))
        self._rich.print(_claims(results.comparisons))
        self._rich.print(f"report   {escape(str(page))}")
        self._rich.print(f"this call took {seconds:.0f} s")


def _arms(results: Results) -> Table:
    table = Table(
        title=f"Accuracy on the eval split, {results.eval_queries:,} queries", title_justify="left"
    )
    for column, left in (
        ("arm", True),
        ("accuracy", False),
        ("95 % interval", False),
        ("pairs", False),
        ("seeds", False),
    ):
        table.add_column(column, justify="left" if left else "right")
    for arm in results.arms:
        low, high = arm.ci95
        pairs = arm.seeds[0].pairs if arm.method != "none" else None
        table.add_row(
            arm.title,
            f"{arm.accuracy:.3f}",
            f"{low:.3f} – {high:.3f}",
            "" if pairs is None else f"{pairs:,}",
            str(len(arm.seeds)),
        )
    return table


def _plan(config: Config, expected: Expectation) -> Table:
    table = Table(title="What the sweep would take", title_justify="left")
    for column, left in (
        ("arm", True),
        ("seed", False),
        ("chains", False),
        ("examples, at most", False),
    ):
        table.add_column(column, justify="left" if left else "right")
    for line in expected.lines:
        table.add_row(line.arm.title, str(line.seed), f"{line.chains:,}", f"{line.examples:,}")
    table.add_section()
    table.add_row("in all", "", f"{expected.chains:,}", f"{expected.examples:,}")
    hours = (
        figure_or_unknown(expected.engine_hours(config)),
        figure_or_unknown(expected.trainer_hours(config)),
    )
    table.add_row("hours", "", *hours)
    table.add_row(
        f"cost ({config.rates.currency})", "", figure_or_unknown(expected.cost(config)), ""
    )
    return table


def _claims(comparisons: Sequence[Comparison]) -> Table:
    table = Table(title="Claims, paired on the same queries, in points", title_justify="left")
    for column, left in (("claim", True), ("difference", False), ("95 %", False), ("", True)):
        table.add_column(column, justify="left" if left else "right")
    for found in comparisons:
        low, high = (100 * bound for bound in found.ci95)
        said = _VERDICTS[found.verdict] if found.expected != "any" else ""
        interval = f"[{low:+.1f}, {high:+.1f}]"
        table.add_row(found.statement, f"{100 * found.difference:+.1f}", interval, said)
    return table
