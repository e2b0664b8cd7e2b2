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
_TRIES = 3
_NODE_LOSSES = 3


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
        may_grow: whether there may be more of them later.
        is_alive: whether a node is; an actor that was on another one has crashed nothing.
    """

    def __init__(
        self,
        max_deaths: int,
        min_engines: int = 1,
        may_grow: bool = False,
        is_alive: Callable[[str], bool] = lambda node: True,
    ) -> None:
        self._max_deaths = max_deaths
        self._min_engines = min_engines
        self._may_grow = may_grow
        self._failed_starts: Counter[str] = Counter()
        self._starting: set[str] = set()
        self._working: set[str] = set()
        self._any_started = False
        self._num_failures, self._last_failure = 0, ""
        self._is_alive = is_alive
        self._nodes: dict[str, str] = {}
        self._losses: Counter[str] = Counter()
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
            reason = "its process ended while the engine started"
            wait_s = self.start_failed(actor, reason, _TRIES)
            if wait_s is None:
                return f"no engine started: {self._last_failure}"
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

    def start_failed(self, actor: str, reason: str, tries: int = 1) -> float | None:
        """Its engine did not start; seconds to wait before another try, None to give up.

        While another engine works, or may still come up for the first time, the stage goes on
        without this one. Else it is given up once every actor has failed: after ``tries``, a few
        more where further actors may come, and ``max_deaths`` where engines have worked before.
        """
        self._starting.discard(actor)
        self._starts[actor] -= 1  # which counts deaths
        self._num_failures, self._last_failure = self._num_failures + 1, reason
        self._failed_starts[actor] += 1
        if self._any_started:
            tries = self._max_deaths + 1
        elif self._may_grow or len(self._starts) < self._min_engines:
            tries = max(tries, _TRIES)
        if not self._may_work() and min(self._failed_starts.values()) >= tries:
            return None
        return min(_LONGEST_WAIT_S, 2.0 ** (self._failed_starts[actor] - 1))

    def _may_work(self) -> bool:
        """Whether an engine is up, or an actor has not failed since one was."""
        return bool(self._working) or any(not self._failed_starts[name] for name in self._starts)

    def failures(self) -> tuple[int, str]:
        """How many starts have failed, and why the last one did."""
        return self._num_failures, self._last_failure

    def _forgive(self, actor: str) -> None:
        """Its node is lost: what it had begun is nobody's suspect, and nothing has died. What has
        seen several nodes go stays one: a listing may take its node down."""
        self._losses.update(self._under_way[actor])
        forgiven = {name for name in self._under_way[actor] if self._losses[name] < _NODE_LOSSES}
        self._begun -= forgiven
        if self._alone.get(actor) in forgiven:
            del self._alone[actor]
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
        for name in listing_ids:
            self._losses.pop(name, None)
        self._starts[actor] = 1
