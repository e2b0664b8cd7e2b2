"""Asks the endpoint, so many questions at once, and keeps every reply the moment it is there."""

import asyncio
import contextlib
import signal
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raypipe import interruption, progress
from raypipe.annotation.ledger import Ledger, Paid, Purse
from raypipe.annotation.questions import Form, conversation, response_format
from raypipe.chat import ChatServer, NoReply, Reply
from raypipe.config import Config
from raypipe.errors import EndpointError, InputError, RaypipeError

if TYPE_CHECKING:
    from openai import AsyncOpenAI

# So many replies, none of them of use, are enough to see that the next would be none either.
_TRIAL = 20
# A stopped job ends within five seconds.
_WAIT_S = 3.0


@dataclass(frozen=True)
class Question:
    """A query to be asked: ``key`` names its reply, ``photos`` are files of its listing."""

    key: str
    listing_id: str
    vertical: str
    attribute: str
    prompt: str
    options: tuple[str, ...]
    photos: tuple[Path, ...]


class Asker:
    """Asks what the ledger does not hold.

    Args:
        config: the endpoint, the limits and the price of tokens.
        ledger: where replies go.
        purse: knows already what the replies in the ledger cost.
        outcome: what a reply comes to; "ok" for one that can be used.
    """

    def __init__(
        self,
        config: Config,
        ledger: Ledger,
        purse: Purse,
        outcome: Callable[[Question, Paid], str],
    ) -> None:
        self._config = config
        self._ledger = ledger
        self._purse = purse
        self._outcome = outcome
        self._chat = ChatServer(config.annotation)
        self._without_schema: set[str] = set()
        self._total = 0
        self._under_way = 0
        self._stopped: signal.Signals | None = None
        self._error: RaypipeError | None = None
        self.outcomes: Counter[str] = Counter()
        self.failures: dict[str, str] = {}
        """Why a question has no reply: the server's last error."""

    def ask(self, questions: Sequence[Question], total: int) -> None:
        """Ask until all are answered, or a limit of the purse is reached.

        What ends it early leaves no reply that is paid for: those under way are waited for and
        kept. SIGTERM or Ctrl-C gives them a few seconds, a second one none.

        Args:
            questions: what is left to ask.
            total: the questions of which these are left.

        Raises:
            ConfigError: the server does not accept the key.
            EndpointError: more questions failed than ``catalog.max_quarantined`` of the total; the
                account has no money left; no limit can hold because the server counts no tokens.
            InputError: none of the first replies can be used.
        """
        self._total = total
        with progress.reported(lambda: f"{self.outcomes.total():,} of {len(questions):,} answered"):
            try:
                asyncio.run(self._ask(iter(questions), len(questions)))
            finally:
                interruption.listen()  # the loop has let go of the signals
        if self._stopped is not None:
            interruption.stop(self._stopped)
        if self._error is not None:
            raise self._error

    async def _ask(self, questions: Iterator[Question], count: int) -> None:
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
            f"stopping: {self._under_way} replies under way are waited for, {_WAIT_S:.0f} s at "
            "most, since they are paid for; once more to leave them"
        )
        loop = asyncio.get_running_loop()
        for worker in workers:
            loop.call_later(_WAIT_S, worker.cancel)
        interruption.leave_within(number, _WAIT_S + 1)

    @property
    def _is_over(self) -> bool:
        ended = self._stopped is not None or self._error is not None
        return ended or self._purse.reached is not None

    async def _work(self, client: "AsyncOpenAI", questions: Iterator[Question]) -> None:
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

    async def _settle(self, client: "AsyncOpenAI", question: Question) -> None:
        reply, form = await self._answer(client, question)
        if isinstance(reply, NoReply):
            self._fail(question, reply)
            return
        before = self._ledger.replies.get(question.key)
        earlier = (0, 0)
        if before is not None:
            prompt, answer = self._purse.tokens_of(before.reply)
            earlier = (prompt + before.earlier_tokens[0], answer + before.earlier_tokens[1])
        paid = Paid(reply, form, self._config.annotation.max_tokens, earlier)
        # An object store is slow enough to hold up the others.
        await asyncio.shield(asyncio.to_thread(self._ledger.write, question.key, paid))
        self._purse.pay(reply)
        self.outcomes[self._outcome(question, paid)] += 1
        self._check()

    async def _answer(
        self, client: "AsyncOpenAI", question: Question
    ) -> tuple[Reply | NoReply, Form]:
        """In JSON, but where the server rejects that: such as too many allowed values."""
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
        self, client: "AsyncOpenAI", question: Question, form: Form
    ) -> Reply | NoReply:
        images = [photo.read_bytes() for photo in question.photos]
        asked = conversation(question.prompt, images, self._config.model.answer_format, form)
        options: dict[str, Any] = {}
        if form == "json":
            options["response_format"] = response_format(question.options)
        max_tokens = self._config.annotation.max_tokens
        return await self._chat.ask(client, asked, max_tokens=max_tokens, **options)

    def _check(self) -> None:
        """Stop where going on would cost money for nothing, or more than may be spent."""
        if self._purse.is_blind:
            raise EndpointError(
                f"{self._config.annotation.endpoint} does not say how many tokens it took, so no "
                "spending limit can hold: unset annotation.max_total_tokens and "
                "annotation.max_cost to go on without one"
            )
        if self.outcomes.total() == _TRIAL and not self.outcomes["ok"]:
            raise InputError(f"none of the first {_TRIAL} replies {unusable(self.outcomes)}")

    def _fail(self, question: Question, reply: NoReply) -> None:
        self.failures[question.key] = reply.detail
        limit = self._config.catalog.max_quarantined
        if len(self.failures) > limit * self._total:
            raise EndpointError(
                f"{self._config.annotation.endpoint} failed for {len(self.failures)} of "
                f"{self._total} questions, more than catalog.max_quarantined={limit:.1%} allows; "
                f"the last: {reply.detail[:300]}. What was answered is kept, and the same command "
                "asks the rest"
            )


def unusable(outcomes: Counter[str]) -> str:
    """The end of a sentence on replies of which none can be used."""
    counted = ", ".join(f"{count:,} {outcome}" for outcome, count in outcomes.most_common())
    return (
        f"can be used ({counted}). Try a larger annotation.max_tokens (reasoning models think "
        "within it), annotation.structured=never, or another model; every reply is kept in the "
        "run's annotation/replies"
    )
