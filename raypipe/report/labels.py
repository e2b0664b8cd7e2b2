"""The page of labels: is the precision reached, and how much is published."""

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from raypipe.attributes.publishing import PublishingRule
from raypipe.attributes.vote import PUBLISHED, LabelReason
from raypipe.config import Config
from raypipe.report.drawing import Drawing, Scale, ticks
from raypipe.report.figures import bar_figure
from raypipe.report.page import set_page
from raypipe.store.artifacts import Run
from raypipe.store.paths import Paths
from raypipe.summaries import CoveragePoint, Quality, ReliabilityBin, wilson


def write_labels_page(
    config: Config, run: Run, *, scope: str, decision: str, policy: str, taken: Mapping[str, Any]
) -> str:
    """Write ``<scope>/report/index.html`` and return where it is.

    Args:
        scope: of the labels.
        decision: scope of what is published of them: committed ``calibration`` and ``quality``.
        policy: name of the policy that labeled.
        taken: ``listings``, ``queries``, ``chains``, ``seconds``, ``carried``, ``refused``,
            ``reasons`` (published labels by reason) and ``table`` (rows of what, expected, took).
    """
    quality = Quality.of(run.artifact(Paths(decision).quality))
    rule = PublishingRule.of(run.artifact(Paths(decision).calibration))
    path = Paths(scope).page
    page = set_page(
        "labels.html.j2",
        config=config,
        policy=policy,
        scope=scope,
        quality=quality,
        calibration=rule,
        statement=precision_statement(quality),
        taken=taken,
        published=PUBLISHED,
        reasons=_reasons(taken["reasons"]),
        coverage=coverage_figure(quality),
        reliability=label_reliability_figure(quality.reliability),
        groups=sorted(quality.groups.items(), key=lambda item: item[1].accuracy),
    )
    run.replace(path, page)
    return run.path(path)


def precision_statement(quality: Quality) -> str:
    """Whether the target precision is reached on eval, in one sentence."""
    target, precision = quality.target_precision, quality.precision
    if precision is None:
        return (
            f"Nothing is published: no confidence reaches a precision of {target:.3f} on the "
            "anchor split."
        )
    low, high = precision.ci95
    measured = f"{precision.value:.3f} [{low:.3f}, {high:.3f}] on eval"
    covered = f"{100 * quality.coverage.value:.1f} % of the queries"
    if not quality.holds:
        result = "does not hold"
    elif precision.value >= target:
        result = "holds"
    else:
        result = "is missed by no more than chance may explain"
    return f"The target precision of {target:.3f} {result}: {measured}, for {covered}."


def coverage_figure(quality: Quality) -> Markup:
    """Accuracy of what is answered against the share of queries answered, on eval."""
    curve, target = quality.curve, quality.target_precision
    drawing = Drawing(560, 290, "Accuracy against coverage on the eval split")
    bounds = [wilson(point.accuracy, point.queries) for point in curve]
    floor = min([target, *(point.accuracy for point in curve)])
    x, y = Scale(0, 1, 46, 540), Scale(max(0.0, floor - 0.1), 1, 246, 14)
    for tick in ticks(y.low, 1, 6):
        drawing.line((46, y(tick)), (540, y(tick)), "grid")
        drawing.text((40, y(tick) + 4), f"{tick:g}", "tick end")
    for tick in (0, 0.25, 0.5, 0.75, 1):
        drawing.text((x(tick), 264), f"{100 * tick:g} %", "tick middle")
    drawing.text(
        (293, 284), "coverage: share of queries with an answer this confident", "tick middle faint"
    )
    band = [(x(point.coverage), y(high)) for point, (_, high) in zip(curve, bounds, strict=True)]
    band += [
        (x(point.coverage), y(max(low, y.low)))
        for point, (low, _) in reversed(list(zip(curve, bounds, strict=True)))
    ]
    if len(curve) > 1:
        drawing.path(band, "interval best", closed=True)
        drawing.path([(x(p.coverage), y(p.accuracy)) for p in curve], "line accent")
    drawing.line((46, y(target)), (540, y(target)), "asked")
    drawing.text((540, y(target) - 6), f"target {target:g}", "tick end")
    for point in curve if len(curve) <= 20 else ():
        drawing.dot((x(point.coverage), y(point.accuracy)), 3, "point best", _caption(point))
    if quality.precision is not None:
        place = (x(quality.coverage.value), y(quality.precision.value))
        drawing.dot(place, 6, "point threshold", "what is published")
    return drawing.markup()


def label_reliability_figure(bins: Sequence[ReliabilityBin]) -> Markup:
    """How often answers of a probability are right, on eval, with Wilson intervals."""
    drawing = Drawing(346, 290, "Accuracy against the stated probability")
    x, y = Scale(0, 1, 40, 336), Scale(0, 1, 246, 14)
    for tick in (0, 0.25, 0.5, 0.75, 1):
        drawing.line((40, y(tick)), (336, y(tick)), "grid")
        drawing.text((34, y(tick) + 4), f"{tick:g}", "tick end")
        drawing.text((x(tick), 264), f"{tick:g}", "tick middle")
    drawing.text((188, 284), "probability stated", "tick middle faint")
    drawing.path([(x(0), y(0)), (x(1), y(1))], "diagonal")
    for each in bins:
        low, high = wilson(each.accuracy, each.queries)
        center = x(each.probability)
        words = (
            f"stated {each.probability:.3f}, right {each.accuracy:.3f} "
            f"[{low:.3f}, {high:.3f}], {each.queries:,} queries"
        )
        drawing.rect((center - 4, y(high)), (8, y(low) - y(high)), "interval best", words)
        drawing.dot((center, y(each.accuracy)), 4, "point best", words)
    return drawing.markup()


def _caption(point: CoveragePoint) -> str:
    return (
        f"confidence from {point.threshold:.3f}: {100 * point.coverage:.1f} % covered, "
        f"{point.accuracy:.3f} right of {point.queries:,}"
    )


def _reasons(counted: Mapping[str, int]) -> list[dict[str, Any]]:
    total = sum(counted.values()) or 1
    return [
        {
            "name": name,
            "why": LabelReason.explain(name),
            "labels": count,
            "share": count / total,
            "bar": bar_figure(count / total, "bar sampling" if name == PUBLISHED else "bar"),
        }
        for name, count in sorted(counted.items(), key=lambda item: -item[1])
    ]
