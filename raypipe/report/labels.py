"""The page of a labeling: does the asked precision hold, and how much is published for it."""

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from raypipe.artifacts import Run
from raypipe.config import Config
from raypipe.report.drawing import Drawing, Scale, ticks
from raypipe.report.figures import bar_figure, wilson
from raypipe.report.page import set_page

OUTCOMES = {
    "published": "published",
    "below_precision": "answered, below the asked precision",
    "tie": "tie for the first place",
    "no_valid_chain": "no chain with an allowed value",
}


def write(config: Config, run: Run, *, scope: str, policy: str, taken: Mapping[str, Any]) -> str:
    """Write ``<scope>/report/index.html`` and return where it is.

    Args:
        scope: of the labels, with committed ``calibration`` and ``quality``.
        policy: name of the policy that labeled.
        taken: ``listings``, ``queries``, ``chains``, ``seconds``, ``carried``, ``refused``,
            ``outcomes`` (labels by outcome) and ``table`` (rows of what, expected, took).
    """
    quality = run.artifact(f"{scope}/quality").read_json("quality.json")
    calibration = run.artifact(f"{scope}/calibration").read_json("calibration.json")
    path = f"{scope}/report/index.html"
    page = set_page(
        "labels.html.j2",
        config=config,
        policy=policy,
        scope=scope,
        quality=quality,
        calibration=calibration,
        verdict=verdict(quality),
        taken=taken,
        outcomes=_outcomes(taken["outcomes"]),
        coverage=coverage_figure(quality),
        reliability=reliability_figure(quality["reliability"]),
        groups=sorted(quality["groups"].items(), key=lambda item: item[1]["accuracy"]),
    )
    run.replace(path, page)
    return run.path(path)


def verdict(quality: Mapping[str, Any]) -> str:
    """Whether the asked precision holds on eval, in one sentence."""
    asked, precision = quality["asked"], quality["precision"]
    if precision is None:
        return (
            f"Nothing is published: no confidence reaches a precision of {asked:.3f} on the anchor "
            "split."
        )
    low, high = precision["ci95"]
    measured = f"{precision['value']:.3f} [{low:.3f}, {high:.3f}] on eval"
    covered = f"{100 * quality['coverage']['value']:.1f} % of the queries"
    if not quality["holds"]:
        found = "does not hold"
    elif precision["value"] >= asked:
        found = "holds"
    else:
        found = "was missed by no more than chance may explain"
    return f"The asked precision of {asked:.3f} {found}: {measured}, for {covered}."


def coverage_figure(quality: Mapping[str, Any]) -> Markup:
    """Accuracy of what is answered against the share of queries answered, on eval."""
    curve: Sequence[Mapping[str, Any]] = quality["curve"]
    drawing = Drawing(560, 290, "Accuracy against coverage on the eval split")
    bounds = [wilson(point["accuracy"], point["queries"]) for point in curve]
    floor = min([quality["asked"], *(point["accuracy"] for point in curve)])
    x, y = Scale(0, 1, 46, 540), Scale(max(0.0, floor - 0.1), 1, 246, 14)
    for tick in ticks(y.low, 1, 6):
        drawing.line((46, y(tick)), (540, y(tick)), "grid")
        drawing.text((40, y(tick) + 4), f"{tick:g}", "tick end")
    for tick in (0, 0.25, 0.5, 0.75, 1):
        drawing.text((x(tick), 264), f"{100 * tick:g} %", "tick middle")
    drawing.text(
        (293, 284), "coverage: share of queries with an answer this confident", "tick middle faint"
    )
    band = [(x(point["coverage"]), y(high)) for point, (_, high) in zip(curve, bounds, strict=True)]
    band += [
        (x(point["coverage"]), y(max(low, y.low)))
        for point, (low, _) in reversed(list(zip(curve, bounds, strict=True)))
    ]
    if len(curve) > 1:
        drawing.path(band, "interval best", closed=True)
        drawing.path([(x(p["coverage"]), y(p["accuracy"])) for p in curve], "line accent")
    drawing.line((46, y(quality["asked"])), (540, y(quality["asked"])), "asked")
    drawing.text((540, y(quality["asked"]) - 6), f"asked {quality['asked']:g}", "tick end")
    for point in curve if len(curve) <= 20 else ():
        drawing.dot((x(point["coverage"]), y(point["accuracy"])), 3, "point best", _said(point))
    if quality["precision"] is not None:
        place = (x(quality["coverage"]["value"]), y(quality["precision"]["value"]))
        drawing.dot(place, 6, "point threshold", "what is published")
    return drawing.markup()


def reliability_figure(bins: Sequence[Mapping[str, Any]]) -> Markup:
    """How often answers of a probability are right, on eval, with Wilson intervals."""
    drawing = Drawing(346, 290, "Accuracy against the stated probability")
    x, y = Scale(0, 1, 40, 336), Scale(0, 1, 246, 14)
    for tick in (0, 0.25, 0.5, 0.75, 1):
        drawing.line((40, y(tick)), (336, y(tick)), "grid")
        drawing.text((34, y(tick) + 4), f"{tick:g}", "tick end")
        drawing.text((x(tick), 264), f"{tick:g}", "tick middle")
    drawing.text((188, 284), "probability stated", "tick middle faint")
    drawing.path([(x(0), y(0)), (x(1), y(1))], "diagonal")
    for found in bins:
        low, high = wilson(found["accuracy"], found["queries"])
        center = x(found["probability"])
        words = (
            f"stated {found['probability']:.3f}, right {found['accuracy']:.3f} "
            f"[{low:.3f}, {high:.3f}], {found['queries']:,} queries"
        )
        drawing.rect((center - 4, y(high)), (8, y(low) - y(high)), "interval best", words)
        drawing.dot((center, y(found["accuracy"])), 4, "point best", words)
    return drawing.markup()


def _said(point: Mapping[str, Any]) -> str:
    return (
        f"confidence from {point['threshold']:.3f}: {100 * point['coverage']:.1f} % covered, "
        f"{point['accuracy']:.3f} right of {point['queries']:,}"
    )


def _outcomes(counted: Mapping[str, int]) -> list[dict[str, Any]]:
    total = sum(counted.values()) or 1
    return [
        {
            "name": OUTCOMES.get(name, name),
            "labels": count,
            "share": count / total,
            "bar": bar_figure(count / total, "bar sampling" if name == "published" else "bar"),
        }
        for name, count in sorted(counted.items(), key=lambda item: -item[1])
    ]
