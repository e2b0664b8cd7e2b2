"""The funnel from requested chains to preference pairs, ready to draw."""

from collections.abc import Mapping
from dataclasses import dataclass

from markupsafe import Markup

from raypipe.attributes.parser import ChainReason
from raypipe.attributes.vote import NO_DIFFERING_CHAIN, UNANIMOUS, Gate, PairLoss
from raypipe.errors import Reason
from raypipe.report.figures import FunnelBar, funnel_figure
from raypipe.report.run_data import Record, Scope
from raypipe.summaries import Funnel, FunnelCounts, QueryCounts


@dataclass(frozen=True)
class FunnelRow:
    """The funnel of one vertical (``attribute`` is None) or of one of its attributes."""

    vertical: str
    attribute: str | None
    counts: FunnelCounts

    @property
    def valid_share(self) -> float | None:
        chains = self.counts.chains
        return chains.valid / chains.requested if chains.requested else None


@dataclass(frozen=True)
class Loss:
    """How many chains or queries a reason cost; ``why`` explains it."""

    reason: str
    count: int
    why: str


@dataclass(frozen=True)
class FunnelView:
    """The funnel of one policy's chains."""

    title: str
    chains: Markup
    queries: Markup
    total: FunnelCounts
    losses: tuple[Loss, ...]
    rows: tuple[FunnelRow, ...]


def funnel_views(record: Record) -> list[FunnelView]:
    """One funnel per policy whose chains fed a round."""
    return [
        _view(scope, scope.funnel, record) for scope in record.scopes if scope.funnel is not None
    ]


def _view(scope: Scope, funnel: Funnel, record: Record) -> FunnelView:
    rows = []
    for vertical, counts in sorted(funnel.by_vertical.items()):
        rows.append(FunnelRow(vertical, None, counts))
        rows += [
            FunnelRow(vertical, name.removeprefix(f"{vertical}/"), inner)
            for name, inner in sorted(funnel.by_attribute.items())
            if name.startswith(f"{vertical}/")
        ]
    records = record.summary.pairs if record.summary is not None else ()
    fed = [str(pairs.round) for pairs in records if pairs.source == scope.name]
    purpose = f", for round {' and '.join(fed)}" if fed else ""
    chains, queries = funnel.total.chains, funnel.total.queries
    chain_losses = _losses(chains.lost, ChainReason)
    gate_losses = _losses(queries.lost, Gate)
    pair_losses = _losses(_unpaired(queries), PairLoss)
    chain_bars = [
        FunnelBar("Requested", chains.requested),
        FunnelBar("Valid", chains.valid, _line(chain_losses)),
    ]
    query_bars = [
        FunnelBar("Asked", queries.asked),
        FunnelBar("Kept", queries.kept, _line(gate_losses)),
        FunnelBar("Paired", queries.paired, _line(pair_losses)),
    ]
    return FunnelView(
        f"Chains of {scope.title}{purpose}",
        funnel_figure(chain_bars, "chains"),
        funnel_figure(query_bars, "queries"),
        funnel.total,
        (*chain_losses, *gate_losses, *pair_losses),
        tuple(rows),
    )


def _unpaired(queries: QueryCounts) -> Mapping[str, int]:
    rest = queries.kept - queries.unanimous - queries.paired
    return {UNANIMOUS: queries.unanimous, NO_DIFFERING_CHAIN: rest}


def _losses(counts: Mapping[str, int], reasons: type[Reason]) -> list[Loss]:
    return [
        Loss(reason, count, reasons.explain(reason))
        for reason, count in counts.items()
        if count > 0
    ]


def _line(losses: list[Loss]) -> str:
    return " · ".join(f"{loss.count:,} {loss.reason.replace('_', ' ')}" for loss in losses)
