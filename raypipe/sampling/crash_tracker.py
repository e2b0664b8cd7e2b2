"""Which listings may have killed an engine, and what to do with them when they come again.

When an actor dies, Ray starts it again and gives it the same listings again, for ever. The suspects
remember what was begun and not ended. A listing that comes back is asked alone; one that kills its
engine alone too is refused, so that it costs two engines and its neighbours nothing but time.

An engine that does not start (a broken GPU, a full disk, a hub that refuses) is tried again while
others work; a stage in which none has started ends.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

_LONGEST_WAIT_S = 60.0


@dataclass(frozen=True)
class Handling:
    """Which listings of a call to ask alone, and which to refuse."""

    alone: frozenset[str]
    refused: frozenset[str]


class CrashTracker:
    """Shared by the actors of a stage; lives in an actor of its own.

    Args:
        max_deaths: engines that one actor may lose one after the other without finishing a call.
        min_engines: actors that the stage begins with.
        is_alive: whether a node is; an actor that was on another one has crashed nothing.
    """

    def __init__(
        self,
        max_deaths: int,
        min_engines: int = 1,
        is_alive: Callable[[str], bool] = lambda node: True,
    ) -> None:
        self._max_deaths = max_deaths
        self._min_engines = min_engines
        self._failed_starts: Counter[str] = Counter()
        self._starting: set[str] = set()
        self._working: set[str] = set()
        self._any_started = False
        self._failures: list[str] = []
        self._is_alive = is_alive
        self._nodes: dict[str, str] = {}
        self._begun: set[str] = set()
        self._under_way: defaultdict[str, set[str]] = defaultdict(set)
        self._deaths_alone: Counter[str] = Counter()
        self._alone: dict[str, str] = {}
        self._starts: Counter[str] = Counter()

    def start(self, actor: str, node: str = "") -> str | None:
        """An actor starts its engine; what to say when it has lost too many, else None."""
        former, self._nodes[actor] = self._nodes.get(actor, node), node
        if former != node and not self._is_alive(former):
            self._forgive(actor)
        self._under_way.pop(actor, None)
        self._working.discard(actor)
        if actor in self._starting:
            wait_s = self.start_failed(actor, "its process ended while the engine started")
            if wait_s is None:
                return f"no engine started: {self._failures[-1]}"
        self._starting.add(actor)
        self._starts[actor] += 1
        deaths = self._starts[actor] - 1
        listing = self._alone.pop(actor, None)
        if listing is not None:
            self._deaths_alone[listing] += 1
        if deaths <= self._max_deaths:
            return None
        return (
            f"{deaths} engines died one after the other without finishing a call "
            f"(sampling.max_engine_deaths={self._max_deaths}); under way were "
            f"{', '.join(sorted(self._begun)[:3])} …"
        )

    def started(self, actor: str) -> None:
        """Its engine is up."""
        self._any_started = True
        self._starting.discard(actor)
        self._working.add(actor)
        self._failed_starts.clear()

    def start_failed(self, actor: str, reason: str) -> float | None:
        """Its engine did not start; seconds to wait before another try, None to give up.

        While another engine works, the stage goes on without this one. Without any, it is given up
        once every actor has failed, or, where engines have worked before, after ``max_deaths``.
        """
        self._starting.discard(actor)
        self._starts[actor] -= 1  # which counts deaths
        self._failures.append(reason)
        self._failed_starts[actor] += 1
        tries = self._failed_starts[actor]
        all_failed = len(self._failed_starts) >= max(self._min_engines, len(self._starts))
        lost = tries > self._max_deaths or (all_failed and not self._any_started)
        return None if lost and not self._working else min(_LONGEST_WAIT_S, 2.0 ** (tries - 1))

    def failures(self) -> list[str]:
        """Why engines did not start, in their order."""
        return self._failures

    def _forgive(self, actor: str) -> None:
        """Its node is lost: what it had begun is nobody's suspect, and nothing has died."""
        self._begun -= self._under_way[actor]
        self._alone.pop(actor, None)
        self._starting.discard(actor)
        self._starts[actor] = 0

    def begin(self, actor: str, listing_ids: Sequence[str]) -> Handling:
        """A call takes up listings."""
        refused = frozenset(name for name in listing_ids if self._deaths_alone[name])
        known = frozenset(name for name in listing_ids if name in self._begun)
        self._begun.update(listing_ids)
        self._under_way[actor].update(listing_ids)
        return Handling(alone=known - refused, refused=refused)

    def ask_alone(self, actor: str, listing_id: str) -> None:
        """An actor asks one suspect alone."""
        self._alone[actor] = listing_id

    def answered_alone(self, actor: str) -> None:
        """The suspect has been answered."""
        self._alone.pop(actor, None)

    def end(self, actor: str, listing_ids: Sequence[str]) -> None:
        """A call is done: its listings are nobody's suspects, its actor makes progress."""
        self._begun.difference_update(listing_ids)
        self._under_way[actor].difference_update(listing_ids)
        self._starts[actor] = 1
