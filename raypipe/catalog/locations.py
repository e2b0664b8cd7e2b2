"""Where an image is: a path beside the catalog, or a URI and who may be asked for it."""

from collections.abc import Callable, Iterable, Sequence
from functools import cache

import httpx
import pyarrow as pa
import pyarrow.fs as pafs

from raypipe import storage
from raypipe.catalog import paths
from raypipe.catalog.images import MAX_BYTES, Refusal
from raypipe.config import FetchConfig
from raypipe.store.quarantine import (
    BAD_URI,
    HOST_AWAY,
    HOST_NOT_ALLOWED,
    MISSING_FILE,
    NOT_FOUND,
    REFUSED_BY_SERVER,
    SCHEME_NOT_ALLOWED,
    TOO_MANY_BYTES,
    UNREACHABLE,
    UNREADABLE_FILE,
)

OpenBucket = Callable[[str, str], pafs.FileSystem]


def parsed(text: str, base: httpx.URL | None = None) -> httpx.URL | None:
    """A URI, or what a redirect from ``base`` leads to; None of what is not valid.

    What httpx finds out later, such as the letters of a host, is asked for here.
    """
    try:
        url = httpx.URL(text) if base is None else base.join(text)
        _ = url.host, url.port, url.raw_host.decode(), url.netloc.decode(), url.raw_path.decode()
    except (httpx.InvalidURL, ValueError, LookupError):
        return None
    return url


def forbidden(url: httpx.URL, config: FetchConfig) -> Refusal | None:
    """Why a host may not be asked for this; None when it may."""
    if url.scheme not in config.schemes or url.scheme not in ("http", "https"):
        return wrong_scheme(url.scheme, config)
    if url.userinfo:
        return Refusal(BAD_URI, "it holds credentials")
    if not url.raw_host or (url.port is not None and not 0 < url.port < 1 << 16):
        return Refusal(BAD_URI, "it has no host, or a port that cannot be")
    # Patterns may be written as people or as the wire spell them.
    spellings = (url.host, url.raw_host.decode())
    if not any(host_allowed(host, config.hosts) for host in spellings):
        return wrong_host(url.host)
    return None


def wrong_scheme(scheme: str, config: FetchConfig) -> Refusal:
    """The refusal of a scheme."""
    allowed = ", ".join(config.schemes)
    return Refusal(SCHEME_NOT_ALLOWED, f"'{scheme[:20]}' is not one of {allowed}")


def wrong_host(host: str) -> Refusal:
    """The refusal of a host or bucket."""
    return Refusal(HOST_NOT_ALLOWED, f"'{host[:200]}' is not in catalog.fetch.hosts")


def host_away(place: str) -> Refusal:
    """The refusal of an image whose host is not asked now."""
    detail = f"{place[:200]} has not answered for a while and is left alone; try again later"
    return Refusal(HOST_AWAY, detail)


def host_of(url: httpx.URL) -> str:
    """Scheme, host and port: who answers for a URI."""
    return f"{url.scheme}://{url.netloc.decode()}"


def display_location(url: httpx.URL) -> str:
    """A URI as it may be printed: its query, which may be a signature, is left out."""
    return f"{url.scheme}://{(url.netloc + url.raw_path.partition(b'?')[0]).decode()}"[:200]


def host_allowed(host: str, patterns: Iterable[str]) -> bool:
    """Whether a host or bucket is one of the patterns, or below one that begins with ``*.``.

    Neither case nor the last dot of a full name matters. ``*.shop.com`` allows ``a.b.shop.com``,
    but neither ``shop.com`` nor ``evilshop.com``.
    """
    name = _plain(host)
    return any(
        name.endswith(pattern[1:]) and name != pattern[1:]
        if pattern.startswith("*.")
        else name == pattern
        for pattern in map(_plain, patterns)
    )


def _plain(host: str) -> str:
    return host.lower().removesuffix(".").strip("[]")


def read_path(
    path: str, filesystem: pafs.FileSystem, directory: str, roots: Sequence[str] = ()
) -> bytes | Refusal:
    """The bytes of an image file, at most ``MAX_BYTES``, or a refusal of :func:`paths.place_of`,
    ``missing_file``, ``unreadable_file`` or ``too_many_bytes``; arguments as there."""
    place = paths.place_of(path, filesystem, directory, roots)
    if isinstance(place, Refusal):
        return place
    name = paths.shown_path(path)
    try:
        content = paths.read_file(filesystem, place)
    except (FileNotFoundError, NotADirectoryError):
        return Refusal(MISSING_FILE, f"there is no {name}")
    except (pa.ArrowException, OSError, ValueError) as error:
        return Refusal(UNREADABLE_FILE, f"{name}: {type(error).__name__}")
    if content is None:
        return Refusal(UNREADABLE_FILE, f"{name} is no regular file")
    if len(content) > MAX_BYTES:
        return Refusal(TOO_MANY_BYTES, f"{name} has more than {MAX_BYTES} bytes")
    return content


def read_object(
    scheme: str, bucket: str, key: str, max_bytes: int, open_bucket: OpenBucket
) -> bytes | Refusal:
    """The bytes of an object of a bucket, at most ``max_bytes``, or a refusal: ``not_found``,
    ``refused_by_server``, ``unreachable``, ``unreadable_file``, ``too_many_bytes`` or ``bad_uri``.
    Arrow's clients retry by themselves."""
    place = f"{scheme}://{paths.shown_path(f'{bucket}/{key}')}"
    if "\0" in key or len(key.encode(errors="replace")) > paths.MAX_KEY:
        return Refusal(BAD_URI, f"{place} is longer than a key can be, or holds a null")
    try:
        content = _read(open_bucket(scheme, bucket), f"{bucket}/{key}", max_bytes + 1)
    except FileNotFoundError:
        return Refusal(NOT_FOUND, f"there is no {place}")
    except (pa.ArrowException, OSError, ValueError) as error:
        # Arrow tells a refusal from an outage by its text alone.
        reason = UNREACHABLE if storage.names_a_store(str(error)) else UNREADABLE_FILE
        if isinstance(error, PermissionError) or "DENIED" in str(error).upper():
            reason = REFUSED_BY_SERVER
        return Refusal(reason, f"{place}: {type(error).__name__}")
    if len(content) > max_bytes:
        return Refusal(TOO_MANY_BYTES, f"{place} has more than {max_bytes} bytes")
    return content


def _read(filesystem: pafs.FileSystem, path: str, length: int) -> bytes:
    with filesystem.open_input_stream(path, compression=None) as stream:
        return bytes(stream.read(length))


@cache
def open_bucket(scheme: str, name: str) -> pafs.FileSystem:
    """One client per bucket: resolving its region asks the network."""
    return pafs.FileSystem.from_uri(f"{scheme}://{name}")[0]
