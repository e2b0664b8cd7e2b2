"""Where an image is: a path beside the catalog, or a URI and who may be asked for it."""

import posixpath
from collections.abc import Callable, Iterable
from functools import cache

import httpx
import pyarrow as pa
import pyarrow.fs as pafs

from raypipe.catalog.images import MAX_BYTES, Refusal
from raypipe.config import FetchConfig

OpenBucket = Callable[[str, str], pafs.FileSystem]


def forbidden(url: httpx.URL, config: FetchConfig) -> Refusal | None:
    """Why a host may not be asked for this; None when it may.

    The reasons: ``scheme_not_allowed``, ``bad_uri``, ``host_not_allowed``.
    """
    if url.scheme not in config.schemes or url.scheme not in ("http", "https"):
        return wrong_scheme(url.scheme, config)
    if url.userinfo:
        return Refusal("bad_uri", "it holds credentials")
    if not url.raw_host or (url.port is not None and not 0 < url.port < 1 << 16):
        return Refusal("bad_uri", "it has no host, or a port that cannot be")
    # Patterns may be written as people or as the wire spell them.
    spellings = (url.host, url.raw_host.decode())
    if not any(host_allowed(host, config.hosts) for host in spellings):
        return wrong_host(url.host)
    return None


def wrong_scheme(scheme: str, config: FetchConfig) -> Refusal:
    """The refusal of a scheme."""
    allowed = ", ".join(config.schemes)
    return Refusal("scheme_not_allowed", f"'{scheme[:20]}' is not one of {allowed}")


def wrong_host(host: str) -> Refusal:
    """The refusal of a host or bucket."""
    return Refusal("host_not_allowed", f"'{host[:200]}' is not in catalog.fetch.hosts")


def shown(url: httpx.URL) -> str:
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


def read_path(path: str, filesystem: pafs.FileSystem, directory: str) -> bytes | Refusal:
    """The bytes of an image file beside the catalog.

    Args:
        path: relative to ``directory``, or absolute on ``filesystem``.
        filesystem: where the catalog's Parquet file is.
        directory: the directory of the catalog's Parquet file.

    Returns:
        At most one byte more than ``MAX_BYTES``, or a refusal: ``missing_file`` or
        ``unreadable_file``.
    """
    shown = path.partition("?")[0][:200]
    try:
        return _read(filesystem, posixpath.join(directory, path), MAX_BYTES + 1)
    except FileNotFoundError:
        return Refusal("missing_file", f"there is no {shown}")
    except (pa.ArrowException, OSError, ValueError) as error:
        return Refusal("unreadable_file", f"{shown}: {type(error).__name__}")


def read_object(
    scheme: str, bucket: str, key: str, max_bytes: int, open_bucket: OpenBucket
) -> bytes | Refusal:
    """The bytes of an object of a bucket; Arrow's clients retry by themselves.

    Returns:
        At most ``max_bytes``, or a refusal: ``not_found``, ``refused_by_server``, ``unreachable``
        or ``too_many_bytes``.
    """
    place = f"{scheme}://{bucket}/{key}"[:200]
    try:
        content = _read(open_bucket(scheme, bucket), f"{bucket}/{key}", max_bytes + 1)
    except FileNotFoundError:
        return Refusal("not_found", f"there is no {place}")
    except (pa.ArrowException, OSError, ValueError) as error:
        # Arrow tells a refusal from an outage by its text alone.
        denied = isinstance(error, PermissionError) or "DENIED" in str(error).upper()
        reason = "refused_by_server" if denied else "unreachable"
        return Refusal(reason, f"{place}: {type(error).__name__}")
    if len(content) > max_bytes:
        return Refusal("too_many_bytes", f"{place} has more than {max_bytes} bytes")
    return content


def _read(filesystem: pafs.FileSystem, path: str, length: int) -> bytes:
    with filesystem.open_input_stream(path, compression=None) as stream:
        return bytes(stream.read(length))


@cache
def open_bucket(scheme: str, name: str) -> pafs.FileSystem:
    """One client per bucket: resolving its region asks the network."""
    return pafs.FileSystem.from_uri(f"{scheme}://{name}")[0]
