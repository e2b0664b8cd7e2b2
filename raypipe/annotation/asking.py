"""Asks the endpoint, so many questions at once, and keeps every reply the moment it is there."""

import asyncio
import contextlib
import signal
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from raypipe.annotation.ledger import Ledger, Paid, Purse
from raypipe.annotation.questions import Form, conversation, response_format
from raypipe.chat import ChatServer, NoReply, Reply
from raypipe.config import Config
from raypipe.errors import EndpointError
from raypipe.progress import reported

if TYPE_CHECKING:
    from openai import AsyncOpenAI


@dataclass(frozen=True)
class Question:
    """A query to be asked: ``key`` names its reply."""

    key: str
    listing_id: str
    attribute: str
    prompt: str
    options: tuple[str, ...]
    images: tuple[bytes, ...] = field(repr=False)


class Asker:
    """Asks what the ledger does not hold.

    Args:
        config: the endpoint, the limits and the price of tokens.
        ledger: where replies go.
        purse: knows already what the replies in the ledger cost.
    """

    def __init__(self, config: Config, ledger: Ledger, purse: Purse) -> None:
        self._config = config
        self._ledger = ledger
        self._purse = purse
        self._chat = ChatServer(config.annotation)
        self._form: Form = "json" if config.annotation.structured == "auto" else "tags"
        self._stopped: signal.Signals | None = None
        self.replies: dict[str, Paid] = {}
        self.failures: dict[str, str] = {}
        """Why a question has no reply: the server's last error."""

    def ask(self, questions: Sequence[Question]) -> None:
        """Ask until all are answered, or a limit of the purse is reached.

        SIGTERM and Ctrl-C end it as soon as the replies under way, which are paid for, are kept.

        Raises:
            ConfigError: the server does not accept the key.
            EndpointError: more questions failed than ``catalog.max_quarantined`` allows.
        """
        total = len(questions)
        with reported(lambda: f"{len(self.replies):,} of {total:,} questions answered"):
            asyncio.run(self._ask(iter(questions), total))
        if self._stopped is not None:
            sys.exit(128 + self._stopped)

    async def _ask(self, questions: Iterator[Question], total: int) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            with contextlib.suppress(ValueError, RuntimeError):  # outside of the main thread
                loop.add_signal_handler(number, self._stop, number)
        async with self._chat.client() as client:
            num_workers = min(total, self._config.annotation.concurrency)
            workers = [
                asyncio.ensure_future(self._work(client, questions, total))
                for _ in range(num_workers)
            ]
            try:
                await asyncio.gather(*workers)
            finally:
                for worker in workers:
                    worker.cancel()

    def _stop(self, number: signal.Signals) -> None:
        self._stopped = number

    async def _work(self, client: "AsyncOpenAI", questions: Iterator[Question], total: int) -> None:
        for question in questions:  # shared: each worker takes the next one
            if self._stopped is not None or self._purse.reached is not None:
                return
            reply, form = await self._answer(client, question)
            if isinstance(reply, Reply):
                paid = Paid(reply, form)
                self._ledger.write(question.key, paid)
                self.replies[question.key] = paid
                self._purse.pay(reply)
            else:
                self._fail(question, reply, total)

    async def _answer(
        self, client: "AsyncOpenAI", question: Question
    ) -> tuple[Reply | NoReply, Form]:
        """A server that will have nothing to do with schemas is asked in tags from then on."""
        form = self._form
        reply = await self._ask_one(client, question, form)
        if form == "json" and isinstance(reply, NoReply) and reply.is_rejected:
            form = "tags"
            reply = await self._ask_one(client, question, form)
            if isinstance(reply, Reply):
                self._form = form
        return reply, form

    async def _ask_one(
        self, client: "AsyncOpenAI", question: Question, form: Form
    ) -> Reply | NoReply:
        asked = conversation(
            question.prompt, question.images, self._config.model.answer_format, form
        )
        options: dict[str, Any] = {}
        if form == "json":
            options["response_format"] = response_format(question.options)
        max_tokens = self._config.annotation.max_tokens
        return await self._chat.ask(client, asked, max_tokens=max_tokens, **options)

    def _fail(self, question: Question, reply: NoReply, total: int) -> None:
        self.failures[question.key] = reply.detail
        limit = self._config.catalog.max_quarantined
        if len(self.failures) > limit * total:
            raise EndpointError(
                f"{self._config.annotation.endpoint} failed for {len(self.failures)} of {total} "
                f"questions, more than catalog.max_quarantined={limit:.1%} allows; the last: "
                f"{reply.detail[:300]}. What was answered is kept, and the same command asks the "
                "rest"
            )
