"""Annotates listings through an endpoint: the seed that SFT learns from (paper, §2).

    choose listings → prepare their photos → ask every query → a file in ``catalog.seed``

Replies are stored as they arrive (:mod:`raypipe.annotation.ledger`), so the same command resumes
after a kill, a limit or a server outage and pays for no question twice.
"""

import contextlib
import hashlib
import json
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from raypipe.annotation import selection
from raypipe.annotation.candidates import Candidates, candidates_of, confidences_of, newest_vote
from raypipe.annotation.client import AnnotationClient, AnnotationRequest, unusable
from raypipe.annotation.console import print_answers, print_candidates, print_plan
from raypipe.annotation.ledger import Budget, CachedReply, Ledger, recipe
from raypipe.annotation.photos import PhotoStore
from raypipe.annotation.questions import NO_REPLY, ParsedReply, parse_reply
from raypipe.annotation.seed import SeedAnswers, seed_file
from raypipe.attributes.parser import OK
from raypipe.attributes.schema import load_attribute_schema
from raypipe.catalog.listings import quarantine_rows
from raypipe.catalog.sources import LISTINGS_COLUMNS
from raypipe.catalog.tables import Tables
from raypipe.config import Config
from raypipe.errors import ConfigError, InputError, SpendingLimitError
from raypipe.models.policies import model_identity
from raypipe.runtime.console import Console
from raypipe.schemas import ANNOTATIONS, QUARANTINE
from raypipe.store.artifacts import Attempt, Run, get_or_commit
from raypipe.store.lease import lease
from raypipe.store.manifest import Commit
from raypipe.store.paths import Paths
from raypipe.store.runs import open_run

Row = dict[str, Any]


def annotate(config: Config, console: Console, *, plan_only: bool) -> None:
    """Annotate, or with ``plan_only`` print the number of questions.

    Raises:
        ConfigError: no listings or no endpoint; the server does not accept the key.
        SpendingLimitError: a limit was reached; the same command with a higher one resumes.
        EndpointError: the server failed for too many questions; the same command asks the rest.
        InputError: a fault of the catalog's files, or no reply can be used.
    """
    _check(config)
    started = time.time()
    run = open_run(config)
    with contextlib.nullcontext() if plan_only else lease(run, "annotation"):
        AnnotationDriver(config, run, console).go(plan_only=plan_only)
    console.end(None, time.time() - started)


class AnnotationDriver:
    """Runs one annotation."""

    def __init__(self, config: Config, run: Run, console: Console) -> None:
        self.config = config
        self.run = run
        self.console = console
        self.schema = load_attribute_schema(str(config.catalog.attribute_schema))
        with Tables(config, run) as tables:
            self.listings = tables.open(str(config.catalog.listings), LISTINGS_COLUMNS)
        self.ledger = Ledger(run)
        self._vote = newest_vote(run) if config.annotation.choose == "disagreement" else None
        self.seed = seed_file(config.catalog, self._annotation_id())
        annotation = config.annotation
        console.begin(
            f"annotates {annotation.listings_per_vertical} listings of each vertical "
            f"({annotation.choose}) with {annotation.endpoint_model} at {annotation.endpoint}",
            run.location,
            f"the seed goes to {self.seed.path}",
        )

    def go(self, *, plan_only: bool = False) -> Commit | None:
        """Run all steps in order; None with ``plan_only``."""
        with tempfile.TemporaryDirectory(prefix="raypipe-annotate-") as directory:
            photo_store = PhotoStore(self.config, self.listings, self.schema, Path(directory))
            chosen = self._choose(photo_store)
            questions = [question for name in chosen for question in photo_store.questions[name]]
            left = self._left(questions)
            budget = Budget(self.config, list(self.ledger.replies.values()))
            print_plan(self.console, self._counted(questions), questions, left, budget)
            if plan_only:
                return None
            asker = AnnotationClient(self.config, self.ledger, budget, self._reason_of)
            if left:
                asker.ask(left, len({question.key for question in questions}))
        self._check_limit(budget, questions, asker.failures)
        commit = self._commit(questions, photo_store, asker.failures, budget)
        self._write_seed(commit, questions)
        return commit

    def _choose(self, photo_store: PhotoStore) -> list[str]:
        """The chosen listings, interleaved by vertical. A refused one is replaced."""
        found = candidates_of(self.config, self.run, self.schema, self.listings, self.seed)
        verticals = found.verticals
        kept = {name: verticals[name] for name in self.seed.answers if name in verticals}
        print_candidates(self.console, found, len(self.seed.answers) - len(kept))
        ranked = self._ranked(found, kept, photo_store)
        size = self.config.annotation.listings_per_vertical
        refused = photo_store.refused
        while True:
            usable = {
                vertical: [name for name in ids if name not in refused]
                for vertical, ids in ranked.items()
            }
            held = {name: vertical for name, vertical in kept.items() if name not in refused}
            chosen = selection.interleaved(selection.filled(usable, held, size))
            photo_store.prepare(chosen)
            if photo_store.refused.keys().isdisjoint(chosen):
                break
        if not chosen:
            raise InputError(self._nothing(found, photo_store))
        return chosen

    def _ranked(
        self, found: Candidates, kept: Mapping[str, str], photo_store: PhotoStore
    ) -> dict[str, list[str]]:
        annotation, seed = self.config.annotation, self.config.run.seed
        candidates = selection.by_vertical(found.verticals)
        if self._vote is not None:
            return selection.most_disputed(candidates, confidences_of(self.run, self._vote))
        drawn = selection.at_random(candidates, seed)
        if annotation.choose == "random":
            return drawn
        looked_at = selection.filled(drawn, kept, annotation.candidates_per_vertical)
        return selection.most_diverse(looked_at, kept, self._embeddings(looked_at, photo_store))

    def _embeddings(
        self, looked_at: selection.ByVertical, photo_store: PhotoStore
    ) -> dict[str, Any]:
        from raypipe.annotation.embeddings import embed

        names = [name for ids in looked_at.values() for name in ids]
        tables = photo_store.tables(names, self.config.catalog.image_size)
        return embed(tables, self.config.model)

    def _nothing(self, found: Candidates, photo_store: PhotoStore) -> str:
        """Why there is nothing to annotate."""
        reasons = [f"{count:,} are {reason}" for reason, count in found.left_out.items()]
        if self._vote is not None and found.verticals:
            reasons.append(f"{self._vote} voted on none of the {len(found.verticals):,} others")
        if photo_store.refused:
            first = next(iter(photo_store.refused.values()))
            reasons.append(f"{len(photo_store.refused):,} cannot be used (such as {first.detail})")
        return "no listing is left to annotate: " + ("; ".join(reasons) or "there are none")

    def _left(self, questions: Sequence[AnnotationRequest]) -> list[AnnotationRequest]:
        """The unanswered questions; listings with the same photos share one."""
        limit = self.config.annotation.max_tokens
        left = {}
        for question in questions:
            cached = self.ledger.replies.get(question.key)
            if cached is None:
                if self._seed_answer(question) is None:
                    left[question.key] = question
            elif not cached.is_final(limit):
                left[question.key] = question
        return list(left.values())

    def _seed_answer(self, question: AnnotationRequest) -> dict[str, str] | None:
        """The answer to the same question in the seed file, written by another run."""
        answer = self.seed.answers.get(question.listing_id, {}).get(question.attribute)
        return answer if answer is not None and answer["question"] == question.key else None

    def _reason_of(self, question: AnnotationRequest, cached: CachedReply) -> str:
        return self._read(question, cached).reason

    def _read(self, question: AnnotationRequest, cached: CachedReply) -> ParsedReply:
        attribute = self.schema.get(question.vertical, question.attribute)
        return parse_reply(cached.reply, attribute, self.config.model.answer_format, cached.form)

    def _check_limit(
        self, budget: Budget, questions: Sequence[AnnotationRequest], failures: Mapping[str, str]
    ) -> None:
        unasked = [question for question in self._left(questions) if question.key not in failures]
        if unasked:
            total = len({question.key for question in questions})
            raise SpendingLimitError(
                f"{budget.reached} is reached: {len(unasked):,} of {total:,} questions are left. "
                "Raise it and call again to go on from here, or lower "
                f"annotation.listings_per_vertical={self.config.annotation.listings_per_vertical}:"
                " answered questions are not paid for again"
            )

    def _commit(
        self,
        questions: Sequence[AnnotationRequest],
        photo_store: PhotoStore,
        failures: Mapping[str, str],
        budget: Budget,
    ) -> Commit:
        """The artifact's name is a hash of its rows: other answers make another artifact."""
        rows = [self._row(question, failures) for question in questions]
        refused = quarantine_rows(photo_store.refused.values())
        name = _digest([json.dumps([rows, refused], sort_keys=True)])
        counts = {
            "questions": len(rows),
            "answered": sum(row["reason"] == OK for row in rows),
            "reasons": dict(Counter(row["reason"] for row in rows)),
            "prompt_tokens": budget.prompt_tokens,
            "answer_tokens": budget.answer_tokens,
            "uncounted": budget.uncounted,
            "cost": round(budget.cost, 6),
        }

        def make(attempt: Attempt) -> Commit:
            if rows:
                attempt.write(ANNOTATIONS.from_rows(rows))
            if refused:
                attempt.write(QUARANTINE.from_rows(refused), "quarantine")
            expected = {question.listing_id for question in questions} | photo_store.refused.keys()
            return attempt.commit(expected=expected, counts=counts)

        artifact = self.run.artifact(Paths.of_annotation(name).answers, ANNOTATIONS)
        commit = get_or_commit(artifact, recipe(self.config), make)
        self.console.stage_done(artifact.name, commit)
        return commit

    def _row(self, question: AnnotationRequest, failures: Mapping[str, str]) -> Row:
        cached = self.ledger.replies.get(question.key)
        kept = self._seed_answer(question)
        if cached is not None:
            parsed = self._read(question, cached)
        elif kept is not None:
            parsed = ParsedReply(kept["answer"], kept["reasoning"], OK, "answered in another run")
        else:
            parsed = ParsedReply(None, None, NO_REPLY, failures.get(question.key, "")[:500])
        return {
            "listing_id": question.listing_id,
            "vertical": question.vertical,
            "attribute": question.attribute,
            **vars(parsed),
            "text": cached.reply.text if cached else "",
            "form": cached.form if cached else None,
            "prompt_tokens": cached.reply.prompt_tokens if cached else None,
            "answer_tokens": cached.reply.answer_tokens if cached else None,
            "model": str(self.config.annotation.endpoint_model),
        }

    def _write_seed(self, commit: Commit, questions: Sequence[AnnotationRequest]) -> None:
        """Write the usable answers; a listing without any is left out."""
        keys = {(one.listing_id, one.attribute): one.key for one in questions}
        listings: dict[str, SeedAnswers] = {}
        for row in self.run.artifact(commit.artifact, ANNOTATIONS).read().to_pylist():
            if row["reason"] == OK:
                listings.setdefault(row["listing_id"], {})[row["attribute"]] = {
                    "reasoning": row["reasoning"] or "",
                    "answer": row["answer"],
                    "question": keys[row["listing_id"], row["attribute"]],
                }
        if not listings:
            reasons = Counter(commit.counts["reasons"])
            raise InputError(f"none of {len(questions):,} replies {unusable(reasons)}")
        self.seed.write(listings, str(self.config.annotation.endpoint_model))
        print_answers(self.console, commit, self.seed.path, len(listings), self.config)

    def _counted(self, questions: Sequence[AnnotationRequest]) -> Counter[str]:
        """Number of listings of each vertical."""
        return Counter({one.listing_id: one.vertical for one in questions}.values())

    def _annotation_id(self) -> str:
        """Names the seed file: a hash of the selection settings and the model."""
        parts = [self.config.annotation.choose, json.dumps(recipe(self.config), sort_keys=True)]
        if self._vote is not None:
            parts.append(self.run.artifact(Paths(self._vote).consensus).require_commit().digest)
        elif self.config.annotation.choose == "diversity":
            parts.append(json.dumps(model_identity(self.config.model), sort_keys=True))
        else:
            parts.append(str(self.config.run.seed))
        return _digest(parts)


def _check(config: Config) -> None:
    if config.annotation.endpoint is None:
        raise ConfigError(
            "annotation.endpoint and annotation.endpoint_model must be set, such as "
            "annotation.endpoint=https://api.openai.com/v1 annotation.endpoint_model=gpt-4o-mini"
        )
    if config.catalog.listings is None:
        raise ConfigError(
            "the embedded catalog brings its own seed: set catalog.listings to annotate yours"
        )


def _digest(parts: Sequence[str]) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:12]
