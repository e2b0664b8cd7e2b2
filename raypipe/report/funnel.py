"""The funnel from requested chains to preference pairs, ready to draw."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from raypipe.report.figures import Level, funnel_figure
from raypipe.report.record import Record, Scope

# How the losses of consensus/funnel.py are said on the page, in the order they are named.
CHAIN_LOSSES = ("truncated", "malformed", "spilled", "out_of_schema", "missing")
GATE_LOSSES = ("no_valid_chain", "tie", "below_threshold")


@dataclass(frozen=True)
class FunnelRow:
    """The funnel of one vertical (``attribute`` is None) or of one of its attributes."""

    vertical: str
    attribute: str | None
    valid_share: float | None
    asked: int
    kept: int
    unanimous: int
    paired: int
    pairs: int


@dataclass(frozen=True)
class FunnelView:
    """The funnel of one policy's chains."""

    title: str
    chains: Markup
    queries: Markup
    paired: int
    pairs: int
    rows: tuple[FunnelRow, ...]


def funnel_views(record: Record) -> list[FunnelView]:
    """One funnel per policy whose chains fed a round."""
    return [_view(scope, record) for scope in record.scopes if scope.funnel]


def _view(scope: Scope, record: Record) -> FunnelView:
    counts: Mapping[str, Any] = scope.funnel or {}
    total = _row("", None, counts.get("total", {}))
    rows = []
    by_attribute = counts.get("by_attribute", {})
    for vertical, part in sorted(counts.get("by_vertical", {}).items()):
        rows.append(_row(vertical, None, part))
        rows += [
            _row(vertical, name.removeprefix(f"{vertical}/"), inner)
            for name, inner in sorted(by_attribute.items())
            if name.startswith(f"{vertical}/")
        ]
    fed = [str(pairs.round) for pairs in record.summary.pairs if pairs.scope == scope.name]
    purpose = f", for round {' and '.join(fed)}" if fed else ""
    return FunnelView(
        f"Chains of {scope.title}{purpose}",
        funnel_figure(_chain_levels(counts.get("total", {})), "chains"),
        funnel_figure(_query_levels(counts.get("total", {})), "queries"),
        total.paired,
        total.pairs,
        tuple(rows),
    )


def _chain_levels(counts: Mapping[str, Any]) -> list[Level]:
    chains: Mapping[str, int] = counts.get("chains", {})
    return [
        Level("Requested", chains.get("requested", 0)),
        Level("Valid", chains.get("valid", 0), _losses(chains, CHAIN_LOSSES)),
    ]


def _query_levels(counts: Mapping[str, Any]) -> list[Level]:
    queries: Mapping[str, int] = counts.get("queries", {})
    kept, paired = queries.get("kept", 0), queries.get("paired", 0)
    unanimous = queries.get("unanimous", 0)
    rest = {"unanimous": unanimous, "no_differing_chain": kept - unanimous - paired}
    return [
        Level("Asked", queries.get("asked", 0)),
        Level("Kept", kept, _losses(queries, GATE_LOSSES)),
        Level("Paired", paired, _losses(rest, tuple(rest))),
    ]


def _losses(counts: Mapping[str, int], names: tuple[str, ...]) -> str:
    return " · ".join(
        f"{counts[name]:,} {name.replace('_', ' ')}" for name in names if counts.get(name, 0) > 0
    )


def _row(vertical: str, attribute: str | None, counts: Mapping[str, Any]) -> FunnelRow:
    chains: Mapping[str, int] = counts.get("chains", {})
    queries: Mapping[str, int] = counts.get("queries", {})
    requested = chains.get("requested", 0)
    return FunnelRow(
        vertical,
        attribute,
        chains.get("valid", 0) / requested if requested else None,
        queries.get("asked", 0),
        queries.get("kept", 0),
        queries.get("unanimous", 0),
        queries.get("paired", 0),
        int(counts.get("pairs", 0)),
    )
