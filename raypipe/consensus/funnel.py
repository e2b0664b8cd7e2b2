"""Where chains and queries went between sampling and training."""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from raypipe.answers import REASONS
from raypipe.consensus.gates import GATES
from raypipe.consensus.verdict import Verdict

# What was requested is valid, or lost for one of the other reasons; missing chains never came back.
CHAIN_COUNTS = ("requested", "valid", *(reason for reason in REASONS if reason != "ok"), "missing")
# Every query asked is kept or dropped by its gate. A kept one is unanimous, or paired, or (rarely)
# neither: its dispreferred chains say word for word what the preferred ones say.
QUERY_COUNTS = ("asked", *GATES, "unanimous", "paired")


class Funnel:
    """Counts per vertical and attribute, and over all of them."""

    def __init__(self) -> None:
        self._counts: dict[tuple[str, str], Counter[tuple[str, str]]] = {}

    def add(self, vertical: str, attribute: str, verdict: Verdict) -> None:
        """Count one query."""
        counts = self._counts.setdefault((vertical, attribute), Counter())
        requested = verdict.vote.num_chains
        counts["chains", "requested"] += requested
        counts["chains", "missing"] += requested - len(verdict.reasons)
        for reason in verdict.reasons:
            counts["chains", "valid" if reason == "ok" else reason] += 1
        counts["queries", "asked"] += 1
        counts["queries", verdict.gate] += 1
        counts["queries", "unanimous"] += verdict.unanimous
        counts["queries", "paired"] += bool(verdict.pairs)
        counts["pairs", "pairs"] += len(verdict.pairs)

    def to_json(self) -> dict[str, Any]:
        """The funnel, named by the unit that is counted.

        ``{"total": counts, "by_vertical": {vertical: counts}, "by_attribute":
        {"vertical/attribute": counts}}`` where counts are ``{"chains": {…}, "queries": {…},
        "pairs": n}`` with the keys of ``CHAIN_COUNTS`` and ``QUERY_COUNTS``.
        """
        verticals = sorted({vertical for vertical, _ in self._counts})
        return {
            "total": _named(self._counts.values()),
            "by_vertical": {
                vertical: _named(
                    counts for (name, _), counts in self._counts.items() if name == vertical
                )
                for vertical in verticals
            },
            "by_attribute": {
                f"{vertical}/{attribute}": _named([counts])
                for (vertical, attribute), counts in sorted(self._counts.items())
            },
        }


def _named(parts: Iterable[Mapping[tuple[str, str], int]]) -> dict[str, Any]:
    total: Counter[tuple[str, str]] = Counter()
    for part in parts:
        total.update(part)
    return {
        "chains": {name: total["chains", name] for name in CHAIN_COUNTS},
        "queries": {name: total["queries", name] for name in QUERY_COUNTS},
        "pairs": total["pairs", "pairs"],
    }
