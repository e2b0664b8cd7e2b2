"""What a person sees of a labeling: the plan, the stages, what came out and what it took."""

from collections.abc import Mapping
from pathlib import Path

from rich.markup import escape
from rich.table import Table

from raypipe.config import Config
from raypipe.console import StageConsole
from raypipe.labeling.estimate import Work, lines
from raypipe.labeling.review import INTERFACE
from raypipe.labeling.reviewed import Imported
from raypipe.policies import Policy


class LabelingConsole(StageConsole):
    """Prints to standard output."""

    def begin(self, config: Config, policy: Policy, location: str) -> None:
        labeling = config.labeling
        source = labeling.listings or "the run's own listings"
        self._rich.print(
            f"[bold]raypipe[/bold] labels {escape(source)} with "
            f"[bold]{escape(policy.name)}[/bold] "
            f"({labeling.mode}, precision {labeling.precision:g})"
        )
        self._rich.print(f"[dim]{escape(location)}[/dim]")

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

    def exported(self, config: Config, tasks: Path) -> None:
        """Where the tasks for people are, and the way back."""
        order, interface = config.labeling.review_order, tasks.with_name(INTERFACE)
        self._rich.print(
            f"tasks      {escape(str(tasks))} (labeling.review_order={order})\n"
            f"interface  {escape(str(interface))} (the labeling setup of the project)\n"
            "then       python jobs/review.py … --import export.json --as seed|anchor|eval"
        )

    def imported(self, imported: Imported) -> None:
        """What came of people's answers, and what to do with them."""
        agreed = imported.agreed
        table = Table(title=f"Reviews as {imported.role}", title_justify="left")
        table.add_column("")
        table.add_column("count", justify="right")
        for name, count in (
            ("answers taken", sum(agreed.values())),
            ("  the model said the same", agreed[True]),
            ("  the model was corrected", agreed[False]),
            ("  the model had no answer", agreed[None]),
            ("tasks not reviewed yet", imported.verdicts.not_reviewed),
        ):
            table.add_row(name, f"{count:,}")
        for reason, count in imported.refused.most_common():
            table.add_row(f"refused: {reason.replace('_', ' ')}", f"{count:,}")
        self._rich.print(table)
        unexplained = imported.refused["no_reasoning"]
        if unexplained > agreed[False]:
            self.note(
                f"{unexplained:,} answers were refused because neither the reviewer nor the model "
                "says why, so that mostly what the model says already is learned from: a sentence "
                "in the reasoning field of a correction makes it count, and --as anchor or "
                "--as eval asks for none"
            )
        if imported.refused_file is not None:
            self._rich.print(f"refused  {escape(str(imported.refused_file))}")
        if imported.file is None:
            self.note("no answer was taken, so nothing was added to the catalog")
            return
        there = "" if imported.is_new else " (was there already)"
        self._rich.print(f"answers  {escape(str(imported.file))}{there}")
        if imported.role != "seed" and imported.chosen_worst:
            self.note(
                f"{imported.chosen_worst:,} of these were reviewed because the model was unsure: "
                "they do not stand for the catalog (labeling.review_order=random would)"
            )
        self.note("a new run uses them: python jobs/round.py … run.name=<another name>")

    def end(self, page: str, seconds: float) -> None:
        self._rich.print(f"report   {escape(str(page))}")
        self._rich.print(f"this call took {seconds:.0f} s")
