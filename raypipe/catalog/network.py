"""Connections to the public internet alone, whatever a host's name leads to."""

import socket
import ssl
import time
from collections.abc import Callable, Sequence
from functools import cache
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address
from typing import Any

import httpcore
import httpx

Address = IPv4Address | IPv6Address
ADDRESSES_TRIED = 3
_NAT64 = IPv6Network("64:ff9b::/96")
_LOCAL_NAT64 = IPv6Network("64:ff9b:1::/48")


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
        if address.is_site_local or address in _LOCAL_NAT64:
            return False
    return address.is_global and not address.is_multicast and not address.is_reserved


class PrivateAddressError(Exception):
    """A host has an address that may not be connected to."""


class CheckedNetwork(httpcore.NetworkBackend):
    """Connects to addresses and never to names: a name could be another address a moment later."""

    def __init__(
        self,
        resolve: Callable[[str], Sequence[str]],
        is_allowed: Callable[[Address], bool],
        patience_s: float,
    ) -> None:
        """
        Args:
            resolve: the addresses of a host.
            is_allowed: every address of a host must pass.
            patience_s: how long an answer may take as a whole.
        """
        self._resolve = resolve
        self._is_allowed = is_allowed
        self._patience_s = patience_s
        self._network = httpcore.SyncBackend()

    def connect_tcp(
        self, host: str, port: int, *args: Any, **options: Any
    ) -> httpcore.NetworkStream:
        failure: Exception = httpcore.ConnectError("the host has no address")
        for address in self._addresses(host)[:ADDRESSES_TRIED]:
            try:
                stream = self._network.connect_tcp(str(address), port, *args, **options)
                return _PatientStream(stream, self._patience_s)
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


class _PatientStream(httpcore.NetworkStream):
    """A connection whose answers must end: one that trickles in is never silent."""

    def __init__(self, stream: httpcore.NetworkStream, patience_s: float) -> None:
        self._stream = stream
        self._patience_s = patience_s
        self._deadline = time.monotonic() + patience_s

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        if time.monotonic() > self._deadline:
            raise httpcore.ReadTimeout(f"the answer took longer than {self._patience_s:g} s")
        return self._stream.read(max_bytes, timeout)

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        """Send a part of a request; the time of its answer begins."""
        self._deadline = time.monotonic() + self._patience_s
        self._stream.write(buffer, timeout)

    def close(self) -> None:
        self._stream.close()

    def start_tls(self, *args: Any, **options: Any) -> httpcore.NetworkStream:
        return _PatientStream(self._stream.start_tls(*args, **options), self._patience_s)

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)


def ask_system(host: str) -> list[str]:
    """The addresses that the system's resolver has for a host."""
    found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    return [str(entry[4][0]) for entry in found]


@cache
def usual_authorities() -> ssl.SSLContext:
    """TLS that trusts certifi's authorities and nothing of the environment."""
    return httpx.create_ssl_context(trust_env=False)
