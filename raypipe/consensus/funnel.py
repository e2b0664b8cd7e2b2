"""Where chains and queries went between sampling and training."""

from collections import Counter
from collections.abc import Iterable, Mapping
from itertools import chain

from raypipe.attributes.parser import MISSING, OK, chain_losses
from raypipe.attributes.vote import gate_losses
from raypipe.consensus.query_outcome import QueryOutcome
from raypipe.summaries import ChainCounts, Funnel, FunnelCounts, QueryCounts

_Counts = Mapping[tuple[str, str], int]


class FunnelCounter:
    """Counts queries per vertical and attribute."""

    def __init__(self) -> None:
        self._counts: dict[tuple[str, str], Counter[tuple[str, str]]] = {}

    def add(self, vertical: str, attribute: str, *outcomes: QueryOutcome) -> None:
        """Count queries of one attribute."""
        counts = self._counts.setdefault((vertical, attribute), Counter())
        requested = sum([outcome.vote.num_chains for outcome in outcomes])
        reasons = Counter(chain.from_iterable([outcome.reasons for outcome in outcomes]))
        counts["chains", "requested"] += requested
        counts["chains", MISSING] += requested - reasons.total()
        for reason, count in reasons.items():
            counts["chains", "valid" if reason == OK else reason] += count
        counts["queries", "asked"] += len(outcomes)
        for gate, count in Counter([outcome.gate for outcome in outcomes]).items():
            counts["queries", gate] += count
        num_pairs = [len(outcome.pairs) for outcome in outcomes]
        counts["queries", "unanimous"] += sum([outcome.unanimous for outcome in outcomes])
        counts["queries", "paired"] += len(num_pairs) - num_pairs.count(0)
        counts["pairs", "pairs"] += sum(num_pairs)

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
