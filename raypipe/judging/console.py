"""What a person sees of an evaluation: the stages, accuracies side by side, and differences."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.markup import escape
from rich.table import Table

from raypipe.config import Config
from raypipe.console import StageConsole


class JudgingConsole(StageConsole):
    """Prints to standard output."""

    def begin(self, config: Config, name: str, location: str) -> None:
        judging = config.judging
        place = f" at {escape(judging.endpoint)}" if judging.endpoint else ""
        self._rich.print(
            f"[bold]raypipe[/bold] judges [bold]{escape(name)}[/bold]{place} on "
            f"{escape(judging.listings or 'the eval split of the run')}"
        )
        self._rich.print(f"[dim]{escape(location)}[/dim]")

    def table(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """The judged policy first, then the run's own on the same listings, and differences.

        Args:
            rows: metrics of the eval split, with ``name``, and ``gain`` as evaluation.compare
                gives it, or None.
        """
        table = Table(title="Accuracy", title_justify="left")
        for column in ("policy", "accuracy", "95 % interval", "macro", "queries", "invalid"):
            table.add_column(column, justify="left" if column == "policy" else "right")
        for row in rows:
            if row["accuracy"] is None:
                table.add_row(escape(row["name"]), "–", "–", "–", "0", "–")
                continue
            low, high = row["ci95"]
            table.add_row(
                escape(row["name"]),
                f"{row['accuracy']:.3f}",
                f"{low:.3f} – {high:.3f}",
                f"{row['macro_vertical']:.3f}",
                f"{row['queries']:,}",
                f"{row['invalid']:.1%}",
            )
        table.caption = "macro: each vertical counts the same"
        table.caption_justify = "left"
        self._rich.print(table)
        for row in rows:
            if (gain := row["gain"]) is None:
                continue
            low, high = (100 * bound for bound in gain["ci95"])
            names = escape(f"{rows[0]['name']} − {row['name']}")
            self._rich.print(
                f"{names} = {100 * gain['difference']:+.1f} points, "
                f"95 % [{low:+.1f}, {high:+.1f}], paired on the same {gain['queries']:,} queries"
            )

    def end(self, page: str, seconds: float) -> None:
        self._rich.print(f"report   {escape(str(page))}")
        self._rich.print(f"this call took {seconds:.0f} s")
