"""The figures of a sweep's page: strips for table cells, and accuracy against listings."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from raypipe.experiments.report.tables import ArmFunnelRow, ClaimRow, CostRow
from raypipe.report.drawing import Drawing, Scale, ticks
from raypipe.report.formatting import points, score
from raypipe.summaries import Interval

STRIP = 220
TONES = {"holds": "holds", "fails": "fails", "inside_noise": "noise"}


def scale_of(figures: Iterable[float], width: float = STRIP, around: float | None = None) -> Scale:
    """One axis for all strips of a column, with a little air; ``around`` is always on it."""
    known = [*figures, *([around] if around is not None else [])] or [0.0, 1.0]
    low, high = min(known), max(known)
    air = (high - low) * 0.06 or 0.01
    return Scale(low - air, high + air, 8, width - 8)


def difference_axis(scale: Scale) -> Markup:
    """The numbers above a column of differences, in points."""
    drawing = Drawing(scale.end + 8, 14, "difference in percentage points", "strip")
    for tick in ticks(scale.low, scale.high, 5):
        drawing.text((scale(tick), 12), points(tick).removesuffix(".0"), "tick middle")
    return drawing.markup()


def accuracy_axis(scale: Scale) -> Markup:
    """The numbers above a column of accuracies."""
    drawing = Drawing(scale.end + 8, 14, "accuracy", "strip")
    for tick in ticks(scale.low, scale.high, 4):
        drawing.text((scale(tick), 12), f"{tick:.2f}", "tick middle")
    return drawing.markup()


def claim_figure(claim: ClaimRow, scale: Scale) -> Markup:
    """A row of the forest: interval and seeds; the side that was expected is tinted."""
    height = 38
    drawing = Drawing(
        scale.end + 8,
        height,
        f"{points(claim.difference)} points, from {points(claim.ci95[0])} to "
        f"{points(claim.ci95[1])}",
        "strip",
    )
    zero = scale(0)
    if claim.expected == "above":
        drawing.rect((zero, 0), (scale(scale.high) - zero, height), "expected")
    elif claim.expected == "below":
        drawing.rect((scale(scale.low), 0), (zero - scale(scale.low), height), "expected")
    drawing.line((zero, 0), (zero, height), "axis")
    tone = TONES[claim.verdict]
    _whisker(drawing, claim.difference, claim.ci95, scale, (16, tone))
    for difference in claim.seeds if len(claim.seeds) > 1 else ():
        drawing.dot((scale(difference), 27), 2, "seed", f"one seed: {points(difference)}")
    return drawing.markup()


def difference_strip(difference: float, ci95: Interval, scale: Scale) -> Markup:
    """A difference with its interval about zero."""
    drawing = Drawing(scale.end + 8, 20, f"{points(difference)} points", "strip")
    drawing.line((scale(0), 0), (scale(0), 20), "axis")
    tone = "noise" if ci95[0] <= 0 <= ci95[1] else "holds"
    _whisker(drawing, difference, ci95, scale, (10, tone))
    return drawing.markup()


def accuracy_strip(accuracy: float, ci95: Interval, scale: Scale, tone: str = "holds") -> Markup:
    """An accuracy with its interval."""
    drawing = Drawing(scale.end + 8, 20, f"accuracy {score(accuracy)}", "strip")
    for tick in ticks(scale.low, scale.high, 4):
        drawing.line((scale(tick), 0), (scale(tick), 20), "grid")
    _whisker(drawing, accuracy, ci95, scale, (10, tone))
    return drawing.markup()


def _whisker(
    drawing: Drawing, figure: float, ci95: Interval, scale: Scale, place: tuple[float, str]
) -> None:
    height, tone = place
    low, high = (scale(bound) for bound in ci95)
    drawing.line((low, height), (high, height), f"whisker {tone}")
    for end in (low, high):
        drawing.line((end, height - 3), (end, height + 3), f"whisker {tone}")
    drawing.dot((scale(figure), height), 4, f"mark {tone}")


def change_figure(difference: float, scale: Scale) -> Markup:
    """A bar that leaves zero to the right for a gain, to the left for a loss."""
    drawing = Drawing(scale.end + 8, 16, f"{points(difference)} points", "strip")
    zero, end = scale(0), scale(difference)
    kind = "gained" if difference >= 0 else "lost"
    drawing.rect((min(zero, end), 2), (abs(end - zero), 12), kind)
    drawing.line((zero, 0), (zero, 16), "axis")
    return drawing.markup()


def funnel_strip(row: ArmFunnelRow, most: int) -> Markup:
    """Queries, those that were kept and those that give pairs, one bar inside the other."""
    funnel = row.funnel
    x = Scale(0, most or 1, 0, STRIP)
    drawing = Drawing(STRIP, 14, f"{funnel.paired:,} of {funnel.queries:,} queries", "strip")
    drawing.rect((0, 1), (x(funnel.queries), 12), "asked-bar", f"{funnel.queries:,} queries")
    drawing.rect((0, 1), (x(funnel.kept), 12), "kept-bar", f"{funnel.kept:,} kept")
    drawing.rect((0, 1), (x(funnel.paired), 12), "kept", f"{funnel.paired:,} paired")
    return drawing.markup()


def cost_strip(row: CostRow, longest: float) -> Markup:
    """Seconds of an arm, by part, end to end."""
    x = Scale(0, longest or 1, 0, STRIP)
    drawing = Drawing(STRIP, 14, f"{row.total:.0f} seconds", "strip")
    start = 0.0
    parts = {
        "bar sampling": row.sampling,
        "bar training": row.training,
        "bar evaluation": row.evaluation,
        "bar": row.rest,
    }
    for kind, seconds in parts.items():
        drawing.rect((x(start), 1), (x(seconds), 12), kind, f"{seconds:.0f} s")
        start += seconds
    return drawing.markup()


@dataclass(frozen=True)
class PoolPoint:
    listings: int
    accuracy: float
    ci95: Interval | None = None


@dataclass(frozen=True)
class PoolLine:
    """Accuracy of a method over listings; ``kind`` is its colour."""

    name: str
    kind: str
    points: tuple[PoolPoint, ...]


@dataclass(frozen=True)
class PoolLevel:
    """A horizontal line to compare with."""

    name: str
    accuracy: float
    kind: str


def pool_figure(lines: Sequence[PoolLine], levels: Sequence[PoolLevel], label: str) -> Markup:
    """Accuracy against unlabeled listings, with bands of intervals where they are known."""
    left, right, top, bottom = 44, 370, 14, 258
    drawing = Drawing(530, 304, label)
    shown = [point for line in lines for point in line.points]
    bounds = [bound for point in shown for bound in (point.ci95 or (point.accuracy,) * 2)]
    figures = [*bounds, *(level.accuracy for level in levels)]
    air = (max(figures) - min(figures)) * 0.05 or 0.02
    y = Scale(min(figures) - air, max(figures) + air, bottom, top)
    x = Scale(0, max(point.listings for point in shown), left, right)
    for tick in ticks(y.low, y.high, 6):
        drawing.line((left, y(tick)), (right, y(tick)), "grid")
        drawing.text((left - 8, y(tick) + 4), f"{tick:.2f}", "tick end")
    drawing.line((left, bottom), (right, bottom), "axis")
    for listings in sorted({point.listings for point in shown}):
        drawing.line((x(listings), bottom), (x(listings), bottom + 4), "axis")
        drawing.text((x(listings), bottom + 19), f"{listings:,}", "tick middle")
    drawing.text(((left + right) / 2, bottom + 40), "unlabeled listings", "tick middle")
    for level in levels:
        height = y(level.accuracy)
        drawing.line((left, height), (right, height), f"level {level.kind}")
    for line in lines:
        _draw_band(drawing, line, x, y)
    for line in lines:
        _draw_line(drawing, line, x, y)
    _draw_names(drawing, lines, levels, y, right + 10)
    return drawing.markup()


def _draw_band(drawing: Drawing, line: PoolLine, x: Scale, y: Scale) -> None:
    known = [(x(point.listings), point.ci95) for point in line.points if point.ci95 is not None]
    if len(known) > 1:
        upper = [(place, y(ci95[1])) for place, ci95 in known]
        lower = [(place, y(ci95[0])) for place, ci95 in reversed(known)]
        drawing.path(upper + lower, f"band {line.kind}", closed=True)


def _draw_line(drawing: Drawing, line: PoolLine, x: Scale, y: Scale) -> None:
    places = [(x(point.listings), y(point.accuracy)) for point in line.points]
    drawing.path(places, f"curve {line.kind}")
    for point, place in zip(line.points, places, strict=True):
        words = f"{line.name}, {point.listings:,} listings: {score(point.accuracy)}"
        drawing.dot(place, 3.5, f"bead {line.kind}", words)


def _draw_names(
    drawing: Drawing, lines: Sequence[PoolLine], levels: Sequence[PoolLevel], y: Scale, left: float
) -> None:
    names = [
        (y(line.points[-1].accuracy), f"{line.name} {score(line.points[-1].accuracy)}", line.kind)
        for line in lines
    ]
    names += [
        (y(level.accuracy), f"{level.name} {score(level.accuracy)}", f"level-name {level.kind}")
        for level in levels
    ]
    names.sort()
    heights = spread_labels([height for height, _, _ in names], 16, (10, 258))
    for (_, words, kind), height in zip(names, heights, strict=True):
        drawing.text((left, height + 4), words, f"end-label {kind}")


def spread_labels(heights: Sequence[float], gap: float, room: tuple[float, float]) -> list[float]:
    """Rising heights, moved as little as need be so that each keeps ``gap`` from the next."""
    placed: list[float] = []
    for height in heights:
        placed.append(max(height, placed[-1] + gap if placed else room[0]))
    limit = room[1]
    for index in reversed(range(len(placed))):
        placed[index] = min(placed[index], limit)
        limit = placed[index] - gap
    return placed
