"""The report's figures. Each is one inline SVG; every number in them is also in a table."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from raypipe.report.drawing import Drawing, Scale, ticks
from raypipe.report.formatting import score, whole_percent
from raypipe.report.run_data import Confidence, scope_title
from raypipe.summaries import ConfidenceLevel, StageSummary, wilson

PlotPoint = tuple[float, float]


def accuracy_figure(stages: Sequence[StageSummary], best: str | None) -> Markup:
    """Accuracy with its interval over pretrained, SFT and rounds; anchor accuracy beside it."""
    shown = [stage for stage in stages if stage.accuracy is not None]
    if not shown:
        return Markup("")
    drawing = Drawing(560, 330, "Accuracy per stage with 95 % intervals")
    values = [figure for stage in shown for figure in _figures(stage)]
    low, high = max(0.0, min(values) - 0.04), min(1.0, max(values) + 0.06)
    y = Scale(low, high, 270, 16)
    for tick in ticks(low, high, 7):
        drawing.line((44, y(tick)), (550, y(tick)), "grid")
        drawing.text((36, y(tick) + 4), f"{tick:.2f}", "tick end")
    room = 500 / len(shown)
    places = {stage.name: 50 + room * (index + 0.5) for index, stage in enumerate(shown)}
    _draw_path(drawing, shown, places, y)
    for stage in shown:
        _draw_stage(drawing, stage, places[stage.name], y, stage.name == best)
    return drawing.markup()


def _figures(stage: StageSummary) -> list[float]:
    found = [stage.accuracy, stage.anchor_accuracy, *(stage.ci95 or ())]
    return [figure for figure in found if figure is not None]


def _draw_path(
    drawing: Drawing, stages: Sequence[StageSummary], places: Mapping[str, float], y: Scale
) -> None:
    """Join what followed what: a round that was refused is a dashed dead end."""
    last: PlotPoint | None = None
    for stage in stages:
        here = (places[stage.name], y(stage.accuracy or 0.0))
        if last is not None:
            drawing.line(last, here, "path dashed" if stage.is_refused else "path")
        if not stage.is_refused:
            last = here


def _draw_stage(drawing: Drawing, stage: StageSummary, x: float, y: Scale, is_best: bool) -> None:
    accuracy = stage.accuracy or 0.0
    kind = "best" if is_best else "plain"
    if stage.ci95 is not None:
        low, high = stage.ci95
        words = f"{scope_title(stage.name)}: {accuracy:.3f}, 95 % [{low:.3f}, {high:.3f}]"
        drawing.rect((x - 5, y(high)), (10, y(low) - y(high)), f"interval {kind}", words)
    hollow = " hollow" if stage.is_refused else ""
    drawing.dot(
        (x, y(accuracy)), 5, f"point {kind}{hollow}", f"{scope_title(stage.name)}: {accuracy:.3f}"
    )
    drawing.text((x + 12, y(accuracy) + 5), f"{accuracy:.3f}", f"value {kind}")
    if stage.anchor_accuracy is not None:
        words = f"{scope_title(stage.name)}, anchor: {stage.anchor_accuracy:.3f}"
        drawing.dot((x - 16, y(stage.anchor_accuracy)), 3.5, "anchor", words)
    drawing.text((x, 294), scope_title(stage.name), f"label middle {kind}")
    if stage.decision is not None:
        drawing.text((x, 312), stage.decision.replace("_", " "), "tick middle")


def confidence_figure(confidence: Confidence, threshold: float) -> Markup:
    """Share of pool queries by votes of their consensus; those above the threshold stand out."""
    drawing = Drawing(346, 172, "Pool queries by confidence of their consensus")
    shares = [
        (kept + dropped) / confidence.queries
        for kept, dropped in zip(confidence.kept, confidence.dropped, strict=True)
    ]
    x, width = _vote_columns(confidence.num_chains)
    y = Scale(0, max(shares), 150, 36)
    for votes, share in enumerate(shares):
        kept, dropped = confidence.kept[votes], confidence.dropped[votes]
        name = f"{votes} of {confidence.num_chains} votes" if votes else "no consensus"
        left, kept_share = x(votes) - width / 2, kept / confidence.queries
        drawing.rect(
            (left, y(share)), (width, y(kept_share) - y(share)), "dropped", f"{name}: {dropped:,}"
        )
        drawing.rect(
            (left, y(kept_share)), (width, 150 - y(kept_share)), "kept", f"{name}: {kept:,} kept"
        )
        if share > 0:
            drawing.text((x(votes), y(share) - 5), whole_percent(share), "value middle")
    drawing.line((20, 150), (340, 150), "axis")
    boundary = x(math.floor(threshold * confidence.num_chains + 1e-9) + 0.5)
    drawing.line((boundary, 4), (boundary, 150), "boundary")
    drawing.text((boundary - 5, 13), f"C > {threshold:g} is kept", "tick end")
    _draw_vote_labels(drawing, confidence.num_chains, 166, "none")
    return drawing.markup()


def reliability_figure(levels: Sequence[ConfidenceLevel], num_chains: int) -> Markup:
    """Accuracy of the anchor's consensus at each number of votes, with Wilson intervals."""
    shown = [level for level in levels if level.queries and level.votes]
    drawing = Drawing(346, 190, "Accuracy of the consensus against its confidence")
    x, _ = _vote_columns(num_chains)
    y = Scale(0, 1, 150, 10)
    for tick in (0, 0.25, 0.5, 0.75, 1):
        drawing.line((30, y(tick)), (340, y(tick)), "grid")
        drawing.text((25, y(tick) + 4), f"{tick:g}", "tick end")
    diagonal = [(x(votes), y(votes / num_chains)) for votes in (1, num_chains)]
    drawing.path(diagonal, "diagonal")
    for level in shown:
        accuracy = level.accuracy
        low, high = wilson(accuracy, level.queries)
        words = (
            f"{level.votes} of {num_chains} votes: {accuracy:.3f} right, 95 % [{low:.3f}, "
            f"{high:.3f}], {level.queries:,} queries"
        )
        center = x(level.votes)
        drawing.rect((center - 4, y(high)), (8, y(low) - y(high)), "interval best", words)
        drawing.dot((center, y(accuracy)), 4, "point best", words)
        drawing.text((center, 184), f"{level.queries:,}", "tick middle faint")
    drawing.text((25, 184), "n", "tick end faint")
    _draw_vote_labels(drawing, num_chains, 166)
    return drawing.markup()


def _vote_columns(num_chains: int) -> tuple[Scale, float]:
    room = 310 / (num_chains + 1)
    return Scale(0, num_chains, 30 + room / 2, 340 - room / 2), min(30.0, room * 0.78)


def _draw_vote_labels(
    drawing: Drawing, num_chains: int, height: float, none: str | None = None
) -> None:
    x, _ = _vote_columns(num_chains)
    every = math.ceil(num_chains / 10)
    if none is not None:
        drawing.text((x(0), height), none, "tick middle")
    for votes in range(num_chains, 0, -every):
        drawing.text((x(votes), height), f"{votes}/{num_chains}", "tick middle")


@dataclass(frozen=True)
class FunnelBar:
    """One bar of a funnel; ``lost`` says where the difference to the bar above went."""

    name: str
    count: int
    lost: str = ""


def funnel_figure(levels: Sequence[FunnelBar], noun: str) -> Markup:
    """Bars that narrow; the share is of the first bar."""
    step, left, reach = 52, 92, 290
    drawing = Drawing(520, step * len(levels), f"Funnel of {noun}")
    most = max((level.count for level in levels), default=0) or 1
    x = Scale(0, most, left, left + reach)
    for index, level in enumerate(levels):
        top = index * step + 4
        if index:
            above = x(levels[index - 1].count)
            corners = [(left, top - 26), (above, top - 26), (x(level.count), top), (left, top)]
            drawing.path(corners, "slope", closed=True)
        drawing.rect((left, top), (x(level.count) - left, 22), "kept", f"{level.count:,}")
        drawing.text((left - 10, top + 15), level.name, "label end")
        share = f" · {whole_percent(level.count / most)}" if index else ""
        drawing.text((x(level.count) + 8, top + 15), f"{level.count:,}{share}", "value")
        if level.lost:
            drawing.text((left + 2, top - 9), level.lost, "tick")
    return drawing.markup()


@dataclass(frozen=True)
class Curve:
    """What one small training chart shows; more than one key draws more than one line."""

    title: str
    keys: tuple[str, ...]
    names: tuple[str, ...] = ("",)
    unit: str = "g"


CURVES = (
    Curve("Loss", ("loss",)),
    Curve("Reward margin", ("margin",)),
    Curve("Reward accuracy", ("reward_accuracy",)),
    Curve("Log-probability", ("chosen_logp", "rejected_logp"), ("chosen", "rejected")),
    Curve("Gradient norm", ("grad_norm",)),
    Curve("Learning rate", ("learning_rate",), unit="e"),
)


def training_figures(steps: Sequence[Mapping[str, float]]) -> list[Markup]:
    """A small chart for every curve that the training log has figures for."""
    figures = []
    for curve in CURVES:
        lines = {
            name: points
            for key, name in zip(curve.keys, curve.names, strict=True)
            if (points := _points(steps, key))
        }
        if lines:
            figures.append(_curve_figure(curve, lines))
    return figures


def _points(steps: Sequence[Mapping[str, float]], key: str) -> list[PlotPoint]:
    return [
        (float(step.get("step", index + 1)), float(step[key]))
        for index, step in enumerate(steps)
        if isinstance(step.get(key), int | float) and math.isfinite(step[key])
    ]


def _curve_figure(curve: Curve, lines: Mapping[str, Sequence[PlotPoint]]) -> Markup:
    drawing = Drawing(340, 150, f"{curve.title} per optimizer step")
    values = [value for points in lines.values() for _, value in points]
    places = [place for points in lines.values() for place, _ in points]
    low, high = min(values), max(values)
    margin = (high - low) * 0.12 or abs(high) * 0.1 or 1.0
    y = Scale(low - margin, high + margin, 124, 26)
    x = Scale(min(places), max(places) if max(places) > min(places) else min(places) + 1, 56, 272)
    drawing.text((0, 13), curve.title, "label")
    for tick in ticks(low - margin, high + margin, 4):
        drawing.line((52, y(tick)), (276, y(tick)), "grid")
        drawing.text((46, y(tick) + 4), _short(tick, curve.unit), "tick end")
    drawing.text((x(min(places)), 142), f"step {min(places):g}", "tick")
    if max(places) > min(places):
        drawing.text((x(max(places)), 142), f"{max(places):g}", "tick end")
    for index, points in enumerate(lines.values()):
        kind = "second" if index else "first"
        drawing.path([(x(place), y(value)) for place, value in points], f"curve {kind}")
        for place, value in points if len(points) <= 30 else points[-1:]:
            words = f"step {place:g}: {_short(value, curve.unit)}"
            drawing.dot((x(place), y(value)), 2.2, f"bead {kind}", words)
    _draw_endings(drawing, curve, lines, (x, y))
    return drawing.markup()


def _draw_endings(
    drawing: Drawing,
    curve: Curve,
    lines: Mapping[str, Sequence[PlotPoint]],
    scales: tuple[Scale, Scale],
) -> None:
    """Name each line at its end, or say its last value; two names keep clear of each other."""
    x, y = scales
    heights = [y(points[-1][1]) for points in lines.values()]
    if len(heights) == 2 and abs(heights[0] - heights[1]) < 14:
        middle, upper = sum(heights) / 2, heights.index(min(heights))
        heights[upper], heights[1 - upper] = middle - 7, middle + 7
    for index, (name, points) in enumerate(lines.items()):
        place, value = points[-1]
        kind = "second" if index else "first"
        words = name or _short(value, curve.unit)
        drawing.text((x(place) + 7, heights[index] + 4), words, f"end-label {kind}")


def _short(value: float, unit: str) -> str:
    if unit == "e" and value:
        mantissa, exponent = f"{value:.1e}".split("e")
        return f"{mantissa.removesuffix('.0')}e{int(exponent)}"
    return f"{value:.3g}".replace("-", "−") if value else "0"


def gain_scale(accuracies: Sequence[float | None]) -> Scale:
    """One axis for all rows of a table of gains, in whole tenths."""
    known = [accuracy for accuracy in accuracies if accuracy is not None] or [0.0, 1.0]
    low, high = math.floor(min(known) * 10) / 10, math.ceil(max(known) * 10) / 10
    return Scale(low, high if high > low else low + 0.1, 8, 272)


def gain_axis(scale: Scale) -> Markup:
    """The numbers above a column of gain figures."""
    drawing = Drawing(280, 14, "accuracy", "strip")
    for tick in ticks(scale.low, scale.high, 5):
        drawing.text((scale(tick), 12), f"{tick:.1f}", "tick middle")
    return drawing.markup()


def gain_figure(before: float | None, after: float | None, scale: Scale) -> Markup:
    """Before and after on one line, small enough for a table cell."""
    drawing = Drawing(280, 20, f"from {score(before)} to {score(after)}", "strip")
    for tick in ticks(scale.low, scale.high, 5):
        drawing.line((scale(tick), 0), (scale(tick), 20), "grid")
    if before is not None and after is not None:
        direction = "gain" if after >= before else "loss"
        drawing.line((scale(before), 10), (scale(after), 10), f"span {direction}")
    if before is not None:
        drawing.dot((scale(before), 10), 4, "before", f"before: {before:.3f}")
    if after is not None:
        drawing.dot((scale(after), 10), 4.5, "point best", f"after: {after:.3f}")
    return drawing.markup()


def bar_figure(share: float, kind: str) -> Markup:
    """A horizontal bar for a table cell."""
    drawing = Drawing(300, 14, f"{whole_percent(share)} of the longest", "strip")
    drawing.rect((0, 1), (max(1.0, share * 300), 12), kind)
    return drawing.markup()
