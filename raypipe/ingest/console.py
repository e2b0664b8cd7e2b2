"""What ``raypipe init`` prints: what it found and wrote, what is missing, and what comes next."""

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from raypipe.config import ModelConfig
from raypipe.ingest.answers import AnswerKind, Written
from raypipe.ingest.columns import Columns
from raypipe.ingest.config_draft import MAX_HOSTS
from raypipe.ingest.hosts import Server, display_url, doubted, proposed
from raypipe.ingest.listings import ImportResult
from raypipe.ingest.refused import Refusals
from raypipe.ingest.schema_draft import Draft
from raypipe.ingest.survey import Survey
from raypipe.models.licences import describe, licence
from raypipe.runtime.console import Console

_SHOWN = 5


class InitConsole(Console):
    """What ``raypipe init`` prints."""

    def source(self, name: str) -> None:
        """The file that the lines below describe."""
        self.line(name, "bold")

    def columns(self, columns: Columns) -> None:
        """What was mapped to what."""
        for name, origin in columns.described():
            self.line(f"  {name:<14} {origin}")

    def found(self, survey: Survey) -> None:
        """What a catalog holds."""
        listings, kinds = survey.verticals.total(), len(survey.verticals)
        self.line(f"  {listings:,} listings in {kinds:,} verticals, {survey.images:,} images")
        for name, count in survey.verticals.most_common(_SHOWN):
            self.detail(f"    {name}: {count:,}")
        if kinds > _SHOWN:
            self.detail(f"    and {kinds - _SHOWN:,} more")
        if kinds > 20 and 3 * kinds > listings:
            self.note("hardly two listings share a vertical: is this the right --vertical column?")
        for server, count in survey.hosts.most_common(_SHOWN):
            self.detail(f"    {count:,} images from {display_url(server)}")

    def base_model(self, model: ModelConfig) -> None:
        """Which base model the configuration names, and on what terms."""
        self.note(
            f"it names {model.path} at {model.revision}; licence {describe(licence(model))}: read "
            "it before you train"
        )

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

    def images(self, result: ImportResult) -> None:
        """Names without a file, files without a listing, files elsewhere."""
        missing, strangers = result.survey.missing, result.strangers
        if missing:
            self.note(f"{len(missing):,} images are named but not there (such as {missing[0]})")
        if strangers:
            self.note(
                f"{len(strangers):,} image files belong to no row and are left out (such as "
                f"{strangers[0]})"
            )
        if result.image_roots:
            roots = ", ".join(result.image_roots)
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
            self.detail(f"    not asked: {shown}; schema.yaml says why")
        if draft.invented:
            self.note(
                f"sellers give no attribute to ask about for {_few(draft.invented)}: schema.yaml "
                "holds an example for each, to be replaced"
            )

    def wrote(self, path: Path, what: str) -> None:
        self.done(f"{os.path.relpath(path):<22}", what)

    def kept(self, path: Path, kept: Path) -> None:
        """Where a draft is that a new one was written over."""
        self.note(f"the {path.name} that was there is {os.path.relpath(kept)} now")

    def answers(self, kind: AnswerKind, path: Path, written: Written) -> None:
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
            self.detail(f"    {line[:300]}")

    def next_steps(self, target: Path) -> None:
        """What is missing, and the commands that come next, in order."""
        have = {name: any((target / name).glob("*.parquet")) for name in ("seed", "truth")}
        configured = (target / "catalog.yaml").is_file()
        missing = ["catalog.yaml"] * (not configured) + [f"{n}/" for n in have if not have[n]]
        if missing:
            self.line(f"missing  {', '.join(missing)}")
        self.line("next", "bold")
        place = os.path.relpath(target)
        if place != ".":
            self.line(f"  cd {place}")
        for command, meaning in _steps(configured, have["seed"], have["truth"]):
            self.line(f"  {command:<44} {meaning}")


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
