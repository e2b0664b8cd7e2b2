"""What a person sees of a run: a line per stage, the gate's decisions, a table at the end."""

from typing import Any

from rich.markup import escape
from rich.table import Table

from raypipe.config import Config
from raypipe.console import StageConsole, figure_or_unknown
from raypipe.rounds.estimate import Expectation
from raypipe.rounds.gate import REFUSED, Judged


class Console(StageConsole):
    """What is printed of a whole run."""

    def begin(self, config: Config, location: str) -> None:
        rounds = config.rounds
        self._rich.print(
            f"[bold]raypipe[/bold] run [bold]{config.run.name}[/bold]: "
            f"{escape(config.model.path)}, "
            f"{rounds.num_rounds} rounds of {config.training.method} from {rounds.start}"
        )
        self._rich.print(f"[dim]{escape(location)}[/dim]")

    def plan(self, config: Config, expected: Expectation) -> None:
        """What a run would take, policy by policy and in all; what is made already counts not."""
        self._rich.print(_plan(config, expected))
        whence = "counted" if expected.counted else "assumed: the catalog is not prepared yet"
        sizes = ", ".join(
            f"{name} {split.listings:,} listings with {split.queries:,} queries"
            for name, split in expected.splits.items()
        )
        self._rich.print(f"[dim]{sizes} ({whence})[/dim]")
        if not expected.counted and config.catalog.embedded is None:
            self.note("the sizes are the paper's, not your catalog's: raypipe prepare counts them")
        unknown = [
            f"rates.{name}"
            for name, known in (
                ("chains_per_second", expected.engine_hours(config) is not None),
                ("engine_hour", config.rates.engine_hour),
                ("examples_per_second", config.rates.examples_per_second),
                ("trainer_hour", config.rates.trainer_hour),
            )
            if not known
        ]
        if unknown:
            self.note(f"set {', '.join(unknown)} to see hours and cost")

    def judged(self, judged: Judged, best: Judged) -> None:
        accuracy = f"anchor accuracy {judged.anchor_accuracy:.3f}"
        decision = judged.decision.replace("_", " ")
        if judged.decision in REFUSED:
            self.note(
                f"{judged.policy}: {accuracy}, {decision}; best is {best.policy} "
                f"({best.anchor_accuracy:.3f})"
            )
        else:
            self._rich.print(f"[green]✓[/green] {judged.policy}: {accuracy}, {decision}")

    def end(self, summary: dict[str, Any], page: str, seconds: float) -> None:
        """The accuracy table, where the time went, and where the report is."""
        self._rich.print(_accuracy_table(summary))
        if summary["comparison"]:
            self._rich.print(_comparison_line(summary["comparison"]))
        self._rich.print(_time_table(summary["seconds"], summary["within"]))
        self._rich.print(f"report   {escape(str(page))}")
        self._rich.print(f"this call took {seconds:.0f} s")


def _plan(config: Config, expected: Expectation) -> Table:
    table = Table(title="What the run would take", title_justify="left")
    for column, left in (
        ("policy", True),
        ("listings", False),
        ("queries", False),
        ("chains", False),
        ("examples, at most", False),
    ):
        table.add_column(column, justify="left" if left else "right")
    for line in expected.lines:
        chains = "made" if line.is_sampled else f"{line.chains:,}"
        examples = "made" if line.is_trained else f"{line.examples:,}"
        table.add_row(line.policy, f"{line.listings:,}", f"{line.queries:,}", chains, examples)
    table.add_section()
    table.add_row("to make", "", "", f"{expected.chains:,}", f"{expected.examples:,}")
    most = expected.chains * config.sampling.max_tokens
    tokens = f"at most {most:,}" if expected.tokens is None else f"{expected.tokens:,.0f}"
    table.add_row("tokens of chains", "", "", tokens, "")
    hours = expected.engine_hours(config), expected.trainer_hours(config)
    table.add_row("engine hours, trainer hours", "", "", *map(figure_or_unknown, hours))
    table.add_row(
        f"cost ({config.rates.currency})", "", "", figure_or_unknown(expected.cost(config)), ""
    )
    return table


def _accuracy_table(summary: dict[str, Any]) -> Table:
    table = Table(title="Accuracy on the eval split", title_justify="left")
    for column, justify in (
        ("policy", "left"),
        ("accuracy", "right"),
        ("95 % interval", "right"),
        ("queries", "right"),
        ("invalid", "right"),
        ("anchor", "right"),
        ("gate", "left"),
    ):
        table.add_column(column, justify=justify)  # type: ignore[arg-type]
    for stage in summary["stages"]:
        low, high = stage["ci95"]
        table.add_row(
            stage["name"] + (" *" if stage["name"] == summary["best"] else ""),
            f"{stage['accuracy']:.3f}",
            f"{low:.3f} – {high:.3f}",
            f"{stage['queries']:,}",
            f"{stage['invalid']:.1%}",
            f"{stage['anchor_accuracy']:.3f}",
            (stage["decision"] or "").replace("_", " "),
        )
    table.caption = "* the policy to use: the best on the anchor split"
    table.caption_justify = "left"
    return table


def _comparison_line(comparison: dict[str, Any]) -> str:
    low, high = (100 * bound for bound in comparison["ci95"])
    return (
        f"{comparison['to']} − {comparison['from']} = {100 * comparison['difference']:+.1f} "
        f"points, 95 % [{low:+.1f}, {high:+.1f}], paired on the same queries"
    )


def _time_table(seconds: dict[str, float], within: dict[str, dict[str, float]]) -> Table:
    """Seconds by kind of stage, as they were when each was made, and what a stage tells apart."""
    kinds: dict[str, float] = {}
    for name, spent in seconds.items():
        kind = name.split("/")[1]
        parts = {f"{kind}: {part}": took for part, took in within.get(name, {}).items()}
        parts[f"{kind}: the rest" if parts else kind] = spent - sum(parts.values())
        for part, took in parts.items():
            kinds[part] = kinds.get(part, 0.0) + took
    table = Table(title="Where the time went", title_justify="left")
    table.add_column("stage")
    table.add_column("seconds", justify="right")
    for kind, spent in sorted(kinds.items(), key=lambda pair: -pair[1]):
        table.add_row(kind, f"{spent:.1f}")
    return table
