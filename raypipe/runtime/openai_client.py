"""Client of an OpenAI-compatible chat-completions server, for requests with images.

The OpenAI client retries when a server is busy, broken or silent, with ``Retry-After`` or
exponential backoff; here only bodies that are not chat completions are retried. The API key comes
from the configured environment variable, is sent to that server only, and is never written, even
when the server echoes it.
"""

import asyncio
import base64
import contextlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, Field, ValidationError

from raypipe.config import EndpointConfig
from raypipe.errors import ConfigError, EndpointError
from raypipe.security.secrets import redacted, spellings

if TYPE_CHECKING:
    from openai import APIError, APIStatusError, AsyncOpenAI

# Parameters that reasoning models lack, or call by another name.
_DISPENSABLE = frozenset({"max_tokens", "temperature"})
# Error codes of a content filter.
_POLICY = frozenset(
    {"content_filter", "content_policy_violation", "invalid_prompt", "moderation_blocked"}
)
# An unreadable answer may have been paid for.
_READINGS = 3
_MOST_TOKENS = 1 << 40
_LONGEST_DETAIL = 2000
_LONGEST_REASON = 64


class _Message(BaseModel):
    content: str | None = None
    refusal: str | None = None


class _Choice(BaseModel):
    message: _Message
    finish_reason: str | None = None


class _Usage(BaseModel):
    """Token counts that costs are computed from: a negative one must not lower the spending."""

    prompt_tokens: int | None = Field(None, ge=0, le=_MOST_TOKENS)
    completion_tokens: int | None = Field(None, ge=0, le=_MOST_TOKENS)


class _Completion(BaseModel):
    """The used fields of an answer; the client itself accepts any JSON."""

    choices: list[_Choice]
    usage: _Usage | None = None


@dataclass(frozen=True)
class Reply:
    """A server's answer. ``refusal`` is its text of a refusal; tokens are None without usage."""

    text: str
    finish_reason: str
    refusal: str | None
    prompt_tokens: int | None
    answer_tokens: int | None


@dataclass(frozen=True)
class NoReply:
    """A request that failed for good. ``is_rejected``: the server rejects it, and a retry is
    useless; ``option`` is the unsupported parameter, if the server names it."""

    detail: str
    is_rejected: bool
    option: str | None = None


class ChatServer:
    """Sends requests, up to ``concurrency`` at once.

    Raises:
        ConfigError: the value of the key's environment variable cannot be a key.
    """

    def __init__(self, config: EndpointConfig) -> None:
        self._config = config
        self._key = _key(config)
        self._room = asyncio.Semaphore(config.concurrency)
        self._unknown: set[str] = set()

    def client(self) -> "AsyncOpenAI":
        """An OpenAI client for the server, to be closed (``async with``)."""
        from openai import AsyncOpenAI, DefaultAsyncHttpxClient

        key = self._key or "none"  # the client requires one; a server without keys accepts any
        return AsyncOpenAI(
            base_url=self._config.endpoint,
            api_key=key,
            max_retries=self._config.max_attempts - 1,
            timeout=self._config.timeout_s,
            http_client=DefaultAsyncHttpxClient(
                follow_redirects=False,
                # No proxy for this machine: it could read the requests.
                trust_env=not self._config.is_on_loopback,
                event_hooks={"request": [_Headers(key).restrict]},
            ),
        )

    async def ask(
        self,
        client: "AsyncOpenAI",
        conversation: Sequence[Any],
        *,
        max_tokens: int,
        **options: Any,
    ) -> Reply | NoReply:
        """One answer, greedy if the model accepts a temperature (some reasoning models do not).

        Args:
            client: from :meth:`client`.
            conversation: messages from :func:`with_images`.
            max_tokens: limit of the answer.
            options: other request parameters, such as ``response_format``.

        Raises:
            ConfigError: the server does not accept the key.
            EndpointError: the account has no money left.
        """
        while True:
            sent = options | self._options(max_tokens)
            reply = await self._persist(client, conversation, sent)
            if not isinstance(reply, NoReply) or reply.option not in sent.keys() & _DISPENSABLE:
                return reply
            self._unknown.add(str(reply.option))

    def _options(self, max_tokens: int) -> dict[str, Any]:
        limit = "max_completion_tokens" if "max_tokens" in self._unknown else "max_tokens"
        greedy = {} if "temperature" in self._unknown else {"temperature": 0}
        return {limit: max_tokens} | greedy

    async def _persist(
        self, client: "AsyncOpenAI", conversation: Sequence[Any], options: Mapping[str, Any]
    ) -> Reply | NoReply:
        """Retry a few times when the body is not a completion, such as a proxy's page or half an
        answer; the client checks status codes only."""
        for attempt in range(min(_READINGS, self._config.max_attempts)):
            await asyncio.sleep(0 if attempt == 0 else 2.0 ** (attempt - 2))
            with contextlib.suppress(ValidationError):
                return await self._try(client, conversation, options)
        detail = "the server answered with something else than a chat completion"
        return NoReply(detail, is_rejected=False)

    async def _try(
        self, client: "AsyncOpenAI", conversation: Sequence[Any], options: Mapping[str, Any]
    ) -> Reply | NoReply:
        import openai

        try:
            async with self._room:
                response = await client.chat.completions.with_raw_response.create(
                    model=str(self._config.endpoint_model),
                    messages=list(conversation),
                    **options,
                )
        except (openai.AuthenticationError, openai.PermissionDeniedError) as error:
            raise self._refused(error) from None
        except openai.APIStatusError as error:
            if 300 <= error.status_code < 400:
                raise ConfigError(
                    f"{self._config.endpoint} redirects elsewhere (status {error.status_code}), "
                    "where no key is sent: name the address that answers"
                ) from None
            return self._failed(error)
        except openai.APIError as error:
            return self._failed(error)
        return self._reply(_Completion.model_validate_json(response.http_response.text))

    def _failed(self, error: "APIError") -> Reply | NoReply:
        import openai

        if error.code == "insufficient_quota":
            raise EndpointError(f"{self._config.endpoint}: the account's quota is used") from None
        cause = f" ({error.__cause__})" if error.__cause__ else ""
        detail = self._silenced(f"{type(error).__name__}: {error}{cause}")
        detail = redacted(detail[: 2 * _LONGEST_DETAIL])
        detail = detail[:_LONGEST_DETAIL]
        if str(error.code) in _POLICY:
            return Reply("", "content_filter", detail, 0, 0)
        rejected = (openai.BadRequestError, openai.UnprocessableEntityError)
        option = error.param if isinstance(error.param, str) else None
        return NoReply(detail, isinstance(error, rejected), option)

    def _reply(self, completion: _Completion) -> Reply:
        usage = completion.usage or _Usage()
        tokens = (usage.prompt_tokens, usage.completion_tokens)
        if not completion.choices:
            return Reply("", "no_choice", None, *tokens)
        choice = completion.choices[0]
        refusal = choice.message.refusal
        return Reply(
            self._silenced(choice.message.content or ""),
            self._silenced(choice.finish_reason or "unknown")[:_LONGEST_REASON],
            self._silenced(refusal) if refusal else None,
            *tokens,
        )

    def _refused(self, error: "APIStatusError") -> ConfigError:
        """Leaves out the server's message: some echo a part of the key."""
        variable = self._config.key_variable
        if self._key:
            key = f"the key in {variable}"
        elif variable is not None:
            key = f"requests without a key in {variable}"
        else:
            key = "requests without a key (api_key_variable= names the variable that holds it)"
        code = f" ({self._silenced(error.code)})" if isinstance(error.code, str) else ""
        return ConfigError(
            f"{self._config.endpoint} does not accept {key}: status {error.status_code}{code}"
        )

    def _silenced(self, text: str) -> str:
        """Text without the key and without lone surrogates, which cannot be written."""
        text = text.encode(errors="replace").decode()
        for form in spellings(self._key) if self._key else ():
            text = text.replace(form, "***")
        return text


class _Headers:
    """Keeps only headers that the protocol needs: the client would send values of OpenAI's
    environment variables (organization, project, custom headers) to any server."""

    _NEEDED = frozenset(
        {
            "accept",
            "accept-encoding",
            "connection",
            "content-length",
            "content-type",
            "host",
            "transfer-encoding",
            "user-agent",
        }
    )

    def __init__(self, key: str) -> None:
        self._key = key

    async def restrict(self, request: Any) -> None:
        for name in {*request.headers} - self._NEEDED:
            if not name.startswith("x-stainless-"):  # which the client reads again
                del request.headers[name]
        request.headers["Authorization"] = f"Bearer {self._key}"


def with_images(
    turns: Sequence[Mapping[str, Any]], images: Sequence[bytes]
) -> list[dict[str, Any]]:
    """Chat messages with the image parts replaced, in order, by these JPEGs as ``data:`` URLs.

    Args:
        turns: from :func:`raypipe.attributes.prompts.messages`.
        images: one for each part of type ``image``.
    """
    urls = (f"data:image/jpeg;base64,{base64.b64encode(image).decode()}" for image in images)
    return [
        {
            **turn,
            "content": [
                {"type": "image_url", "image_url": {"url": next(urls)}}
                if part["type"] == "image"
                else part
                for part in turn["content"]
            ],
        }
        for turn in turns
    ]


def _key(config: EndpointConfig) -> str:
    """The server's key; empty when there is none."""
    variable = config.key_variable
    key = os.environ.get(variable, "").strip() if variable else ""
    if not (key.isascii() and key.isprintable()):
        raise ConfigError(f"the value of the environment variable {variable} cannot be a key")
    return key
