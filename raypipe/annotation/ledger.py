"""Replies that were paid for, kept as they come, and what they cost.

A reply is one small file in the run, named by what was asked: the model, the prompt and the pixels.
A call that is killed and called again, or that chooses other listings, pays for no question twice.
What is read out of a reply is not kept: a new alias, or another parser, reads it anew.
"""

import hashlib
import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import pyarrow.fs as pafs

from raypipe.annotation.questions import TEMPLATES, Form
from raypipe.artifacts import Run
from raypipe.chat import Reply
from raypipe.config import Config
from raypipe.documents import parse_object, unreadable

_REPLIES = "annotation/replies"
_READERS = 32


@dataclass(frozen=True)
class Paid:
    """A reply and how it was asked for; ``earlier_tokens`` (prompt, answer) went to replies to the
    same question that this one took the place of."""

    reply: Reply
    form: Form
    max_tokens: int
    earlier_tokens: tuple[int, int] = (0, 0)

    def settles(self, max_tokens: int) -> bool:
        """Whether asking again, with this limit, would bring nothing else."""
        return self.reply.finish_reason != "length" or max_tokens <= self.max_tokens


class Ledger:
    """The replies of a run."""

    def __init__(self, run: Run) -> None:
        self._run = run

    @cached_property
    def replies(self) -> dict[str, Paid]:
        """What was there when it was first looked at, and what was written since, by key.

        Raises:
            ArtifactError: a file is corrupt.
        """
        selector = pafs.FileSelector(self._run.path(_REPLIES), recursive=True, allow_not_found=True)
        found = self._run.filesystem.get_file_info(selector)
        keys = [info.base_name[:-5] for info in found if info.base_name.endswith(".json")]
        with ThreadPoolExecutor(_READERS) as threads:
            return dict(zip(keys, threads.map(self._read, keys), strict=True))

    def write(self, key: str, paid: Paid) -> None:
        """Keep a reply. Raises StorageError."""
        self._run.replace(_path(key), json.dumps(asdict(paid)).encode())
        self.replies[key] = paid

    def _read(self, key: str) -> Paid:
        path, remedy = self._run.path(_path(key)), "delete it to ask again"
        values = parse_object(self._run.read(_path(key)) or b"", path, remedy)
        try:
            reply, earlier = Reply(**values.pop("reply")), values.pop("earlier_tokens")
            return Paid(reply, earlier_tokens=(earlier[0], earlier[1]), **values)
        except (ValueError, TypeError, KeyError, IndexError) as error:
            raise unreadable(path, error, remedy) from error


def law(config: Config) -> dict[str, Any]:
    """What is the same in all questions, and says who answers; the server's address is not."""
    return {
        "annotation.endpoint_model": config.annotation.endpoint_model,
        "annotation.structured": config.annotation.structured,
        "model.answer_format": config.model.answer_format,
        "templates": TEMPLATES,
    }


def key_of(config: Config, prompt: str, images: Sequence[bytes]) -> str:
    """The name of a question's reply."""
    seen = [hashlib.sha256(image).hexdigest() for image in images]
    canonical = json.dumps([law(config), prompt, seen], sort_keys=True)
    return hashlib.sha256(canonical.encode()).hexdigest()[:32]


class Purse:
    """Tokens and money that the replies of a run took, and whether more may be spent.

    What is under way when a limit is reached is still paid for: the limit holds to within
    ``annotation.concurrency`` requests. A reply of which the server told no tokens counts as the
    longest that there was. Requests that a server failed are not counted; it told nothing.
    """

    def __init__(self, config: Config, replies: Sequence[Paid] = ()) -> None:
        self.config = config
        self.prompt_tokens = 0
        self.answer_tokens = 0
        self.replies = 0
        self.uncounted = 0
        self._longest_prompt = 0
        for paid in replies:
            self.pay(paid.reply)
            self.prompt_tokens += paid.earlier_tokens[0]
            self.answer_tokens += paid.earlier_tokens[1]

    def pay(self, reply: Reply) -> None:
        """Count a reply."""
        self.replies += 1
        self.uncounted += reply.prompt_tokens is None or reply.answer_tokens is None
        self._longest_prompt = max(self._longest_prompt, reply.prompt_tokens or 0)
        prompt, answer = self.tokens_of(reply)
        self.prompt_tokens += prompt
        self.answer_tokens += answer

    def tokens_of(self, reply: Reply) -> tuple[int, int]:
        """Tokens of prompt and answer, as they are counted here."""
        limit = self.config.annotation.max_tokens
        return (
            self._longest_prompt if reply.prompt_tokens is None else reply.prompt_tokens,
            limit if reply.answer_tokens is None else reply.answer_tokens,
        )

    @property
    def is_blind(self) -> bool:
        """Whether there is a limit, and the server never said how many tokens it took."""
        annotation = self.config.annotation
        limited = annotation.max_total_tokens is not None or annotation.max_cost is not None
        return limited and self.replies > 0 and self.uncounted == self.replies

    @property
    def cost(self) -> float:
        """In ``rates.currency``."""
        rates = self.config.rates
        prompt = self.prompt_tokens * rates.million_prompt_tokens
        return (prompt + self.answer_tokens * rates.million_answer_tokens) / 1_000_000

    @property
    def reached(self) -> str | None:
        """The limit that is reached, in words; None while there is none."""
        annotation, rates = self.config.annotation, self.config.rates
        tokens = self.prompt_tokens + self.answer_tokens
        if annotation.max_total_tokens is not None and tokens >= annotation.max_total_tokens:
            return f"annotation.max_total_tokens={annotation.max_total_tokens:,} ({tokens:,} taken)"
        if annotation.max_cost is not None and self.cost >= annotation.max_cost:
            spent = f"{self.cost:.4g} {rates.currency} spent"
            return f"annotation.max_cost={annotation.max_cost:g} {rates.currency} ({spent})"
        return None


def _path(key: str) -> str:
    return f"{_REPLIES}/{key[:2]}/{key}.json"
