"""Which hosts have stopped answering, so that nobody waits for them again and again."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

# Images in a row that a host did not give in all the attempts made, without any other answer
# between them: one that still says that an image is not there is not away. More than one listing
# can name (listings.MAX_LOST, catalog.max_images), which is not to cost the others.
LOST_IN_A_ROW = 20
FIRST_AWAY_S = 10.0
LONGEST_AWAY_S = 600.0


@dataclass
class _Host:
    lost: int = 0
    away_s: float = 0.0
    until: float = 0.0
    is_tried: bool = False


class Hosts:
    """Counts what hosts answer; any thread may tell and ask.

    A host that is away is asked for nothing. When its time is over one image is tried, once, and
    if that is lost too the host is away for twice as long.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._hosts: dict[str, _Host] = {}

    def may_be_asked(self, name: str) -> bool:
        """Whether a request may be made now; who is told so of a host that was away tries it."""
        with self._lock:
            host = self._hosts.get(name)
            if host is None or not host.away_s:
                return True
            if self._clock() < host.until:
                return False
            host.is_tried = True
            host.until = self._clock() + host.away_s  # the others go on waiting
            return True

    def is_away(self, name: str) -> bool:
        """Whether a host is away, or was and is being tried."""
        with self._lock:
            host = self._hosts.get(name)
            return host is not None and host.away_s > 0

    def answered(self, name: str) -> None:
        """It is there."""
        with self._lock:
            self._hosts.pop(name, None)

    def lost(self, name: str) -> None:
        """It did not give an image."""
        with self._lock:
            host = self._hosts.setdefault(name, _Host())
            host.lost += 1
            if host.away_s and not host.is_tried:
                return  # a request that was under way when the host was found to be away
            if host.lost >= LOST_IN_A_ROW:
                host.away_s = min(LONGEST_AWAY_S, 2 * host.away_s or FIRST_AWAY_S)
                host.until = self._clock() + host.away_s
                host.is_tried = False
