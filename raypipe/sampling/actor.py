"""A Ray Data actor that owns one engine and turns listings into chains."""

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import pyarrow as pa

from raypipe import seeds, stream
from raypipe.errors import EngineDiedError
from raypipe.sampling.chains import Answered, Chain
from raypipe.sampling.engine import Failure, Prompt, Request
from raypipe.sampling.suspects import Suspects

Present = Callable[[Sequence[dict[str, Any]], Sequence[Sequence[Answered]]], pa.Table]
Refusal = dict[str, object]


class ChainSource(Protocol):
    """What the actor needs of an engine; several threads call it at once."""

    max_prompt_tokens: int

    def generate(self, requests: list[Request]) -> list[list[Chain] | Failure]: ...

    def num_prompt_tokens(self, prompt: Prompt) -> int: ...


class Blame(Protocol):
    """The suspects, from wherever they live."""

    def __call__(self, method: str, *arguments: Any) -> Any: ...


@dataclass(frozen=True)
class Draw:
    """Which chains a query gets, by the split of its listing.

    ``seed_parts`` is what the seeds depend on beside listing and attribute; ``constrained`` lets
    the engine write nothing but the answer format with an allowed value.
    """

    num_chains: int
    greedy: frozenset[str]
    sampled: frozenset[str]
    seed_parts: tuple[str | int, ...]
    constrained: bool = False


class SamplingActor:
    """Answers blocks of listings, one row or refusal per listing, and writes what comes out.

    Calls run in threads side by side and share the engine's queue, so that it never runs empty
    while one call waits for its last chain or writes.

    Args:
        make_engine: starts the engine in this process.
        draw: which chains to ask for.
        present: makes the rows that come out, of listings and their chains.
        write: writes them.
        blame: the stage's :class:`Suspects`; None when nothing is retried.
    """

    def __init__(
        self,
        make_engine: Callable[[], ChainSource],
        draw: Draw,
        present: Present,
        write: stream.Write,
        blame: Blame | None = None,
    ) -> None:
        self._draw = draw
        self._present = present
        self._write = write
        self._name = _own_name()
        self._blame = blame or _nobody
        complaint = self._blame("start", self._name)
        if complaint is not None:
            raise EngineDiedError(complaint)
        self._engine = make_engine()
        self._turns = _Turns()

    def __call__(self, block: pa.Table) -> pa.Table:
        """LISTINGS rows in, the receipts of what came of them out."""
        return self._write(self.answer(block))

    def answer(self, block: pa.Table) -> stream.Outcome:
        """Chains for LISTINGS rows; a listing that cannot be asked is refused."""
        listings = block.to_pylist()
        ids = [listing["listing_id"] for listing in listings]
        treatment = self._blame("begin", ids)
        refused: list[Refusal] = []
        asked = []
        for listing in listings:
            problem = self._problem(listing, treatment.refused)
            if problem is None:
                asked.append(listing)
            else:
                refused.append(problem)
        together = [row for row in asked if row["listing_id"] not in treatment.alone]
        answers: dict[str, list[Answered] | Failure] = {}
        if together:
            with self._turns.shared():
                answers |= self._ask(together)
        for listing in asked:
            if listing["listing_id"] in treatment.alone:
                answers |= self._ask_alone(listing)
        self._blame("end", self._name, ids)
        return self._outcome(asked, answers, refused)

    def _ask(self, listings: list[dict[str, Any]]) -> dict[str, list[Answered] | Failure]:
        requests = [request for listing in listings for request in self._requests(listing)]
        try:
            made = iter(self._engine.generate(requests))
        except EngineDiedError:
            # The process goes with its engine: Ray starts both anew and repeats the calls.
            os._exit(1)
        return {listing["listing_id"]: self._answers(listing, made) for listing in listings}

    def _ask_alone(self, listing: dict[str, Any]) -> dict[str, list[Answered] | Failure]:
        with self._turns.exclusive():
            self._blame("isolate", self._name, listing["listing_id"])
            answers = self._ask([listing])
            self._blame("cleared", self._name)
        return answers

    def _problem(self, listing: dict[str, Any], deadly: frozenset[str]) -> Refusal | None:
        if listing["listing_id"] in deadly:
            detail = "the engine died whenever it was asked, the last time alone"
            return _refusal(listing, "engine_crash", detail)
        longest = max(listing["queries"], key=lambda query: len(query["prompt"]))
        length = self._engine.num_prompt_tokens(_prompt(listing, longest))
        if length <= self._engine.max_prompt_tokens:
            return None
        detail = f"{length} tokens, the engine takes {self._engine.max_prompt_tokens}"
        return _refusal(listing, "prompt_too_long", detail)

    def _requests(self, listing: dict[str, Any]) -> Iterator[Request]:
        """A listing's requests, adjacent so that they share its prefix in the engine's cache."""
        draw = self._draw
        for query in listing["queries"]:
            prompt = _prompt(listing, query)
            options = tuple(query["options"]) if draw.constrained else ()
            if listing["split"] in draw.greedy:
                yield Request(prompt, 0, 0, options)
            if draw.num_chains and listing["split"] in draw.sampled:
                seed = seeds.derive(*draw.seed_parts, listing["listing_id"], query["attribute"])
                yield Request(prompt, draw.num_chains, seed, options)

    def _answers(
        self, listing: dict[str, Any], made: Iterator[list[Chain] | Failure]
    ) -> list[Answered] | Failure:
        draw, split = self._draw, listing["split"]
        sampled = draw.num_chains and split in draw.sampled
        answers = []
        failure: Failure | None = None
        for _ in listing["queries"]:
            greedy = next(made) if split in draw.greedy else []
            chains = next(made) if sampled else []
            if isinstance(greedy, Failure):
                failure = greedy
            elif isinstance(chains, Failure):
                failure = chains
            else:
                answers.append(Answered(greedy[0] if greedy else None, chains))
        return failure or answers

    def _outcome(
        self,
        asked: list[dict[str, Any]],
        answers: dict[str, list[Answered] | Failure],
        refused: list[Refusal],
    ) -> stream.Outcome:
        listings, answered = [], []
        for listing in asked:
            answer = answers[listing["listing_id"]]
            if isinstance(answer, Failure):
                refused.append(_refusal(listing, "engine_error", answer.detail[:500]))
            else:
                listings.append(listing)
                answered.append(answer)
        chains = [chain for queries in answered for query in queries for chain in query.all]
        counts = {
            "queries": sum(len(queries) for queries in answered),
            "chains": len(chains),
            "tokens": sum(len(chain.token_ids) for chain in chains),
        }
        return stream.Outcome(self._present(listings, answered), refused, counts)


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
    return getattr(Suspects(0), method)(*arguments)


def _own_name() -> str:
    """The id of this Ray actor, the same after a restart."""
    import ray

    return str(ray.get_runtime_context().get_actor_id()) if ray.is_initialized() else ""


def _refusal(listing: dict[str, Any], reason: str, detail: str) -> Refusal:
    return {
        "id": listing["listing_id"],
        "stage": "sampling",
        "reason": reason,
        "detail": detail,
    }


def _prompt(listing: dict[str, Any], query: dict[str, Any]) -> Prompt:
    return Prompt(query["prompt"], tuple(listing["images"]), tuple(listing["image_hashes"]))
