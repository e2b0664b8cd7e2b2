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
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from raypipe.annotation import choice
from raypipe.annotation.asking import Asker, Question, unusable
from raypipe.annotation.candidates import (
    Candidates,
    candidates_of,
    confidences_of,
    newest_vote,
)
from raypipe.annotation.console import AnnotationConsole
from raypipe.annotation.ledger import Ledger, Paid, Purse, law
from raypipe.annotation.photos import Studio
from raypipe.annotation.questions import Annotation, read
from raypipe.annotation.seed import Answers, seed_file
from raypipe.artifacts import Attempt, Run, committed
from raypipe.attributes import load_attribute_schema
from raypipe.catalog.listings import quarantine_rows
from raypipe.catalog.sources import LISTINGS_COLUMNS
from raypipe.catalog.tables import Tables
from raypipe.config import Config
from raypipe.errors import ConfigError, InputError, SpendingLimitError
from raypipe.manifest import Commit
from raypipe.policies import model_identity
from raypipe.runs import open_run
from raypipe.schemas import ANNOTATIONS, QUARANTINE

Row = dict[str, Any]


def annotate(config: Config, console: AnnotationConsole, *, plan_only: bool) -> None:
    """Annotate, or with ``plan_only`` say how much there is to ask.

    Raises:
        ConfigError: there is nothing to ask or nobody to ask; the server does not accept the key.
        SpendingLimitError: a limit was reached; the same command with a higher one goes on.
        EndpointError: the server failed for too many questions; the same command asks the rest.
        InputError: a fault of the catalog's files, or no reply can be used.
    """
    _check(config)
    started = time.time()
    driver = Driver(config, open_run(config), console)
    driver.go(plan_only=plan_only)
    console.end(time.time() - started)


class Driver:
    """One pass over an annotation."""

    def __init__(self, config: Config, run: Run, console: AnnotationConsole) -> None:
        self.config = config
        self.run = run
        self.console = console
        self.schema = load_attribute_schema(str(config.catalog.attribute_schema))
        with Tables(config, run) as tables:
            self.listings = tables.open(str(config.catalog.listings), LISTINGS_COLUMNS)
        self.ledger = Ledger(run)
        self._vote = newest_vote(run) if config.annotation.choose == "disagreement" else None
        self.seed = seed_file(config.catalog, self._campaign())
        console.begin(config, self.seed.path, run.location)

    def go(self, *, plan_only: bool = False) -> Commit | None:
        """Every step in its order; None when it was only planned."""
        with tempfile.TemporaryDirectory(prefix="raypipe-annotate-") as directory:
            studio = Studio(self.config, self.listings, self.schema, Path(directory))
            chosen = self._choose(studio)
            questions = [question for name in chosen for question in studio.questions[name]]
            left = self._left(questions)
            purse = Purse(self.config, list(self.ledger.replies.values()))
            self.console.plan(self._counted(questions), questions, left, purse)
            if plan_only:
                return None
            asker = Asker(self.config, self.ledger, purse, self._outcome)
            if left:
                asker.ask(left, len({question.key for question in questions}))
        self._check_limit(purse, questions, asker.failures)
        commit = self._commit(questions, studio, asker.failures, purse)
        self._write_seed(commit, questions)
        return commit

    def _choose(self, studio: Studio) -> list[str]:
        """The chosen listings, the verticals taking turns. One that is refused is replaced."""
        found = candidates_of(self.config, self.run, self.schema, self.listings, self.seed)
        kept = {
            name: found.verticals[name] for name in self.seed.answers if name in found.verticals
        }
        self.console.candidates(found, len(self.seed.answers) - len(kept))
        ranked = self._ranked(found, kept, studio)
        size = self.config.annotation.listings_per_vertical
        while True:
            usable = {
                vertical: [name for name in ids if name not in studio.refused]
                for vertical, ids in ranked.items()
            }
            held = {name: vertical for name, vertical in kept.items() if name not in studio.refused}
            chosen = choice.interleaved(choice.filled(usable, held, size))
            studio.prepare(chosen)
            if studio.refused.keys().isdisjoint(chosen):
                break
        if not chosen:
            raise InputError(self._nothing(found, studio))
        return chosen

    def _ranked(
        self, found: Candidates, kept: Mapping[str, str], studio: Studio
    ) -> dict[str, list[str]]:
        annotation, seed = self.config.annotation, self.config.run.seed
        candidates = choice.by_vertical(found.verticals)
        if self._vote is not None:
            return choice.most_disputed(candidates, confidences_of(self.run, self._vote))
        drawn = choice.at_random(candidates, seed)
        if annotation.choose == "random":
            return drawn
        looked_at = choice.filled(drawn, kept, annotation.candidates_per_vertical)
        return choice.most_diverse(looked_at, kept, self._embeddings(looked_at, studio))

    def _embeddings(self, looked_at: choice.ByVertical, studio: Studio) -> dict[str, Any]:
        from raypipe.annotation.embeddings import embed

        names = [name for ids in looked_at.values() for name in ids]
        tables = studio.tables(names, self.config.catalog.image_size)
        return embed(tables, self.config.model)

    def _nothing(self, found: Candidates, studio: Studio) -> str:
        """Why there is nothing to annotate."""
        reasons = [f"{count:,} are {reason}" for reason, count in found.left_out.items()]
        if self._vote is not None and found.verticals:
            reasons.append(f"{self._vote} voted on none of the {len(found.verticals):,} others")
        if studio.refused:
            first = next(iter(studio.refused.values()))
            reasons.append(f"{len(studio.refused):,} cannot be used (such as {first.detail})")
        return "no listing is left to annotate: " + ("; ".join(reasons) or "there are none")

    def _left(self, questions: Sequence[Question]) -> list[Question]:
        """What is to be asked, once where listings share their photos."""
        limit = self.config.annotation.max_tokens
        left = {}
        for question in questions:
            paid = self.ledger.replies.get(question.key)
            if paid is None:
                if self._kept(question) is None:
                    left[question.key] = question
            elif not paid.settles(limit):
                left[question.key] = question
        return list(left.values())

    def _kept(self, question: Question) -> dict[str, str] | None:
        """The answer to this very question in the seed's file, where another run has paid it."""
        answer = self.seed.answers.get(question.listing_id, {}).get(question.attribute)
        return answer if answer is not None and answer["question"] == question.key else None

    def _outcome(self, question: Question, paid: Paid) -> str:
        return self._read(question, paid).outcome

    def _read(self, question: Question, paid: Paid) -> Annotation:
        attribute = self.schema.get(question.vertical, question.attribute)
        return read(paid.reply, attribute, self.config.model.answer_format, paid.form)

    def _check_limit(
        self, purse: Purse, questions: Sequence[Question], failures: Mapping[str, str]
    ) -> None:
        unasked = [question for question in self._left(questions) if question.key not in failures]
        if unasked:
            asked = len({question.key for question in questions})
            raise SpendingLimitError(
                f"{purse.reached} is reached: {len(unasked):,} of {asked:,} questions are left. "
                "Raise it and call again to go on from here, or lower "
                f"annotation.listings_per_vertical={self.config.annotation.listings_per_vertical}:"
                " what is answered is not paid again"
            )

    def _commit(
        self,
        questions: Sequence[Question],
        studio: Studio,
        failures: Mapping[str, str],
        purse: Purse,
    ) -> Commit:
        """The artifact is named by its rows: other answers are another artifact."""
        rows = [self._row(question, failures) for question in questions]
        refused = quarantine_rows(studio.refused.values())
        name = _digest([json.dumps([rows, refused], sort_keys=True)])
        counts = {
            "questions": len(rows),
            "answered": sum(row["outcome"] == "ok" for row in rows),
            "outcomes": dict(Counter(row["outcome"] for row in rows)),
            "prompt_tokens": purse.prompt_tokens,
            "answer_tokens": purse.answer_tokens,
            "uncounted": purse.uncounted,
            "cost": round(purse.cost, 6),
        }

        def make(attempt: Attempt) -> Commit:
            if rows:
                attempt.write(ANNOTATIONS.from_rows(rows))
            if refused:
                attempt.write(QUARANTINE.from_rows(refused), "quarantine")
            expected = {question.listing_id for question in questions} | studio.refused.keys()
            return attempt.commit(expected=expected, counts=counts)

        artifact = self.run.artifact(f"annotation/{name}/answers", ANNOTATIONS)
        commit = committed(artifact, law(self.config), make)
        self.console.committed(artifact.name, commit)
        return commit

    def _row(self, question: Question, failures: Mapping[str, str]) -> Row:
        paid = self.ledger.replies.get(question.key)
        kept = self._kept(question)
        if paid is not None:
            said = self._read(question, paid)
        elif kept is not None:
            said = Annotation(kept["answer"], kept["reasoning"], "ok", "paid for by another run")
        else:
            said = Annotation(None, None, "endpoint_error", failures.get(question.key, "")[:500])
        return {
            "listing_id": question.listing_id,
            "vertical": question.vertical,
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

    def _write_seed(self, commit: Commit, questions: Sequence[Question]) -> None:
        """The answers that hold; a listing without any is left out."""
        keys = {(one.listing_id, one.attribute): one.key for one in questions}
        listings: dict[str, Answers] = {}
        for row in self.run.artifact(commit.artifact, ANNOTATIONS).read().to_pylist():
            if row["outcome"] == "ok":
                listings.setdefault(row["listing_id"], {})[row["attribute"]] = {
                    "reasoning": row["reasoning"] or "",
                    "answer": row["answer"],
                    "question": keys[row["listing_id"], row["attribute"]],
                }
        if not listings:
            outcomes = Counter(commit.counts["outcomes"])
            raise InputError(f"none of {len(questions):,} replies {unusable(outcomes)}")
        self.seed.write(listings, str(self.config.annotation.endpoint_model))
        self.console.done(commit, self.seed.path, len(listings), self.config)

    def _counted(self, questions: Sequence[Question]) -> Counter[str]:
        """Listings of each vertical."""
        return Counter({one.listing_id: one.vertical for one in questions}.values())

    def _campaign(self) -> str:
        """Names the seed's file: how listings are chosen, and who answers."""
        parts = [self.config.annotation.choose, json.dumps(law(self.config), sort_keys=True)]
        if self._vote is not None:
            parts.append(self.run.artifact(f"{self._vote}/consensus").required().digest)
        elif self.config.annotation.choose == "diversity":
            parts.append(json.dumps(model_identity(self.config.model), sort_keys=True))
        else:
            parts.append(str(self.config.run.seed))
        return _digest(parts)


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


def _digest(parts: Sequence[str]) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:12]
