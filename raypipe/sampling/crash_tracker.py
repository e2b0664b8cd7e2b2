"""Which listings may have killed an engine, and what to do with them when they come again.

When an actor dies, Ray starts it again and gives it the same listings again, for ever. The suspects
remember what was begun and not ended. A listing that comes back is asked alone; one that kills its
engine alone too is refused, so that it costs two engines and its neighbours nothing but time.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Handling:
    """Which listings of a call to ask alone, and which to refuse."""

    alone: frozenset[str]
    refused: frozenset[str]


class CrashTracker:
    """Shared by the actors of a stage; lives in an actor of its own.

    Args:
        max_deaths: engines that one actor may lose one after the other without finishing a call.
    """

    def __init__(self, max_deaths: int) -> None:
        self._max_deaths = max_deaths
        self._begun: set[str] = set()
        self._deaths_alone: Counter[str] = Counter()
        self._alone: dict[str, str] = {}
        self._starts: Counter[str] = Counter()

    def start(self, actor: str) -> str | None:
        """An actor starts its engine; what to say when it has lost too many, else None."""
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

    def begin(self, listing_ids: Sequence[str]) -> Handling:
        """A call takes up listings."""
        refused = frozenset(name for name in listing_ids if self._deaths_alone[name])
        known = frozenset(name for name in listing_ids if name in self._begun)
        self._begun.update(listing_ids)
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
        self._starts[actor] = 1
