"""Annotates listings through an endpoint: the seed that SFT learns from (paper, §2).

    choose listings → prepare their photos → ask every query → a file in ``catalog.seed``

Replies are kept as they come (:mod:`raypipe.annotation.ledger`), so that the same command goes on
after a kill, a limit or a server's bad day, and pays for nothing twice.
"""

import hashlib
import json
import tempfile
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import count, takewhile
from pathlib import Path
from typing import Any

from raypipe.annotation import choice
from raypipe.annotation.asking import Asker, Question
from raypipe.annotation.console import AnnotationConsole
from raypipe.annotation.ledger import Ledger, Paid, Purse, key_of, law
from raypipe.annotation.questions import Annotation, read
from raypipe.annotation.seed import seed_file
from raypipe.artifacts import Attempt, Run, committed
from raypipe.attributes import load_attribute_schema
from raypipe.catalog.answer_files import find_answers
from raypipe.catalog.census import Census, take_census
from raypipe.catalog.listings import quarantine_rows
from raypipe.catalog.snapshots import parse
from raypipe.catalog.sources import LISTINGS_COLUMNS, TRUTH_COLUMNS
from raypipe.catalog.spill import Spill
from raypipe.catalog.splits import Role
from raypipe.catalog.tables import Tables
from raypipe.config import Config
from raypipe.errors import ConfigError, InputError, SpendingLimitError
from raypipe.manifest import Commit, versions
from raypipe.policies import PRETRAINED, SFT, round_name
from raypipe.runs import open_run
from raypipe.schemas import ANNOTATIONS, CONSENSUS, QUARANTINE

_ROWS_PER_TABLE = 256


def annotate(config: Config, console: AnnotationConsole, *, plan_only: bool) -> None:
    """Annotate, or with ``plan_only`` say how much there is to ask.

    Raises:
        ConfigError: there is nothing to ask or nobody to ask; the server does not accept the key.
        SpendingLimitError: a limit was reached; the same command with a higher one goes on.
        EndpointError: the server failed for too many questions; the same command asks the rest.
        InputError: a fault of the catalog's files.
    """
    started = time.time()
    driver = Driver(config, open_run(config), console)
    driver.go(plan_only=plan_only)
    console.end(time.time() - started)


@dataclass(frozen=True)
class _Prepared:
    """The chosen listings: what to ask, the vertical of each, and those that were refused."""

    questions: list[Question]
    census: Census


class Driver:
    """One pass over an annotation."""

    def __init__(self, config: Config, run: Run, console: AnnotationConsole) -> None:
        _check(config)
        self.config = config
        self.run = run
        self.console = console
        self.schema = load_attribute_schema(str(config.catalog.attribute_schema))
        with Tables(config, run) as tables:
            self.listings = tables.open(str(config.catalog.listings), LISTINGS_COLUMNS)
        self._scope = _newest_vote(run) if config.annotation.choose == "disagreement" else None
        self.seed = seed_file(config.catalog, self._campaign())
        console.begin(config, self.seed.path, run.location)

    def go(self, *, plan_only: bool = False) -> Commit | None:
        """Every step in its order; None when it was only planned."""
        with tempfile.TemporaryDirectory(prefix="raypipe-annotate-") as directory:
            prepared = self._prepare(self._choose(Path(directory)), Path(directory))
        ledger, purse = Ledger(self.run), Purse(self.config)
        known = ledger.read(question.key for question in prepared.questions)
        for paid in known.values():
            purse.pay(paid.reply)
        # Listings with the same photos share a question.
        asked = {question.key: question for question in prepared.questions}
        left = [question for key, question in asked.items() if key not in known]
        self.console.plan(self._chosen(prepared), prepared.questions, left, purse)
        if plan_only:
            return None
        asker = Asker(self.config, ledger, purse)
        if left and purse.reached is None:
            asker.ask(left)
        replies = known | asker.replies
        self._check_limit(purse, prepared, replies, asker.failures)
        commit = self._commit(prepared, replies, asker.failures, purse)
        self._write_seed(commit)
        return commit

    def _choose(self, directory: Path) -> list[str]:
        """The chosen listings, the verticals taking turns."""
        config = self.config.annotation
        candidates = choice.by_vertical(self._candidates())
        if not candidates:
            raise InputError("no listing is left to annotate: all are annotated or verified")
        size = config.listings_per_vertical
        if config.choose == "disagreement":
            chosen = choice.most_disputed(candidates, size, self._confidences())
        elif config.choose == "diversity":
            drawn = choice.at_random(
                candidates, config.candidates_per_vertical, self.config.run.seed
            )
            chosen = choice.most_diverse(drawn, size, self._embeddings(drawn, directory))
        else:
            chosen = choice.at_random(candidates, size, self.config.run.seed)
        return choice.interleaved(chosen)

    def _candidates(self) -> dict[str, str]:
        """The vertical of every listing that may be annotated.

        Those of the truth and their relatives may not: they would leak into what judges.
        """
        verified = self._verified()
        taken = verified | self.seed.others(str(self.config.catalog.seed))
        verticals: dict[str, str] = {}
        groups: dict[str, str] = {}
        for batch in self.listings.read(["listing_id", "vertical", "group_id"]):
            for row in batch.to_pylist():
                verticals[row["listing_id"]] = row["vertical"]
                if row.get("group_id"):
                    groups[row["listing_id"]] = row["group_id"]
        related = {groups[name] for name in verified if name in groups}
        return {
            name: vertical
            for name, vertical in verticals.items()
            if name not in taken
            and groups.get(name) not in related
            and vertical in self.schema.verticals
        }

    def _verified(self) -> frozenset[str]:
        location = str(self.config.catalog.truth)
        if parse(location) is not None:
            with Tables(self.config, self.run) as tables:
                return tables.answers(location, TRUTH_COLUMNS).listing_ids
        source = find_answers(location, TRUTH_COLUMNS)
        if source is None:
            self.console.note(f"{location} is not there yet: no listing is kept out for it")
            return frozenset()
        return source.listing_ids

    def _confidences(self) -> dict[str, list[float]]:
        votes = self.run.artifact(f"{self._scope}/consensus", CONSENSUS)
        found: dict[str, list[float]] = {}
        for table in votes.read_files(["listing_id", "split", "confidence"]):
            for row in table.to_pylist():
                if row["split"] == "pool":
                    found.setdefault(row["listing_id"], []).append(row["confidence"])
        return found

    def _embeddings(self, drawn: choice.ByVertical, directory: Path) -> dict[str, Any]:
        from raypipe.annotation.embeddings import embed

        names = [name for ids in drawn.values() for name in ids]
        size = self.config.catalog.image_size
        census, spill = self._census(names, size, directory / "candidates.arrow")
        tables = spill.tables(dict.fromkeys(census.verticals, "pool"), _ROWS_PER_TABLE)
        return embed(tables, self.config.model)

    def _prepare(self, chosen: list[str], directory: Path) -> _Prepared:
        size = self.config.annotation.image_size
        census, spill = self._census(chosen, size, directory / "chosen.arrow")
        rows: dict[str, list[Question]] = {}
        for table in spill.tables(dict.fromkeys(census.verticals, "pool"), _ROWS_PER_TABLE):
            for row in table.to_pylist():
                rows[row["listing_id"]] = self._questions(row)
        questions = [question for name in chosen for question in rows.get(name, ())]
        return _Prepared(questions, census)

    def _census(self, names: list[str], image_size: int, path: Path) -> tuple[Census, Spill]:
        """Prepared listings; those that are refused cost nothing, and only miss."""
        settings = {"image_size": image_size, "max_quarantined": 1.0}
        catalog = self.config.catalog.model_copy(update=settings)
        with Spill(path) as spill:
            roles: dict[str, Role] = dict.fromkeys(names, "pool")
            census = take_census(self.listings, self.schema, roles, catalog, spill)
        return census, spill

    def _questions(self, row: Mapping[str, Any]) -> list[Question]:
        images = tuple(row["images"])
        return [
            Question(
                key=key_of(self.config, query["prompt"], images),
                listing_id=row["listing_id"],
                attribute=query["attribute"],
                prompt=query["prompt"],
                options=tuple(query["options"]),
                images=images,
            )
            for query in row["queries"]
        ]

    def _check_limit(
        self,
        purse: Purse,
        prepared: _Prepared,
        replies: Mapping[str, Paid],
        failures: Mapping[str, str],
    ) -> None:
        asked = {question.key for question in prepared.questions}
        left = asked - replies.keys() - failures.keys()
        if left:
            raise SpendingLimitError(
                f"{purse.reached} is reached: {len(left):,} of {len(asked):,} questions are left. "
                "Raise it and call again to go on from here, or lower "
                f"annotation.listings_per_vertical={self.config.annotation.listings_per_vertical}:"
                " what is answered is not paid again"
            )

    def _commit(
        self,
        prepared: _Prepared,
        replies: Mapping[str, Paid],
        failures: Mapping[str, str],
        purse: Purse,
    ) -> Commit:
        refused = quarantine_rows(prepared.census.refused)
        keys = [question.key for question in prepared.questions]
        name = _digest([*sorted(keys), *sorted(str(row["id"]) for row in refused)])
        rows = [self._row(question, prepared, replies, failures) for question in prepared.questions]
        counts = {
            "questions": len(rows),
            "answered": sum(row["outcome"] == "ok" for row in rows),
            "outcomes": dict(Counter(row["outcome"] for row in rows)),
            "prompt_tokens": purse.prompt_tokens,
            "answer_tokens": purse.answer_tokens,
            "uncounted": purse.uncounted,
            "cost": round(purse.cost, 6),
        }
        fingerprint = law(self.config) | versions("raypipe")

        def make(attempt: Attempt) -> Commit:
            if rows:
                attempt.write(ANNOTATIONS.from_rows(rows))
            if refused:
                attempt.write(QUARANTINE.from_rows(refused), "quarantine")
            expected = {*prepared.census.verticals, *(str(row["id"]) for row in refused)}
            return attempt.commit(expected=expected, counts=counts)

        artifact = self.run.artifact(f"annotation/{name}/answers", ANNOTATIONS)
        commit = committed(artifact, fingerprint, make)
        self.console.committed(artifact.name, commit)
        return commit

    def _row(
        self,
        question: Question,
        prepared: _Prepared,
        replies: Mapping[str, Paid],
        failures: Mapping[str, str],
    ) -> dict[str, Any]:
        vertical = prepared.census.verticals[question.listing_id]
        paid = replies.get(question.key)
        said = Annotation(None, None, "endpoint_error", failures.get(question.key, "")[:500])
        if paid is not None:
            attribute = self.schema.get(vertical, question.attribute)
            said = read(paid.reply, attribute, self.config.model.answer_format, paid.form)
        return {
            "listing_id": question.listing_id,
            "vertical": vertical,
            "attribute": question.attribute,
            "answer": said.answer,
            "reasoning": said.reasoning,
            "outcome": said.outcome,
            "detail": said.detail,
            "text": paid.reply.text if paid else "",
            "form": paid.form if paid else None,
            "prompt_tokens": paid.reply.prompt_tokens if paid else None,
            "answer_tokens": paid.reply.answer_tokens if paid else None,
            "model": str(self.config.annotation.endpoint_model),
        }

    def _write_seed(self, commit: Commit) -> None:
        """The answers that hold, a listing a row; a listing without any is left out."""
        answers: dict[str, list[dict[str, Any]]] = {}
        for row in self.run.artifact(commit.artifact, ANNOTATIONS).read().to_pylist():
            if row["outcome"] == "ok":
                kept = {name: row[name] for name in ("attribute", "answer")}
                kept["reasoning"] = row["reasoning"] or ""
                answers.setdefault(row["listing_id"], []).append(kept)
        if not answers:
            outcomes = ", ".join(f"{n:,} {said}" for said, n in commit.counts["outcomes"].items())
            raise InputError(
                f"no answer can be used ({outcomes}); their texts are in {self.run.location}/"
                f"{commit.artifact}. annotation.max_tokens, annotation.structured and the model "
                "decide what comes back"
            )
        rows = [{"listing_id": name, "answers": given} for name, given in sorted(answers.items())]
        self.seed.write(rows, str(self.config.annotation.endpoint_model))
        self.console.done(commit, self.seed.path, len(rows), self.config)

    def _chosen(self, prepared: _Prepared) -> Counter[str]:
        return Counter(prepared.census.verticals.values())

    def _campaign(self) -> str:
        """Names the seed's file: how listings are chosen, and who answers."""
        return _digest(
            [
                self.config.annotation.choose,
                str(self.config.run.seed),
                str(self._scope),
                json.dumps(law(self.config), sort_keys=True),
            ]
        )


def _check(config: Config) -> None:
    if config.annotation.endpoint is None:
        raise ConfigError(
            "annotation.endpoint and annotation.endpoint_model say who annotates, such as "
            "annotation.endpoint=https://api.openai.com/v1 annotation.endpoint_model=gpt-4o-mini"
        )
    if config.catalog.listings is None:
        raise ConfigError(
            "the embedded catalog brings its own seed: set catalog.listings to annotate yours"
        )


def _newest_vote(run: Run) -> str:
    """The scope of the newest consensus. Raises InputError when there is none."""
    rounds = (scope for index in count(1) for scope in _scopes(index))
    made = takewhile(lambda scope: run.artifact(f"{scope}/chains").commit() is not None, rounds)
    scopes = [PRETRAINED, SFT, *made]
    voted = [scope for scope in scopes if run.artifact(f"{scope}/consensus").commit() is not None]
    if not voted:
        raise InputError(
            f"annotation.choose=disagreement needs a vote, and {run.location} has none yet: run "
            "jobs/round.py first"
        )
    return voted[-1]


def _scopes(round_index: int) -> list[str]:
    name = round_name(round_index)
    return [f"{name}-draw", name]


def _digest(parts: list[str]) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:12]
