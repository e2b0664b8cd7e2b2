"""Connections to the public internet alone, whatever a host's name leads to."""

import socket
import ssl
from collections.abc import Callable, Sequence
from functools import cache
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address
from typing import Any

import httpcore
import httpx

Address = IPv4Address | IPv6Address
ADDRESSES_TRIED = 3
_NAT64 = IPv6Network("64:ff9b::/96")


def is_public(address: Address) -> bool:
    """Whether an address is of the public internet and leads to one host.

    Addresses that carry an IPv4 address (mapped, 6to4, NAT64) are as public as what they carry.
    """
    if isinstance(address, IPv6Address):
        carried = address.ipv4_mapped or address.sixtofour
        if address in _NAT64:
            carried = IPv4Address(int(address) & 0xFFFFFFFF)
        if carried is not None:
            return is_public(carried)
        if address.is_site_local:
            return False
    return address.is_global and not address.is_multicast and not address.is_reserved


class PrivateAddressError(Exception):
    """A host has an address that may not be connected to."""


class CheckedNetwork(httpcore.NetworkBackend):
    """Connects to addresses and never to names: a name could be another address a moment later."""

    def __init__(
        self, resolve: Callable[[str], Sequence[str]], is_allowed: Callable[[Address], bool]
    ) -> None:
        self._resolve = resolve
        self._is_allowed = is_allowed
        self._network = httpcore.SyncBackend()

    def connect_tcp(
        self, host: str, port: int, *args: Any, **options: Any
    ) -> httpcore.NetworkStream:
        failure: Exception = httpcore.ConnectError("the host has no address")
        for address in self._addresses(host)[:ADDRESSES_TRIED]:
            try:
                return self._network.connect_tcp(str(address), port, *args, **options)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failure = error
        raise failure

    def _addresses(self, host: str) -> list[Address]:
        try:
            addresses = [ip_address(text) for text in self._resolve(host)]
        except (OSError, ValueError) as error:
            raise httpcore.ConnectError("the host's name cannot be resolved") from error
        for address in addresses:
            if not self._is_allowed(address):
                raise PrivateAddressError(f"{host} is {address}")
        return addresses


def ask_system(host: str) -> list[str]:
    """The addresses that the system's resolver has for a host."""
    found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    return [str(entry[4][0]) for entry in found]


@cache
def usual_authorities() -> ssl.SSLContext:
    """TLS that trusts certifi's authorities and nothing of the environment."""
    return httpx.create_ssl_context(trust_env=False)
