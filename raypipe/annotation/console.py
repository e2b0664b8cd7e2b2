"""What a person sees of an annotation: what will be asked, what came of it, what it cost."""

from collections.abc import Mapping, Sequence

from rich.markup import escape
from rich.table import Table

from raypipe.annotation.asking import Question
from raypipe.annotation.candidates import Candidates
from raypipe.annotation.ledger import Purse
from raypipe.config import Config
from raypipe.console import StageConsole
from raypipe.manifest import Commit


class AnnotationConsole(StageConsole):
    """Prints to standard output."""

    def begin(self, config: Config, target: str, location: str) -> None:
        annotation = config.annotation
        model, endpoint = str(annotation.endpoint_model), str(annotation.endpoint)
        self._rich.print(
            f"[bold]raypipe[/bold] annotates {annotation.listings_per_vertical} listings of each "
            f"vertical ({annotation.choose}) with [bold]{escape(model)}[/bold] at "
            f"{escape(endpoint)}"
        )
        self._rich.print(f"[dim]{escape(location)}[/dim]")
        self._rich.print(f"[dim]the seed goes to {escape(target)}[/dim]")

    def candidates(self, found: Candidates, dropped: int) -> None:
        """Who may not be annotated.

        Args:
            dropped: listings of the campaign which may not be any more.
        """
        for reason, count in sorted(found.left_out.items()):
            self._rich.print(f"[dim]left out: {count:,} {reason}[/dim]")
        if not found.has_truth:
            self.note("there is no truth yet: no listing is kept out for it")
        if dropped:
            self.note(f"{dropped:,} listings that were annotated are gone, verified or related now")

    def plan(
        self,
        chosen: Mapping[str, int],
        questions: Sequence[Question],
        left: Sequence[Question],
        purse: Purse,
    ) -> None:
        """What is asked, before it is."""
        table = Table(title="To annotate", title_justify="left")
        table.add_column("vertical")
        table.add_column("listings", justify="right")
        for vertical, count in sorted(chosen.items()):
            table.add_row(escape(vertical), f"{count:,}")
        self._rich.print(table)
        asked = len({question.key for question in questions})
        self._rich.print(
            f"{asked:,} questions, {asked - len(left):,} of them answered already; "
            f"{len(left):,} to ask{self._expected(purse, len(left))}"
        )

    def done(self, commit: Commit, target: str, listings: int, config: Config) -> None:
        """What came of it."""
        counts = commit.counts
        table = Table(title="Answers", title_justify="left")
        table.add_column("outcome")
        table.add_column("questions", justify="right")
        for outcome, count in sorted(counts["outcomes"].items()):
            table.add_row(outcome, f"{count:,}")
        if commit.quarantined:
            table.add_row("listing refused", f"{commit.quarantined:,}")
        self._rich.print(table)
        tokens = counts["prompt_tokens"] + counts["answer_tokens"]
        priced = f", {counts['cost']:.4g} {config.rates.currency}" if counts["cost"] else ""
        self._rich.print(f"{tokens:,} tokens{priced}, over all calls in this run")
        self._rich.print(f"[green]✓[/green] {listings:,} annotated listings in {escape(target)}")
        self._rich.print(
            "[dim]a new run learns from them: python jobs/round.py --config … run.name=…[/dim]"
        )

    def end(self, seconds: float) -> None:
        self._rich.print(f"this call took {seconds:.0f} s")

    def _expected(self, purse: Purse, left: int) -> str:
        """What is left should take, by what was paid so far."""
        counted = purse.replies - purse.uncounted
        if not counted or not left:
            return ""
        tokens = (purse.prompt_tokens + purse.answer_tokens) / counted * left
        cost = purse.cost / counted * left
        priced = f", {cost:.4g} {purse.config.rates.currency}" if cost else ""
        return f" (about {tokens:,.0f} tokens{priced})"
