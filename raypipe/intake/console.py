"""What a person sees of ``raypipe init``: what was found, written, missing, and what comes next."""

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from rich.markup import escape

from raypipe.console import plain_console
from raypipe.intake.answers import Kind, Written
from raypipe.intake.columns import Columns
from raypipe.intake.config_draft import MAX_HOSTS
from raypipe.intake.hosts import Server, doubted, proposed, shown
from raypipe.intake.listings import Intake
from raypipe.intake.refused import Refusals
from raypipe.intake.schema_draft import Draft
from raypipe.intake.survey import Survey

_SHOWN = 5


class IntakeConsole:
    """Prints to standard output."""

    def __init__(self) -> None:
        self._rich = plain_console()

    def source(self, name: str) -> None:
        """What the lines below are about."""
        self._rich.print(f"[bold]{escape(name)}[/bold]")

    def columns(self, columns: Columns) -> None:
        """What was mapped to what."""
        for name, origin in columns.described():
            self._rich.print(f"  {name:<14} {escape(origin)}")

    def found(self, survey: Survey) -> None:
        """What a catalog holds."""
        listings, kinds = survey.verticals.total(), len(survey.verticals)
        self._rich.print(
            f"  {listings:,} listings in {kinds:,} verticals, {survey.images:,} images"
        )
        for name, count in survey.verticals.most_common(_SHOWN):
            self._rich.print(f"[dim]    {escape(name)}: {count:,}[/dim]")
        if kinds > _SHOWN:
            self._rich.print(f"[dim]    and {kinds - _SHOWN:,} more[/dim]")
        if kinds > 20 and 3 * kinds > listings:
            self.note("hardly two listings share a vertical: is this the right --vertical column?")
        for server, count in survey.hosts.most_common(_SHOWN):
            self._rich.print(f"[dim]    {count:,} images from {escape(shown(server))}[/dim]")

    def hosts(self, servers: Sequence[Server]) -> None:
        """Which hosts the configuration allows, and which it does not."""
        allowed, others = proposed(servers), doubted(servers)
        if len(allowed) > MAX_HOSTS:
            self.note(
                f"images come from {len(allowed)} hosts: name those that you trust in "
                "catalog.fetch.hosts of catalog.yaml; no other is asked"
            )
        elif allowed:
            self.note(
                f"catalog.yaml allows images from {', '.join(allowed)}, because your listings name "
                "them: strike out those that you do not trust"
            )
        for name, reason in others[:_SHOWN]:
            self.note(f"catalog.yaml does not allow {name}: {reason}")
        if len(others) > _SHOWN:
            self.note(f"nor {len(others) - _SHOWN} more")

    def images(self, intake: Intake) -> None:
        """Names without a file, files without a listing, files elsewhere."""
        missing, strangers = intake.survey.missing, intake.strangers
        if missing:
            self.note(f"{len(missing):,} images are named but not there (such as {missing[0]})")
        if strangers:
            self.note(
                f"{len(strangers):,} image files belong to no row and are left out (such as "
                f"{strangers[0]})"
            )
        if intake.image_roots:
            roots = ", ".join(intake.image_roots)
            self.note(
                "images lie outside the target directory, and are read only where "
                f"catalog.image_roots of catalog.yaml names {roots}; --embed puts them into "
                "listings.parquet, which then can be moved"
            )

    def drafted(self, draft: Draft) -> None:
        """What the schema leaves out or invents."""
        names = Counter(name for _, name, _ in draft.left_out)
        if names:
            shown = ", ".join(f"{name} ({count})" for name, count in names.most_common(_SHOWN))
            self._rich.print(f"[dim]    not asked: {escape(shown)}; schema.yaml says why[/dim]")
        if draft.invented:
            self.note(
                f"sellers say nothing to ask of {_few(draft.invented)}: schema.yaml holds an "
                "example for each, to be replaced"
            )

    def wrote(self, path: Path, what: str) -> None:
        self._rich.print(f"[green]✓[/green] {escape(os.path.relpath(path)):<22} [dim]{what}[/dim]")

    def kept(self, path: Path, kept: Path) -> None:
        """Where a draft is that a new one was written over."""
        self.note(f"the {path.name} that was there is {os.path.relpath(kept)} now")

    def answers(self, kind: Kind, path: Path, written: Written) -> None:
        """What was written of a sheet of answers."""
        self.wrote(path, f"{written.answers:,} values of {written.listings:,} listings")
        if written.doubtful:
            self.note(
                f"{len(written.doubtful):,} of them are not in schema.yaml, and prepare will leave "
                f"them out: add values or aliases there (such as {written.doubtful[0][:200]})"
            )
        if written.without_reasoning:
            self.note(
                f"{written.without_reasoning:,} of them come without reasoning: the model learns "
                "to answer without any, unless model.answer_format=answer_only is meant"
            )

    def refused(self, refusals: Refusals) -> None:
        """How many rows cannot be used, and where they are now."""
        if not refusals.total:
            return
        self.note(f"{refusals.total:,} rows cannot be used; they are in {refusals.path}:")
        for line in refusals.described():
            self._rich.print(f"[dim]    {escape(line[:300])}[/dim]")

    def note(self, text: str) -> None:
        self._rich.print(f"[yellow]![/yellow] {escape(text)}")

    def next_steps(self, target: Path) -> None:
        """What is missing, and the commands that come next, in order."""
        have = {name: any((target / name).glob("*.parquet")) for name in ("seed", "truth")}
        configured = (target / "catalog.yaml").is_file()
        missing = ["catalog.yaml"] * (not configured) + [f"{n}/" for n in have if not have[n]]
        if missing:
            self._rich.print(f"[bold]missing[/bold]  {', '.join(missing)}")
        self._rich.print("[bold]next[/bold]")
        place = os.path.relpath(target)
        if place != ".":
            self._rich.print(f"  cd {escape(place)}")
        for command, meaning in _steps(configured, have["seed"], have["truth"]):
            self._rich.print(f"  {escape(f'{command:<44}')} [dim]{meaning}[/dim]")


def _steps(configured: bool, seed: bool, truth: bool) -> Iterable[tuple[str, str]]:
    if not configured:
        yield "raypipe init LISTINGS", "your sheet or Parquet, first of all"
        return
    yield "edit schema.yaml", "the questions and the values that may be answered"
    if not seed:
        yield "raypipe annotate --config catalog.yaml", "or by hand: raypipe init --seed seed.csv"
    if not truth:
        yield "raypipe init --truth verified.csv", "values that a person verified"
    yield "raypipe prepare --config catalog.yaml", "checks everything; loads no model"
    yield "raypipe round --config catalog.yaml", "trains and evaluates"
    yield "raypipe label --config catalog.yaml", "labels the catalog"


def _few(names: tuple[str, ...]) -> str:
    more = f" and {len(names) - _SHOWN:,} more verticals" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
