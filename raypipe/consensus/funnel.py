"""Where chains and queries went between sampling and training."""

from collections import Counter
from collections.abc import Iterable, Mapping

from raypipe.attributes.parser import MISSING, OK, chain_losses
from raypipe.attributes.vote import gate_losses
from raypipe.consensus.query_outcome import QueryOutcome
from raypipe.summaries import ChainCounts, Funnel, FunnelCounts, QueryCounts

_Counts = Mapping[tuple[str, str], int]


class FunnelCounter:
    """Counts queries per vertical and attribute."""

    def __init__(self) -> None:
        self._counts: dict[tuple[str, str], Counter[tuple[str, str]]] = {}

    def add(self, vertical: str, attribute: str, outcome: QueryOutcome) -> None:
        """Count one query."""
        counts = self._counts.setdefault((vertical, attribute), Counter())
        requested = outcome.vote.num_chains
        counts["chains", "requested"] += requested
        counts["chains", MISSING] += requested - len(outcome.reasons)
        for reason in outcome.reasons:
            counts["chains", "valid" if reason == OK else reason] += 1
        counts["queries", "asked"] += 1
        counts["queries", outcome.gate] += 1
        counts["queries", "unanimous"] += outcome.unanimous
        counts["queries", "paired"] += bool(outcome.pairs)
        counts["pairs", "pairs"] += len(outcome.pairs)

    def merge(self, other: "FunnelCounter") -> None:
        """Add what another one counted."""
        for place, counts in other._counts.items():
            self._counts.setdefault(place, Counter()).update(counts)

    def funnel(self) -> Funnel:
        """What was counted, in all and by vertical and attribute."""
        verticals = sorted({vertical for vertical, _ in self._counts})
        return Funnel(
            total=_summed(self._counts.values()),
            by_vertical={
                vertical: _summed(
                    counts for (name, _), counts in self._counts.items() if name == vertical
                )
                for vertical in verticals
            },
            by_attribute={
                f"{vertical}/{attribute}": _summed([counts])
                for (vertical, attribute), counts in sorted(self._counts.items())
            },
        )


def _summed(parts: Iterable[_Counts]) -> FunnelCounts:
    total: Counter[tuple[str, str]] = Counter()
    for part in parts:
        total.update(part)
    chains = ("requested", "valid", *chain_losses())
    queries = ("asked", "kept", *gate_losses(), "unanimous", "paired")
    return FunnelCounts(
        chains=ChainCounts.model_validate({name: total["chains", name] for name in chains}),
        queries=QueryCounts.model_validate({name: total["queries", name] for name in queries}),
        pairs=total["pairs", "pairs"],
    )
