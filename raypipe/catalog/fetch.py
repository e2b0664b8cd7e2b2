"""Images that listings name, read from beside the catalog or fetched from allowed hosts.

Names come from strangers, so nothing is asked that the configuration does not allow: scheme and
host are checked at every redirect, and the address that was checked is the one connected to. A
failure is a :class:`Refusal` whose detail leaves out the query, for it may hold a signature.

Requests are made with httpcore, below httpx's client: its network backend is where an address can
be chosen while Host and TLS keep the name, and it writes no URIs to the log.
"""

import logging
import re
import ssl
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC
from email.utils import parsedate_to_datetime
from functools import partial
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

import httpcore
import httpx

from raypipe.catalog import locations, network
from raypipe.catalog.hosts import Hosts
from raypipe.catalog.images import Refusal
from raypipe.catalog.locations import display_location
from raypipe.catalog.sources import Source
from raypipe.config import CatalogConfig, FetchConfig
from raypipe.seeds import derive
from raypipe.store.quarantine import (
    BAD_URI,
    NOT_FOUND,
    PRIVATE_ADDRESS,
    REFUSED_BY_SERVER,
    SERVER_ERROR,
    TOO_MANY_BYTES,
    TOO_MANY_REDIRECTS,
    UNREACHABLE,
    ImageReason,
)

BACKOFF_S = 0.5
MAX_WAIT_S = 60.0
# A server that trickles is never silent; its answer may take this many time-outs as a whole.
PATIENCE = 10
# No attempt at an image begins later after its first.
IMAGE_S = 300.0
# Images of a batch that wait in memory; the others are read when their listing is prepared.
AHEAD_BYTES = 1 << 28
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_REDIRECTS = (301, 302, 303, 307, 308)
_HEADERS = (
    (b"Accept", b"image/*"),
    (b"Accept-Encoding", b"identity"),
    (b"User-Agent", b"raypipe"),
)

# Of this process: what one batch of listings has learned of a host, the next one knows.
_HOSTS = Hosts()

# At DEBUG it writes the headers, and a redirect's Location may be signed.
logging.getLogger("httpcore.http11").setLevel(logging.INFO)


class Fetcher:
    """Reads images by name, ``config.concurrency`` of them at once. Use it as a context manager."""

    def __init__(
        self,
        config: FetchConfig,
        *,
        read_path: Callable[[str], bytes | Refusal] | None = None,
        resolve: Callable[[str], Sequence[str]] = network.ask_system,
        is_allowed_address: Callable[[network.Address], bool] = network.is_public,
        open_bucket: locations.OpenBucket = locations.open_bucket,
        tls: ssl.SSLContext | None = None,
        sleep: Callable[[float], object] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
        hosts: Hosts | None = None,
    ) -> None:
        """
        Args:
            config: what is allowed, and how long and how often is tried.
            read_path: reads a name that is no URI; None refuses it.
            resolve: the addresses of a host.
            is_allowed_address: every address of a host must pass.
            open_bucket: the file system of a scheme and a bucket.
            tls: None trusts the usual authorities.
            sleep: waits between two attempts, in seconds.
            clock: seconds that go by.
            hosts: what is known of hosts; None begins anew.
        """
        self._config = config
        self._read_path = read_path or _refuse_path
        self._open_bucket = open_bucket
        self._sleep = sleep
        self._clock = clock
        self._hosts = Hosts(clock) if hosts is None else hosts
        self._timeouts = dict.fromkeys(("connect", "read", "write"), config.timeout_s)
        self._threads = ThreadPoolExecutor(config.concurrency, thread_name_prefix="fetch")
        self._connections = httpcore.ConnectionPool(
            ssl_context=tls or network.usual_authorities(),
            max_connections=config.concurrency,
            keepalive_expiry=10,
            network_backend=network.CheckedNetwork(
                resolve, is_allowed_address, PATIENCE * config.timeout_s
            ),
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._threads.shutdown(cancel_futures=True)
        self._connections.close()

    def read_all(
        self, names: Iterable[str], budget: int | None = None
    ) -> dict[str, bytes | Refusal]:
        """What :meth:`read` says of every name.

        Args:
            names: paths and URIs; one that is there twice is read once.
            budget: bytes after which no more names are begun, which are left out; None reads all.
        """
        held: list[int] = []

        def read(name: str) -> bytes | Refusal | None:
            if budget is not None and sum(held) >= budget:
                return None
            content = self.read(name)
            if isinstance(content, bytes):
                held.append(len(content))
            return content

        distinct = list(dict.fromkeys(names))
        contents = zip(distinct, self._threads.map(read, distinct), strict=True)
        return {name: content for name, content in contents if content is not None}

    def read(self, name: str) -> bytes | Refusal:
        """The bytes of an image, at most ``config.max_bytes`` of a URI's, or why there are none.

        Args:
            name: a URI, or a path beside the catalog.
        """
        if "://" not in name:
            return self._read_path(name)
        named = _SCHEME.match(name)
        if named is None:
            return Refusal(BAD_URI, "its scheme is not one")
        if named[1].lower() not in self._config.schemes:
            return locations.wrong_scheme(named[1], self._config)
        if named[1].lower() not in ("http", "https"):
            return self._stored(name)
        url = locations.parsed(name)
        if url is None:
            return Refusal(BAD_URI, f"it is not a valid {named[1]} URI")
        return self._fetched(url)

    def _stored(self, uri: str) -> bytes | Refusal:
        try:
            parts = urlsplit(uri)
        except ValueError:
            return Refusal(BAD_URI, "it is not a valid URI")
        bucket, key = parts.netloc, parts.path.removeprefix("/")
        if not _BUCKET.fullmatch(bucket) or not key:
            return Refusal(BAD_URI, f"a bucket and a key are expected after {parts.scheme}://")
        if not locations.host_allowed(bucket, self._config.hosts):
            return locations.wrong_host(bucket)
        place = f"{parts.scheme}://{bucket}"
        if not self._hosts.may_be_asked(place):
            return locations.host_away(place)
        content = locations.read_object(
            parts.scheme, bucket, key, self._config.max_bytes, self._open_bucket
        )
        is_lost = isinstance(content, Refusal) and content.reason == UNREACHABLE
        (self._hosts.lost if is_lost else self._hosts.answered)(place)
        return content

    def _fetched(self, url: httpx.URL) -> bytes | Refusal:
        """As many attempts as it takes and the configuration allows."""
        attempt, end = 1, self._clock() + IMAGE_S
        while isinstance(outcome := self._followed(url, end), _Busy):
            is_last = attempt == self._config.attempts or self._clock() > end
            if is_last or self._hosts.is_away(outcome.host):
                self._hosts.lost(outcome.host)
                return Refusal(outcome.reason, f"{outcome.detail} (attempts: {attempt})")
            self._sleep(_pause(str(url), attempt, outcome.wait_s))
            attempt += 1
        return outcome

    def _followed(self, url: httpx.URL, end: float) -> "bytes | Refusal | _Busy":
        """One attempt, through every redirect."""
        for _ in range(self._config.max_redirects + 1):
            refusal = locations.forbidden(url, self._config)
            if refusal is not None:
                return refusal
            host = locations.host_of(url)
            if not self._hosts.may_be_asked(host):
                return locations.host_away(host)
            outcome = self._requested(url)
            if not isinstance(outcome, httpx.URL):
                return outcome
            if self._clock() > end:
                return _Busy(
                    host, UNREACHABLE, f"{display_location(url)}: more than {IMAGE_S:g} s in all"
                )
            url = outcome
        detail = f"more than {self._config.max_redirects}, to {display_location(url)}"
        return Refusal(TOO_MANY_REDIRECTS, detail)

    def _requested(self, url: httpx.URL) -> "bytes | Refusal | _Busy | httpx.URL":
        """One request to an allowed host; a redirect comes back as its target."""
        at = httpcore.URL(
            scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path
        )
        headers = [(b"Host", url.netloc), *_HEADERS]
        try:
            with self._connections.stream(
                "GET", at, headers=headers, extensions={"timeout": self._timeouts}
            ) as response:
                outcome = self._judged(url, response)
        except network.PrivateAddressError as error:
            return Refusal(PRIVATE_ADDRESS, str(error))
        except (httpcore.TimeoutException, httpcore.NetworkError, httpcore.ProtocolError) as error:
            # Only an error of connecting surely quotes nothing of the request.
            cause = f": {error}" if isinstance(error, httpcore.ConnectError) else ""
            said = f"{display_location(url)}: {type(error).__name__}{cause}"[:300]
            return _Busy(locations.host_of(url), UNREACHABLE, said)
        except ValueError:  # of a name that TLS cannot ask for
            return Refusal(BAD_URI, f"{display_location(url)}: no host can have this name")
        if not isinstance(outcome, _Busy):
            self._hosts.answered(locations.host_of(url))
        return outcome

    def _judged(
        self, url: httpx.URL, response: httpcore.Response
    ) -> "bytes | Refusal | _Busy | httpx.URL":
        status = response.status
        headers = {name.lower(): value for name, value in response.headers}
        if status in _REDIRECTS and b"location" in headers:
            target = locations.parsed(headers[b"location"].decode(errors="replace"), url)
            if target is None:
                return Refusal(
                    BAD_URI, f"{display_location(url)} redirects to what is not a valid URI"
                )
            return target
        detail = f"{display_location(url)}: HTTP {status}"
        if status in (404, 410):
            return Refusal(NOT_FOUND, detail)
        if status == 429 or status >= 500:
            wait_s = _retry_after(headers.get(b"retry-after", b""))
            return _Busy(locations.host_of(url), SERVER_ERROR, detail, wait_s)
        if not 200 <= status < 300:
            return Refusal(REFUSED_BY_SERVER, detail)
        return self._body(url, response)

    def _body(self, url: httpx.URL, response: httpcore.Response) -> bytes | Refusal:
        content = bytearray()
        for chunk in response.iter_stream():
            content += chunk
            if len(content) > self._config.max_bytes:
                detail = f"{display_location(url)} has more than {self._config.max_bytes} bytes"
                return Refusal(TOO_MANY_BYTES, detail)
        return bytes(content)


class Reader:
    """Reads images for one batch of listings after the other."""

    def __init__(self, fetcher: Fetcher) -> None:
        self._fetcher = fetcher
        self._ahead: dict[str, bytes | Refusal] = {}

    def prefetch(self, names: Iterable[str]) -> None:
        """Read these images side by side and keep them, at most ``AHEAD_BYTES`` and what is under
        way then, until the next call. What was kept before is dropped."""
        self._ahead = {}  # first, so that two batches are never held at once
        self._ahead = self._fetcher.read_all(names, AHEAD_BYTES)

    def read(self, name: str) -> bytes | Refusal:
        """The bytes of an image, or why there are none."""
        content = self._ahead.get(name)
        return self._fetcher.read(name) if content is None else content


@contextmanager
def open_reader(config: CatalogConfig, source: Source) -> Iterator[Reader]:
    """A reader of the images that a catalog names; any thread may call its ``read``.

    Args:
        config: says what may be fetched.
        source: the catalog. Paths begin in its directory; without one they are refused.
    """
    beside = None
    if source.directory is not None:
        beside = partial(
            locations.read_path,
            filesystem=source.filesystem,
            directory=source.directory,
            roots=source.image_roots,
        )
    with Fetcher(config.fetch, read_path=beside, hosts=_HOSTS) as fetcher:
        yield Reader(fetcher)


@dataclass(frozen=True)
class _Busy:
    """A refusal that another attempt may change; ``wait_s`` is how long the host asked for."""

    host: str
    reason: ImageReason
    detail: str
    wait_s: float = 0


def _pause(uri: str, attempt: int, asked_s: float) -> float:
    """Seconds before the next attempt: doubled each time, spread so that images do not return
    together, and on top of what the server asked for."""
    spread = 0.5 + derive("backoff", uri, attempt) / 2**64
    return min(MAX_WAIT_S, asked_s + BACKOFF_S * (1 << min(attempt - 1, 10)) * spread)


def _retry_after(header: bytes) -> float:
    """Seconds of a Retry-After header, which is a number or a date; 0 for neither."""
    text = header[:64].decode("latin-1").strip()
    if text.isdecimal():
        return float(text)
    try:
        moment = parsedate_to_datetime(text)
        seconds = moment.replace(tzinfo=moment.tzinfo or UTC).timestamp() - time.time()
    except (ValueError, OverflowError, TypeError, LookupError):  # whatever a date may be
        return 0
    return max(0.0, seconds)


def _refuse_path(path: str) -> Refusal:
    return Refusal(BAD_URI, "it has no scheme")
