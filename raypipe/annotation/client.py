"""Sends questions to the endpoint concurrently and stores every reply as soon as it arrives."""

import asyncio
import contextlib
import signal
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raypipe.annotation.ledger import Budget, CachedReply, Ledger
from raypipe.annotation.questions import Form, conversation, response_format
from raypipe.attributes.parser import OK
from raypipe.config import Config
from raypipe.errors import EndpointError, InputError, RaypipeError
from raypipe.runtime import interruption, progress
from raypipe.runtime.openai_client import ChatServer, NoReply, Reply
from raypipe.store.paths import REPLIES

if TYPE_CHECKING:
    from openai import AsyncOpenAI

# Stop when none of the first replies is usable.
_TRIAL = 20
# A stopped job must end within five seconds.
_WAIT_S = 3.0


@dataclass(frozen=True)
class AnnotationRequest:
    """A query to send: ``key`` names its reply, ``photos`` are files of its listing."""

    key: str
    listing_id: str
    vertical: str
    attribute: str
    prompt: str
    options: tuple[str, ...]
    photos: tuple[Path, ...]


class AnnotationClient:
    """Sends the questions that the ledger has no reply to.

    Args:
        config: the endpoint, the limits and the price of tokens.
        ledger: where replies are stored.
        budget: already charged with the replies in the ledger.
        reason: classifies a reply; "ok" if it can be used.
    """

    def __init__(
        self,
        config: Config,
        ledger: Ledger,
        budget: Budget,
        reason: Callable[[AnnotationRequest, CachedReply], str],
    ) -> None:
        self._config = config
        self._ledger = ledger
        self._budget = budget
        self._reason_of = reason
        self._chat = ChatServer(config.annotation)
        self._without_schema: set[str] = set()
        self._total = 0
        self._under_way = 0
        self._stopped: signal.Signals | None = None
        self._error: RaypipeError | None = None
        self.reasons: Counter[str] = Counter()
        self.failures: dict[str, str] = {}
        """The server's last error, by key of the unanswered question."""

    def ask(self, questions: Sequence[AnnotationRequest], total: int) -> None:
        """Ask until all are answered, or a limit of the budget is reached.

        Requests in flight are paid for, so on an early end their replies are awaited and stored.
        After SIGTERM or Ctrl-C the wait is a few seconds; a second signal ends it at once.

        Args:
            questions: the unanswered questions.
            total: the number of all questions, answered ones included.

        Raises:
            ConfigError: the server does not accept the key.
            EndpointError: more questions failed than ``catalog.max_quarantined`` of the total; the
                account has no money left; or a limit is set and the server reports no usage.
            InputError: none of the first replies can be used.
        """
        self._total = total
        with progress.reported(lambda: f"{self.reasons.total():,} of {len(questions):,} answered"):
            try:
                asyncio.run(self._ask(iter(questions), len(questions)))
            finally:
                interruption.listen()  # the event loop has removed the signal handlers
        if self._stopped is not None:
            interruption.stop(self._stopped)
        if self._error is not None:
            raise self._error

    async def _ask(self, questions: Iterator[AnnotationRequest], count: int) -> None:
        async with self._chat.client() as client:
            num_workers = min(count, self._config.annotation.concurrency)
            workers = [
                asyncio.ensure_future(self._work(client, questions)) for _ in range(num_workers)
            ]
            loop = asyncio.get_running_loop()
            for number in (signal.SIGINT, signal.SIGTERM):
                with contextlib.suppress(ValueError, RuntimeError):  # outside of the main thread
                    loop.add_signal_handler(number, self._stop, number, workers)
            try:
                await asyncio.gather(*workers)
            except asyncio.CancelledError:
                if self._stopped is None:
                    raise
            finally:
                for worker in workers:
                    worker.cancel()

    def _stop(self, number: signal.Signals, workers: Sequence["asyncio.Future[None]"]) -> None:
        if self._stopped is not None:
            for worker in workers:
                worker.cancel()
            return
        self._stopped = number
        progress.logger.info(
            f"stopping: waiting up to {_WAIT_S:.0f} s for {self._under_way} replies that are paid "
            "for; a second signal drops them"
        )
        loop = asyncio.get_running_loop()
        for worker in workers:
            loop.call_later(_WAIT_S, worker.cancel)
        interruption.leave_within(number, _WAIT_S + 1)

    @property
    def _is_over(self) -> bool:
        ended = self._stopped is not None or self._error is not None
        return ended or self._budget.reached is not None

    async def _work(self, client: "AsyncOpenAI", questions: Iterator[AnnotationRequest]) -> None:
        while not self._is_over:
            question = next(questions, None)  # shared: each worker takes the next one
            if question is None:
                return
            self._under_way += 1
            try:
                await self._settle(client, question)
            except RaypipeError as error:
                self._error = self._error or error
            finally:
                self._under_way -= 1

    async def _settle(self, client: "AsyncOpenAI", question: AnnotationRequest) -> None:
        reply, form = await self._answer(client, question)
        if isinstance(reply, NoReply):
            self._fail(question, reply)
            return
        before = self._ledger.replies.get(question.key)
        earlier = (0, 0)
        if before is not None:
            prompt, answer = self._budget.tokens_of(before.reply)
            earlier = (prompt + before.earlier_tokens[0], answer + before.earlier_tokens[1])
        cached = CachedReply(reply, form, self._config.annotation.max_tokens, earlier)
        # An object store is slow: do not block the event loop.
        await asyncio.shield(asyncio.to_thread(self._ledger.write, question.key, cached))
        self._budget.charge(reply)
        self.reasons[self._reason_of(question, cached)] += 1
        self._check()

    async def _answer(
        self, client: "AsyncOpenAI", question: AnnotationRequest
    ) -> tuple[Reply | NoReply, Form]:
        """Ask for JSON, or for tags where the server rejects the schema (too many values, say)."""
        if self._config.annotation.structured == "never" or question.prompt in self._without_schema:
            return await self._ask_one(client, question, "tags"), "tags"
        reply = await self._ask_one(client, question, "json")
        if isinstance(reply, NoReply) and reply.is_rejected:
            plain = await self._ask_one(client, question, "tags")
            if isinstance(plain, Reply):
                self._without_schema.add(question.prompt)
            return plain, "tags"
        return reply, "json"

    async def _ask_one(
        self, client: "AsyncOpenAI", question: AnnotationRequest, form: Form
    ) -> Reply | NoReply:
        images = [photo.read_bytes() for photo in question.photos]
        chat = conversation(question.prompt, images, self._config.model.answer_format, form)
        options: dict[str, Any] = {}
        if form == "json":
            options["response_format"] = response_format(question.options)
        max_tokens = self._config.annotation.max_tokens
        return await self._chat.ask(client, chat, max_tokens=max_tokens, **options)

    def _check(self) -> None:
        """Stop where further requests would be wasted or exceed the budget."""
        if self._budget.is_blind:
            raise EndpointError(
                f"{self._config.annotation.endpoint} reports no token usage, so no spending limit "
                "can hold: unset annotation.max_total_tokens and annotation.max_cost to go on "
                "without one"
            )
        if self.reasons.total() == _TRIAL and not self.reasons[OK]:
            raise InputError(f"none of the first {_TRIAL} replies {unusable(self.reasons)}")

    def _fail(self, question: AnnotationRequest, reply: NoReply) -> None:
        self.failures[question.key] = reply.detail
        limit = self._config.catalog.max_quarantined
        if len(self.failures) > limit * self._total:
            raise EndpointError(
                f"{self._config.annotation.endpoint} failed for {len(self.failures)} of "
                f"{self._total} questions, more than catalog.max_quarantined={limit:.1%} allows; "
                f"the last: {reply.detail[:300]}. Replies so far are kept; the same command asks "
                "the rest"
            )


def unusable(reasons: Counter[str]) -> str:
    """The end of the error message when no reply can be used."""
    counted = ", ".join(f"{count:,} {reason}" for reason, count in reasons.most_common())
    return (
        f"can be used ({counted}). Try a larger annotation.max_tokens (reasoning models think "
        "within it), annotation.structured=never, or another model; every reply is kept in the "
        f"run's {REPLIES}"
    )
