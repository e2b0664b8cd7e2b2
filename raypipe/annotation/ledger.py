"""Replies that were paid for, kept as they come, and what they cost.

A reply is one small file in the run, named by what was asked: the server, the model, the prompt
and the pixels. A call that is killed and called again, or that chooses other listings, pays for no
question twice.
"""

import hashlib
import json
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from typing import Any

from raypipe.annotation.questions import VERSIONS, Form
from raypipe.artifacts import Run
from raypipe.chat import Reply
from raypipe.config import Config
from raypipe.errors import ArtifactError, EndpointError

_READERS = 32


@dataclass(frozen=True)
class Paid:
    """A stored reply, and the form in which it was asked for."""

    reply: Reply
    form: Form


class Ledger:
    """The replies of a run."""

    def __init__(self, run: Run) -> None:
        self._run = run

    def read(self, keys: Iterable[str]) -> dict[str, Paid]:
        """The replies among these keys that are there, read side by side.

        Raises:
            ArtifactError: a file is corrupt.
        """
        wanted = list(keys)
        with ThreadPoolExecutor(_READERS) as threads:
            found = threads.map(self._read, wanted)
            return {key: paid for key, paid in zip(wanted, found, strict=True) if paid is not None}

    def write(self, key: str, paid: Paid) -> None:
        """Keep a reply. Raises StorageError."""
        self._run.create(_path(key), json.dumps(asdict(paid)).encode())

    def _read(self, key: str) -> Paid | None:
        content = self._run.read(_path(key))
        if content is None:
            return None
        try:
            values = json.loads(content)
            return Paid(Reply(**values["reply"]), values["form"])
        except (ValueError, TypeError, KeyError) as error:
            path = self._run.path(_path(key))
            raise ArtifactError(f"{path} is corrupt; delete it to ask again: {error}") from error


def law(config: Config) -> dict[str, Any]:
    """What a reply depends on beside the listing, for keys and fingerprints."""
    annotation = config.annotation
    return {
        "annotation.endpoint": annotation.endpoint,
        "annotation.endpoint_model": annotation.endpoint_model,
        "annotation.structured": annotation.structured,
        "annotation.max_tokens": annotation.max_tokens,
        "model.answer_format": config.model.answer_format,
        "templates": VERSIONS,
    }


def key_of(config: Config, prompt: str, images: Sequence[bytes]) -> str:
    """The name of a question's reply."""
    seen = [hashlib.sha256(image).hexdigest() for image in images]
    canonical = json.dumps([law(config), prompt, seen], sort_keys=True)
    return hashlib.sha256(canonical.encode()).hexdigest()[:32]


@dataclass
class Purse:
    """Tokens and money spent, and whether more may be.

    What is under way when a limit is reached is still paid for: the limit holds to within
    ``annotation.concurrency`` requests. Requests that a server failed are not counted; it told no
    tokens.
    """

    config: Config
    prompt_tokens: int = 0
    answer_tokens: int = 0
    replies: int = 0
    uncounted: int = field(default=0)
    """Replies of which the server told no tokens."""

    def pay(self, reply: Reply) -> None:
        """Count a reply.

        Raises:
            EndpointError: there is a limit, and the server does not count tokens.
        """
        self.replies += 1
        if reply.prompt_tokens is None or reply.answer_tokens is None:
            self.uncounted += 1
            if self._limits():
                raise EndpointError(
                    f"{self.config.annotation.endpoint} does not say how many tokens it took, so "
                    "no spending limit can hold: unset annotation.max_total_tokens and "
                    "annotation.max_cost to go on without one"
                )
        self.prompt_tokens += reply.prompt_tokens or 0
        self.answer_tokens += reply.answer_tokens or 0

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

    def _limits(self) -> bool:
        annotation = self.config.annotation
        return annotation.max_total_tokens is not None or annotation.max_cost is not None


def _path(key: str) -> str:
    return f"annotation/replies/{key[:2]}/{key}.json"
