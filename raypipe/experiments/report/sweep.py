"""The page of a sweep: the paper's experiments as they came out here, for a reader who doubts."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from markupsafe import Markup

from raypipe.experiments.report import paper_tables, tables
from raypipe.experiments.report import sweep_figures as strips
from raypipe.experiments.report.paper_tables import Table6Row
from raypipe.experiments.report.sweep_figures import PoolLevel, PoolLine, PoolPoint
from raypipe.experiments.report.tables import AccuracyChange, ClaimRow
from raypipe.experiments.results import ArmResult, Results
from raypipe.report.drawing import Scale
from raypipe.report.figures import reliability_figure
from raypipe.report.gallery import Gallery
from raypipe.report.page import set_page

R = TypeVar("R")


@dataclass(frozen=True)
class FlipGallery:
    """Queries that two arms answer differently; ``before`` and ``after`` are their titles."""

    before: str
    after: str
    gallery: Gallery


@dataclass(frozen=True)
class Strips(Generic[R]):
    """Rows of a table, each with its figure, and the axis that the figures share."""

    axis: Markup
    rows: tuple[tuple[R, Markup], ...]
    counted: bool = False


@dataclass(frozen=True)
class VariantStrips:
    axis: Markup
    groups: dict[str, list[tuple[tables.VariantRow, Markup]]]


def render_sweep(results: Results, flips: FlipGallery | None) -> bytes:
    """The whole page as UTF-8 HTML; the same results give the same bytes.

    What the sweep did not try is left out, and so is the gallery without ``flips``.
    """
    values = _values(results)
    values["flips"] = flips
    values["sections"] = [(id_, name) for id_, name, key in SECTIONS if key is None or values[key]]
    return set_page("sweep.html.j2", Path(__file__).parent, **values)


# Anchor, name in the navigation, and the value without which a section is left out.
SECTIONS = (
    ("claims", "Claims", "compared"),
    ("table4", "Table 4", "table4"),
    ("table5", "Table 5", "table5"),
    ("table6", "Table 6", "table6"),
    ("variants", "Rounds, controls, options", "variants"),
    ("vote", "Vote", "votes"),
    ("funnel", "Funnel", "funnels"),
    ("groups", "Gains and losses", "changes"),
    ("gallery", "Gallery", "flips"),
    ("cost", "Cost", "costs"),
    ("refused", "Refused", "refused"),
    ("provenance", "Provenance", None),
)


def _values(results: Results) -> dict[str, Any]:
    stated, open_ = tables.claim_rows(results), tables.open_questions(results)
    scale = strips.scale_of(
        [bound for claim in [*stated, *open_] for bound in _reach(claim)], 236, around=0
    )
    changes = tables.changes(results)
    return {
        "results": results,
        "outcome": tables.headline(results),
        "intervals": tables.note_on_intervals(results),
        "paper": paper_tables.PAPER,
        "paper_setting": paper_tables.PAPER_SETTING,
        "main": tables.main_arm(results),
        "pairs": tables.pairs,
        "claims": _claims(stated, scale),
        "questions": _claims(open_, scale),
        "compared": results.comparisons,
        "table4": _table4(results),
        "table5": _table5(results),
        "equal_pairs": any(row.equal for row in paper_tables.table5(results)),
        "table6": paper_tables.table6(results),
        **_pool_figures(results),
        "variants": _variants(results),
        "votes": _votes(results),
        "funnels": _funnels(results),
        "changes": changes,
        "verticals": _changes(changes.verticals) if changes else None,
        "attributes": _changes(changes.attributes) if changes else None,
        "costs": _costs(results),
        "refused": results.refused,
    }


def _reach(claim: ClaimRow) -> tuple[float, ...]:
    return (*claim.ci95, *claim.seeds)


def _claims(stated: Sequence[ClaimRow], scale: Scale) -> Strips[ClaimRow] | None:
    rows = tuple((claim, strips.claim_figure(claim, scale)) for claim in stated)
    return Strips(strips.difference_axis(scale), rows) if rows else None


def _table4(results: Results) -> Strips[paper_tables.Table4Row] | None:
    rows = paper_tables.table4(results)
    return _accuracies(rows, [row.arm for row in rows]) if rows else None


def _table5(results: Results) -> Strips[paper_tables.Table5Row] | None:
    rows = paper_tables.table5(results)
    return _accuracies(rows, [row.arm for row in rows]) if rows else None


def _accuracies(rows: Sequence[R], arms: Sequence[ArmResult | None]) -> Strips[R]:
    scale = strips.scale_of([bound for arm in arms if arm is not None for bound in arm.ci95])
    drawn = [
        strips.accuracy_strip(arm.accuracy, arm.ci95, scale) if arm is not None else Markup("")
        for arm in arms
    ]
    return Strips(strips.accuracy_axis(scale), tuple(zip(rows, drawn, strict=True)))


def _variants(results: Results) -> VariantStrips | None:
    groups = tables.variants(results)
    contrasts = [row.contrast for rows in groups.values() for row in rows if row.contrast]
    scale = strips.scale_of([bound for each in contrasts for bound in each.ci95], around=0)
    drawn = {
        name: [
            (
                row,
                strips.difference_strip(row.contrast.difference, row.contrast.ci95, scale)
                if row.contrast
                else Markup(""),
            )
            for row in rows
        ]
        for name, rows in groups.items()
    }
    return VariantStrips(strips.difference_axis(scale), drawn) if drawn else None


def _pool_figures(results: Results) -> dict[str, Markup]:
    rows = paper_tables.table6(results)
    if not rows:
        return {"pool_figure": Markup(""), "paper_figure": Markup("")}
    lines = [
        PoolLine("DPO", "first", tuple(_points(rows, [row.dpo for row in rows]))),
        PoolLine(
            "self-learning", "second", tuple(_points(rows, [row.self_learning for row in rows]))
        ),
    ]
    start, vote = (
        tables.start_of(results, tables.main_arm(results)),
        tables.sibling(results, "vote"),
    )
    levels = [
        PoolLevel(name, arm.accuracy, kind)
        for name, arm, kind in (
            (start.title if start else "", start, "start"),
            (f"vote of {results.num_chains}", vote, "ceiling"),
        )
        if arm is not None
    ]
    paper = [
        PoolLine(
            name,
            kind,
            tuple(
                PoolPoint(round(share * paper_tables.PAPER_POOL), figures[method])
                for share, figures in paper_tables.PAPER_TABLE6.items()
            ),
        )
        for name, kind, method in (
            ("DPO", "first", "dpo"),
            ("self-learning", "second", "self_learning"),
        )
    ]
    label = "Accuracy against unlabeled listings"
    return {
        "pool_figure": strips.pool_figure([line for line in lines if line.points], levels, label),
        "paper_figure": strips.pool_figure(
            paper, [PoolLevel("SFT", paper_tables.PAPER_SFT, "start")], f"{label}, in the paper"
        ),
    }


def _points(rows: Sequence[Table6Row], arms: Sequence[ArmResult | None]) -> list[PoolPoint]:
    return [
        PoolPoint(row.listings, arm.accuracy, arm.ci95)
        for row, arm in zip(rows, arms, strict=True)
        if arm is not None
    ]


def _votes(results: Results) -> list[tuple[str, Any, Markup]]:
    return [
        (
            tables.title(results, vote.policy),
            vote,
            reliability_figure(vote.by_confidence, vote.num_chains),
        )
        for vote in results.votes
    ]


def _funnels(results: Results) -> list[tuple[tables.ArmFunnelRow, Markup]]:
    rows = tables.funnels(results)
    most = max((row.funnel.queries for row in rows), default=0)
    return [(row, strips.funnel_strip(row, most)) for row in rows]


def _changes(rows: Sequence[AccuracyChange]) -> Strips[AccuracyChange]:
    scale = strips.scale_of([change.difference for change in rows], 300, around=0)
    drawn = tuple((change, strips.change_figure(change.difference, scale)) for change in rows)
    counted = any(change.queries is not None for change in rows)
    return Strips(strips.difference_axis(scale), drawn, counted)


def _costs(results: Results) -> list[tuple[tables.CostRow, Markup]]:
    rows = tables.costs(results)
    longest = max((row.total for row in rows), default=0.0)
    return [(row, strips.cost_strip(row, longest)) for row in rows]
