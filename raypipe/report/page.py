"""The page: what each section shows, and the template that sets it.

Autoescaping is on and the page's security policy admits no script, no remote address and no style
but the one sheet: texts of listings and models are shown, never obeyed.
"""

import base64
import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from raypipe.config import Config, flatten
from raypipe.report import figures, funnel, words
from raypipe.report.gallery import Gallery
from raypipe.report.record import Comparison, Group, Record, SplitMetrics, Summary

HERE = Path(__file__).parent
_CREDENTIALS = re.compile(r"(?<=//)[^/@\s]+@|\?\S*")


@dataclass(frozen=True)
class Gain:
    """Accuracy of a vertical or attribute before and after."""

    name: str
    queries: int
    before: float | None
    after: float | None
    figure: Markup

    @property
    def difference(self) -> float | None:
        if self.before is None or self.after is None:
            return None
        return self.after - self.before


@dataclass(frozen=True)
class GainsView:
    """A table of gains whose figures share one axis."""

    rows: tuple[Gain, ...]
    axis: Markup


@dataclass(frozen=True)
class Spell:
    """How long one artifact took to make."""

    name: str
    seconds: float
    figure: Markup
    within: tuple[tuple[str, float], ...] = ()
    """What the stage tells apart of its own time."""


# Why a round has no adapter, by its outcome.
UNTRAINED = {
    "no_pairs": "the chains gave no pair",
    "unchanged": "training changed nothing",
    "diverged": "training diverged",
}


def set_page(template: str, **values: Any) -> bytes:
    """A template of this package with the style sheet, as UTF-8 HTML."""
    environment = Environment(
        loader=FileSystemLoader(HERE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        score=words.score,
        percent=words.percent,
        points=words.points,
        interval=words.interval,
        points_interval=words.points_interval,
        count=words.count,
        duration=words.duration,
    )
    sheet = (HERE / "page.css").read_text()
    digest = base64.b64encode(hashlib.sha256(sheet.encode()).digest()).decode()
    page = environment.get_template(template).render(
        sheet=Markup(sheet),  # a package file, not data
        sheet_digest=digest,
        **values,
    )
    return page.encode()


def render_page(config: Config, record: Record, gallery: Gallery | None) -> bytes:
    """The whole page as UTF-8 HTML; the same record gives the same bytes."""
    page = set_page(
        "page.html.j2",
        config=config,
        model=_said(record.summary.model or config.model.path),
        record=record,
        summary=record.summary,
        baseline=record.summary.baseline,
        best=record.summary.stage(record.summary.best),
        contrast=record.summary.contrast,
        untrained=[pairs for pairs in record.summary.pairs if pairs.outcome in UNTRAINED],
        outcome=outcome(record.summary),
        gallery=gallery,
        figures=figures,
        funnels=funnel.funnel_views(record),
        verticals=_gains(record, "by_vertical"),
        attributes=_gains(record, "by_attribute"),
        shares=_shares(record.summary),
        spells=_spells(record.summary),
        why_untrained=UNTRAINED,
        settings=_settings(config),
        resources=_resources(config),
    )
    return page


def outcome(summary: Summary) -> str:
    """What came out, in one sentence."""
    comparison = summary.comparison
    if comparison is not None:
        before, after = summary.stage(comparison.start), summary.stage(comparison.to)
        if before is not None and after is not None:
            gain = f"{words.points(comparison.difference)} points{_interval(comparison)}"
            return (
                f"{before.title} {words.score(before.accuracy)} → {after.title} "
                f"{words.score(after.accuracy)} on {words.count(after.queries)} held-out queries: "
                f"{gain}."
            )
    shown = summary.stage(summary.best) or summary.baseline
    if shown is None:
        return "Nothing has been evaluated yet."
    rounds = any(stage.name.startswith("round-") for stage in summary.stages)
    rest = "no round did better on the anchor split" if rounds else "no round has been trained"
    return (
        f"{shown.title} {words.score(shown.accuracy)} on {words.count(shown.queries)} held-out "
        f"queries; {rest}."
    )


def _interval(comparison: Comparison) -> str:
    """The interval of a difference, and a plain word where it does not speak for a gain."""
    if comparison.ci95 is None:
        return ""
    low, high = comparison.ci95
    shown = f", 95 % [{words.points(low)}, {words.points(high)}]"
    if low > 0 or comparison.difference == 0:
        return shown
    return f"{shown}, a loss" if high < 0 else f"{shown}, which may be noise"


def _gains(record: Record, grouping: str) -> GainsView | None:
    """Groups by falling gain between the two policies of the contrast; None without both."""
    contrast = record.summary.contrast
    splits = [_eval_metrics(record, stage.name) for stage in contrast or ()]
    if not splits or any(split is None for split in splits):
        return None
    earlier, later = (getattr(split, grouping) for split in splits)
    groups = {
        name: (earlier.get(name, Group()), later.get(name, Group()))
        for name in sorted(set(earlier) | set(later))
    }
    scale = figures.gain_scale([group.accuracy for pair in groups.values() for group in pair])
    gains = [
        Gain(
            name,
            max(old.queries, new.queries),
            old.accuracy,
            new.accuracy,
            figures.gain_figure(old.accuracy, new.accuracy, scale),
        )
        for name, (old, new) in groups.items()
    ]
    gains.sort(key=lambda gain: -(gain.difference or 0.0))
    return GainsView(tuple(gains), figures.gain_axis(scale)) if gains else None


def _eval_metrics(record: Record, name: str) -> SplitMetrics | None:
    scope = record.scope(name)
    return scope.metrics.eval if scope is not None and scope.metrics is not None else None


# What an artifact is made by, where its name is not plain about it.
WORK = {"chains": "sampling", "adapter": "training"}
SHORTEST_SPELL = 0.005  # share of the whole; what is shorter is told in one line


def _spells(summary: Summary) -> list[Spell]:
    """The artifacts that took long, longest first, and the rest as one."""
    total = sum(summary.seconds.values())
    longest = max(summary.seconds.values(), default=0.0) or 1.0
    ordered = sorted(summary.seconds.items(), key=lambda pair: (-pair[1], pair[0]))
    shown = [pair for pair in ordered if pair[1] >= SHORTEST_SPELL * total]
    if len(ordered) - len(shown) > 1:
        rest = sum(seconds for _, seconds in ordered[len(shown) :])
        shown.append((f"{len(ordered) - len(shown)} others", rest))
    else:
        shown = ordered
    return [
        Spell(
            name,
            seconds,
            figures.bar_figure(seconds / longest, f"bar {_work(name)}"),
            tuple(summary.within.get(name, {}).items()),
        )
        for name, seconds in shown
    ]


def _shares(summary: Summary) -> list[tuple[str, float]]:
    """The share of the whole time that each kind of work took."""
    spent = {"sampling": 0.0, "training": 0.0, "rest": 0.0}
    for name, seconds in summary.seconds.items():
        spent[_work(name)] += seconds
    total = sum(spent.values()) or 1.0
    return [(work, seconds / total) for work, seconds in spent.items()]


def _work(artifact: str) -> str:
    return WORK.get(artifact.rpartition("/")[2], "rest")


def _settings(config: Config) -> dict[str, str]:
    """The keys that change what comes out."""
    return {key: _said(value) for key, value in flatten(config.outcome()).items()}


def _resources(config: Config) -> dict[str, str]:
    """The other keys. Environment variables may be secrets: their names are all that is shown."""
    outcome_keys = set(flatten(config.outcome()))
    return {
        key: "(set)" if key.startswith("sampling.environment.") else _said(value)
        for key, value in flatten(config.shown()).items()
        if key not in outcome_keys and key != "run.directory"
    }


def _said(value: Any) -> str:
    if value is None:
        return words.ABSENT
    if isinstance(value, list):
        return ", ".join(_said(each) for each in value)
    return _CREDENTIALS.sub("", str(value))
