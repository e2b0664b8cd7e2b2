"""Replies that are paid for, stored as they arrive, and their cost.

A reply is one small file in the run, keyed by a hash of the model, the prompt and the pixels. A
command that is killed and restarted, or that chooses other listings, pays for no question twice.
Only the raw reply is stored: a new alias or parser applies to old replies too.
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
from raypipe.config import Config
from raypipe.runtime.openai_client import Reply
from raypipe.store.artifacts import Run
from raypipe.store.documents import parse_object, unreadable_document
from raypipe.store.paths import REPLIES

_READERS = 32


@dataclass(frozen=True)
class CachedReply:
    """A reply and its request's settings; ``earlier_tokens`` (prompt, answer) were spent on
    replies to the same question that this one replaces."""

    reply: Reply
    form: Form
    max_tokens: int
    earlier_tokens: tuple[int, int] = (0, 0)

    def is_final(self, max_tokens: int) -> bool:
        """Whether asking again with this limit would give the same reply."""
        return self.reply.finish_reason != "length" or max_tokens <= self.max_tokens


class Ledger:
    """The replies of a run."""

    def __init__(self, run: Run) -> None:
        self._run = run

    @cached_property
    def replies(self) -> dict[str, CachedReply]:
        """Replies by key: those found at the first access, and those written since.

        Raises:
            ArtifactError: a file is corrupt.
        """
        selector = pafs.FileSelector(self._run.path(REPLIES), recursive=True, allow_not_found=True)
        found = self._run.filesystem.get_file_info(selector)
        keys = [info.base_name[:-5] for info in found if info.base_name.endswith(".json")]
        with ThreadPoolExecutor(_READERS) as threads:
            return dict(zip(keys, threads.map(self._read, keys), strict=True))

    def write(self, key: str, cached: CachedReply) -> None:
        """Store a reply. Raises StorageError."""
        self._run.replace(_path(key), json.dumps(asdict(cached)).encode())
        self.replies[key] = cached

    def _read(self, key: str) -> CachedReply:
        path, remedy = self._run.path(_path(key)), "delete it to ask again"
        values = parse_object(self._run.read(_path(key)) or b"", path, remedy)
        try:
            reply, earlier = Reply(**values.pop("reply")), values.pop("earlier_tokens")
            return CachedReply(reply, earlier_tokens=(earlier[0], earlier[1]), **values)
        except (ValueError, TypeError, KeyError, IndexError) as error:
            raise unreadable_document(path, error, remedy) from error


def recipe(config: Config) -> dict[str, Any]:
    """What all questions share and what changes the reply; not the server's address."""
    return config.fingerprint_keys("annotation") | {"templates": TEMPLATES}


def key_of(config: Config, prompt: str, images: Sequence[bytes]) -> str:
    """The key of a question's reply."""
    seen = [hashlib.sha256(image).hexdigest() for image in images]
    canonical = json.dumps([recipe(config), prompt, seen], sort_keys=True)
    return hashlib.sha256(canonical.encode()).hexdigest()[:32]


class Budget:
    """Tokens and money spent on the replies of a run, and whether more may be spent.

    Requests in flight when a limit is reached are still paid for: the limit holds to within
    ``annotation.concurrency`` requests. Replies without usage count as the longest seen so far.
    Failed requests are not counted.
    """

    def __init__(self, config: Config, replies: Sequence[CachedReply] = ()) -> None:
        self.config = config
        self.prompt_tokens = 0
        self.answer_tokens = 0
        self.replies = 0
        self.uncounted = 0
        self._longest_prompt = 0
        for cached in replies:
            self.charge(cached.reply)
            self.prompt_tokens += cached.earlier_tokens[0]
            self.answer_tokens += cached.earlier_tokens[1]

    def charge(self, reply: Reply) -> None:
        """Count a reply."""
        self.replies += 1
        self.uncounted += reply.prompt_tokens is None or reply.answer_tokens is None
        self._longest_prompt = max(self._longest_prompt, reply.prompt_tokens or 0)
        prompt, answer = self.tokens_of(reply)
        self.prompt_tokens += prompt
        self.answer_tokens += answer

    def tokens_of(self, reply: Reply) -> tuple[int, int]:
        """Prompt and answer tokens to charge for a reply."""
        limit = self.config.annotation.max_tokens
        return (
            self._longest_prompt if reply.prompt_tokens is None else reply.prompt_tokens,
            limit if reply.answer_tokens is None else reply.answer_tokens,
        )

    @property
    def is_blind(self) -> bool:
        """Whether a limit is set and the server has reported no usage."""
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
        """The limit that is reached, for a message; None while none is."""
        annotation, rates = self.config.annotation, self.config.rates
        tokens = self.prompt_tokens + self.answer_tokens
        if annotation.max_total_tokens is not None and tokens >= annotation.max_total_tokens:
            return f"annotation.max_total_tokens={annotation.max_total_tokens:,} ({tokens:,} used)"
        if annotation.max_cost is not None and self.cost >= annotation.max_cost:
            spent = f"{self.cost:.4g} {rates.currency} spent"
            return f"annotation.max_cost={annotation.max_cost:g} {rates.currency} ({spent})"
        return None


def _path(key: str) -> str:
    return f"{REPLIES}/{key[:2]}/{key}.json"
