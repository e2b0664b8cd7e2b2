"""A Ray Data actor that owns one engine and turns listings into chains."""

import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Protocol

import pyarrow as pa

from raypipe import seeds
from raypipe.errors import EXIT_RETRY, EngineDiedError, EngineStartError, RaypipeError
from raypipe.runtime import stream
from raypipe.runtime.parts import PART
from raypipe.sampling.chains import AnsweredQuery, Chain
from raypipe.sampling.crash_tracker import CrashTracker
from raypipe.sampling.engine import Failure, Prompt, Request
from raypipe.store.quarantine import (
    ENGINE_CRASH,
    ENGINE_ERROR,
    PROMPT_TOO_LONG,
    QuarantineReason,
    quarantine_row,
)

RowBuilder = Callable[[Sequence[dict[str, Any]], Sequence[Sequence[AnsweredQuery]]], pa.Table]
QuarantineRow = dict[str, object]


class ChainSource(Protocol):
    """What the actor needs of an engine; several threads call it at once."""

    max_prompt_tokens: int

    def generate(self, requests: list[Request]) -> list[list[Chain] | Failure]: ...

    def num_prompt_tokens(self, prompt: Prompt) -> int: ...


class CrashReporter(Protocol):
    """The suspects, from wherever they live."""

    def __call__(self, method: str, *arguments: Any) -> Any: ...


@dataclass(frozen=True)
class SamplingRequest:
    """Which chains a query gets, by the split of its listing.

    ``seed_parts`` is what the seeds depend on beside listing and attribute; ``constrained`` lets
    the engine write nothing but the answer format with an allowed value; ``logprobs`` asks for the
    chains' log-probabilities, which cost the engine's front-end time for every token.
    """

    num_chains: int
    greedy: frozenset[str]
    sampled: frozenset[str]
    seed_parts: tuple[str | int, ...]
    constrained: bool = False
    logprobs: bool = False


class SamplingActor:
    """Answers blocks of listings, one row or refusal per listing, and writes what comes out.

    Calls run in threads side by side and share the engine's queue, so that it never runs empty
    while one call waits for its last chain or writes.

    Args:
        make_engine: starts the engine in this process.
        request: which chains to ask for.
        make_rows: makes the rows that come out, of listings and their chains.
        write: writes them.
        report_crash: the stage's :class:`Suspects`; None when nothing is retried.
    """

    def __init__(
        self,
        make_engine: Callable[[], ChainSource],
        request: SamplingRequest,
        make_rows: RowBuilder,
        write: stream.BlockWriter,
        report_crash: CrashReporter | None = None,
    ) -> None:
        self._request = request
        self._make_rows = make_rows
        self._write = write
        self._name = _own_name()
        self._report_crash = report_crash or _nobody
        self._engine = self._started(make_engine)
        self._turns = _Turns()

    def __call__(self, block: pa.Table) -> pa.Table:
        """LISTINGS rows in, descriptions of the files written for them out."""
        return self._write(self.answer(block))

    def answer(self, block: pa.Table) -> stream.BlockResult:
        """Chains for LISTINGS rows; a listing that cannot be asked is refused."""
        listings = block.to_pylist()
        ids = [listing["listing_id"] for listing in listings]
        handling = self._report_crash("begin", self._name, ids)
        problems = [self._problem(listing, handling.refused) for listing in listings]
        refused = [problem for problem in problems if problem is not None]
        asked = [row for row, problem in zip(listings, problems, strict=True) if problem is None]
        together = [row for row in asked if row["listing_id"] not in handling.alone]
        answers: dict[str, list[AnsweredQuery] | Failure] = {}
        if together:
            with self._turns.shared():
                answers |= self._ask(together)
        for listing in asked:
            if listing["listing_id"] in handling.alone:
                answers |= self._ask_alone(listing)
        self._report_crash("end", self._name, ids)
        result = self._outcome(asked, answers, refused)
        if PART not in block.column_names:
            return result
        counts = {"images_skipped": sum(listing["images_skipped"] or 0 for listing in listings)}
        parts = {listing["listing_id"]: listing[PART] for listing in listings}
        return replace(result, counts={**result.counts, **counts}, parts=parts)

    def _started(self, make_engine: Callable[[], ChainSource]) -> ChainSource:
        complaint = self._report_crash("start", self._name, _own_node())
        if complaint is not None:
            raise EngineDiedError(complaint)
        try:
            engine = make_engine()
        except Exception as error:
            if isinstance(error, RaypipeError) and error.exit_code != EXIT_RETRY:
                raise  # another engine would refuse too
            reason = f"{type(error).__name__}: {error}"
            wait_s = self._report_crash("start_failed", self._name, reason)
            if wait_s is None:
                if isinstance(error, RaypipeError):
                    raise
                raise EngineStartError(f"no engine started: {reason}") from error
            time.sleep(wait_s)
            os._exit(1)  # Ray starts the actor anew, on any node
        self._report_crash("started", self._name)
        return engine

    def _ask(self, listings: list[dict[str, Any]]) -> dict[str, list[AnsweredQuery] | Failure]:
        requests = [request for listing in listings for request in self._requests(listing)]
        try:
            made = iter(self._engine.generate(requests))
        except EngineDiedError:
            # The process goes with its engine: Ray starts both anew and repeats the calls.
            os._exit(1)
        return {listing["listing_id"]: self._answers(listing, made) for listing in listings}

    def _ask_alone(self, listing: dict[str, Any]) -> dict[str, list[AnsweredQuery] | Failure]:
        with self._turns.exclusive():
            self._report_crash("ask_alone", self._name, listing["listing_id"])
            answers = self._ask([listing])
            self._report_crash("answered_alone", self._name)
        return answers

    def _problem(self, listing: dict[str, Any], deadly: frozenset[str]) -> QuarantineRow | None:
        if listing.get("refused") is not None:
            return dict(listing["refused"])
        if listing["listing_id"] in deadly:
            detail = "the engine died whenever it was asked, the last time alone"
            return _refusal(listing, ENGINE_CRASH, detail)
        longest = max(listing["queries"], key=lambda query: len(query["prompt"]))
        length = self._engine.num_prompt_tokens(_prompt(listing, longest))
        if length <= self._engine.max_prompt_tokens:
            return None
        detail = f"{length} tokens, the engine takes {self._engine.max_prompt_tokens}"
        return _refusal(listing, PROMPT_TOO_LONG, detail)

    def _requests(self, listing: dict[str, Any]) -> Iterator[Request]:
        """A listing's requests, adjacent so that they share its prefix in the engine's cache."""
        request = self._request
        for query in listing["queries"]:
            prompt = _prompt(listing, query)
            options = tuple(query["options"]) if request.constrained else ()
            if listing["split"] in request.greedy:
                yield Request(prompt, 0, 0, options, request.logprobs)
            if request.num_chains and listing["split"] in request.sampled:
                seed = seeds.derive(*request.seed_parts, listing["listing_id"], query["attribute"])
                yield Request(prompt, request.num_chains, seed, options, request.logprobs)

    def _answers(
        self, listing: dict[str, Any], made: Iterator[list[Chain] | Failure]
    ) -> list[AnsweredQuery] | Failure:
        request, split = self._request, listing["split"]
        sampled = request.num_chains and split in request.sampled
        answers = []
        failure: Failure | None = None
        for _ in listing["queries"]:
            greedy = next(made) if split in request.greedy else []
            chains = next(made) if sampled else []
            if isinstance(greedy, Failure):
                failure = greedy
            elif isinstance(chains, Failure):
                failure = chains
            else:
                answers.append(AnsweredQuery(greedy[0] if greedy else None, chains))
        return failure or answers

    def _outcome(
        self,
        asked: list[dict[str, Any]],
        answers: dict[str, list[AnsweredQuery] | Failure],
        refused: list[QuarantineRow],
    ) -> stream.BlockResult:
        listings, answered = [], []
        for listing in asked:
            answer = answers[listing["listing_id"]]
            if isinstance(answer, Failure):
                refused.append(_refusal(listing, ENGINE_ERROR, answer.detail))
            else:
                listings.append(listing)
                answered.append(answer)
        chains = [chain for queries in answered for query in queries for chain in query.all]
        counts = {
            "queries": sum(len(queries) for queries in answered),
            "chains": len(chains),
            "tokens": sum(len(chain.token_ids) for chain in chains),
        }
        return stream.BlockResult(self._make_rows(listings, answered), refused, counts)


class _Turns:
    """Calls share the engine; a suspect has it alone, and goes first."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._sharing = 0
        self._waiting = 0
        self._alone = False

    @contextmanager
    def shared(self) -> Iterator[None]:
        with self._condition:
            self._condition.wait_for(lambda: not self._alone and not self._waiting)
            self._sharing += 1
        try:
            yield
        finally:
            with self._condition:
                self._sharing -= 1
                self._condition.notify_all()

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        with self._condition:
            self._waiting += 1
            self._condition.wait_for(lambda: not self._alone and not self._sharing)
            self._waiting -= 1
            self._alone = True
        try:
            yield
        finally:
            with self._condition:
                self._alone = False
                self._condition.notify_all()


def _nobody(method: str, *arguments: Any) -> Any:
    """Suspects of a stage in which nothing is ever begun twice."""
    return getattr(CrashTracker(0), method)(*arguments)


def _own_name() -> str:
    """The id of this Ray actor, the same after a restart."""
    import ray

    return str(ray.get_runtime_context().get_actor_id()) if ray.is_initialized() else ""


def _own_node() -> str:
    """The id of the node that this Ray actor is on."""
    import ray

    return str(ray.get_runtime_context().get_node_id()) if ray.is_initialized() else ""


def _refusal(listing: dict[str, Any], reason: QuarantineReason, detail: str) -> QuarantineRow:
    return quarantine_row(listing["listing_id"], "sampling", reason, detail)


def _prompt(listing: dict[str, Any], query: dict[str, Any]) -> Prompt:
    return Prompt(query["prompt"], tuple(listing["images"]), tuple(listing["image_hashes"]))
