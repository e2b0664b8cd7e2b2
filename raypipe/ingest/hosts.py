"""Hosts that a sheet names images on: which are proposed, and why others are not.

A sheet may come from strangers, and whoever names a host has it asked from inside the user's
network, or with the user's credentials. Only what looks like a shop's own server is proposed.
"""

import re
from collections.abc import Iterable
from urllib.parse import urlsplit

_LABEL = r"(?!-)[a-z0-9-]{1,63}(?<!-)"
_NAME = re.compile(rf"{_LABEL}(\.{_LABEL})*", re.ASCII)
_NUMBER = re.compile(r"(0x[0-9a-f]*|[0-9]+)", re.ASCII)
# Names of networks at home and at work, and those that never are public (RFC 2606, 6761, 6762).
_PRIVATE = {
    "arpa", "corp", "example", "home", "internal", "intranet", "invalid", "lan", "local",
    "localdomain", "localhost", "onion", "private", "test",
}  # fmt: skip
_LONGEST_NAME = 253
_SHOWN = 100


Server = tuple[str, str]
"""Scheme and host of an address, in lower case; the host is "" where it cannot be read."""


def server_of(address: str) -> Server:
    """Where an image is that is named by address."""
    try:
        parts = urlsplit(address)
        return parts.scheme.lower(), (parts.hostname or "").lower()
    except ValueError:
        return address.partition("://")[0].lower(), ""


def display_url(server: Server) -> str:
    """A server as it may be printed and written into a comment, whatever letters it holds."""
    return ascii("://".join(server))[1:-1][:_SHOWN]


def proposed(servers: Iterable[Server]) -> tuple[str, ...]:
    """The hosts that are proposed, in their order."""
    return tuple(dict.fromkeys(server[1] for server in servers if doubt(server) is None))


def doubted(servers: Iterable[Server]) -> tuple[tuple[str, str], ...]:
    """The others as they may be shown, and why each is not proposed."""
    reasons = ((display_url(server), doubt(server)) for server in servers)
    return tuple((name, reason) for name, reason in reasons if reason is not None)


def doubt(server: Server) -> str | None:
    """Why a server is not proposed; None where it is."""
    scheme, host = server
    if scheme in ("s3", "gs"):
        return "a bucket, which is read with this machine's credentials"
    if scheme == "http":
        return "not https: whoever is on the way can read and change it"
    if scheme != "https":
        return "a scheme that is not fetched"
    return _doubt_of_name(host)


def _doubt_of_name(host: str) -> str | None:
    labels = host.removesuffix(".").split(".")
    if ":" in host or _NUMBER.fullmatch(labels[-1]):
        return "an address of a machine and no name"
    if labels[-1] in _PRIVATE or (len(labels) == 1 and host):
        return "a name inside a network"
    if len(host) > _LONGEST_NAME or not _NAME.fullmatch(".".join(labels)):
        return "no name that a host can have"
    if any(label.startswith("xn--") for label in labels):
        return "a name in letters that may only look like others"
    return None
