"""The run's page: what each section shows, and its template.

Autoescaping is on and the page's security policy admits no script, no remote address and no style
but the one sheet: texts of listings and models are shown as text.
"""

import base64
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from raypipe.config import Config, flatten
from raypipe.report import figures, funnel
from raypipe.report.drawing import Scale
from raypipe.report.formatting import (
    ABSENT,
    count,
    duration,
    interval,
    percent,
    points,
    points_interval,
    score,
)
from raypipe.report.gallery import Gallery
from raypipe.report.run_data import Record, scope_title
from raypipe.store.paths import is_of_round
from raypipe.summaries import TRAINED, Comparison, Group, SplitMetrics

HERE = Path(__file__).parent
_CREDENTIALS = re.compile(r"(?<=//)[^/@\s]+@|\?\S*")


@dataclass(frozen=True)
class AccuracyGain:
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

    rows: tuple[AccuracyGain, ...]
    axis: Markup


@dataclass(frozen=True)
class StageDuration:
    """How long one artifact took to make."""

    name: str
    seconds: float
    figure: Markup
    within: tuple[tuple[str, float], ...] = ()
    """The parts of its time that the stage measures."""


def set_page(template: str, beside: Path | None = None, **values: Any) -> bytes:
    """A template with the style sheet, as UTF-8 HTML.

    Args:
        template: its file name, in this package or in the directory ``beside``.
        beside: another directory of templates.
        values: for the template.
    """
    environment = Environment(
        loader=FileSystemLoader([HERE] if beside is None else [HERE, beside]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        score=score,
        percent=percent,
        points=points,
        interval=interval,
        points_interval=points_interval,
        count=count,
        duration=duration,
        scope_title=scope_title,
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
    summary = record.summary
    rounds = summary.pairs if summary is not None else ()
    page = set_page(
        "page.html.j2",
        config=config,
        model=_shown(summary.model if summary is not None else config.model.path),
        method=summary.method if summary is not None else config.training.method,
        record=record,
        comparison=summary.comparison if summary is not None else None,
        alarm=summary.alarm if summary is not None else None,
        digests=summary.digests if summary is not None else {},
        rounds=rounds,
        baseline=record.baseline,
        best=record.best,
        contrast=record.contrast,
        untrained=[round_ for round_ in rounds if round_.outcome != TRAINED],
        headline=headline(record),
        gallery=gallery,
        figures=figures,
        funnels=funnel.funnel_views(record),
        verticals=_gains(record, "by_vertical"),
        attributes=_gains(record, "by_attribute"),
        shares=_shares(record.seconds),
        durations=_durations(record.seconds, summary.within if summary is not None else {}),
        settings=_settings(config),
        resources=_resources(config),
    )
    return page


def headline(record: Record) -> str:
    """The result in one sentence."""
    summary = record.summary
    if summary is None:
        return "Nothing has been evaluated yet."
    comparison = summary.comparison
    if comparison is not None:
        before, after = summary.stage(comparison.start), summary.stage(comparison.to)
        if before is not None and after is not None:
            gain = f"{points(comparison.difference)} points{_interval(comparison)}"
            return (
                f"{scope_title(before.name)} {score(before.accuracy)} → {scope_title(after.name)} "
                f"{score(after.accuracy)} on {count(after.queries)} held-out queries: "
                f"{gain}."
            )
    shown = record.best or record.baseline
    if shown is None:
        return "Nothing has been evaluated yet."
    rounds = any(is_of_round(stage.name) for stage in summary.stages)
    rest = "no round did better on the anchor split" if rounds else "no round has been trained"
    return (
        f"{scope_title(shown.name)} {score(shown.accuracy)} on {count(shown.queries)} held-out "
        f"queries; {rest}."
    )


def _interval(comparison: Comparison) -> str:
    """The interval of a difference, and a warning where it includes zero."""
    if comparison.ci95 is None:
        return ""
    low, high = comparison.ci95
    shown = f", 95 % [{points(low)}, {points(high)}]"
    if low > 0 or comparison.difference == 0:
        return shown
    return f"{shown}, a loss" if high < 0 else f"{shown}, which may be noise"


def _gains(record: Record, grouping: str) -> GainsView | None:
    """Groups by falling gain between the two policies of the contrast; None without both."""
    splits = [_eval_metrics(record, stage.name) for stage in record.contrast or ()]
    if not splits or any(split is None for split in splits):
        return None
    earlier, later = (getattr(split, grouping) for split in splits)
    groups = [
        (name, earlier.get(name), later.get(name)) for name in sorted(set(earlier) | set(later))
    ]
    scale = figures.gain_scale(
        [group.accuracy for _, *pair in groups for group in pair if group is not None]
    )
    gains = [_gain(name, old, new, scale) for name, old, new in groups]
    gains.sort(key=lambda gain: -(gain.difference or 0.0))
    return GainsView(tuple(gains), figures.gain_axis(scale)) if gains else None


def _gain(name: str, old: Group | None, new: Group | None, scale: Scale) -> AccuracyGain:
    before, after = (None if group is None else group.accuracy for group in (old, new))
    queries = max(group.queries for group in (old, new) if group is not None)
    return AccuracyGain(name, queries, before, after, figures.gain_figure(before, after, scale))


def _eval_metrics(record: Record, name: str) -> SplitMetrics | None:
    scope = record.scope(name)
    return scope.metrics.eval if scope is not None and scope.metrics is not None else None


# The work behind an artifact, for those with a colour of their own.
WORK = {"chains": "sampling", "adapter": "training"}
SHORTEST_SHARE = 0.005  # share of the whole; shorter ones share one line


def _durations(
    seconds: Mapping[str, float], within: Mapping[str, Mapping[str, float]]
) -> list[StageDuration]:
    """The artifacts that took long, longest first, and the rest as one."""
    total = sum(seconds.values())
    longest = max(seconds.values(), default=0.0) or 1.0
    ordered = sorted(seconds.items(), key=lambda pair: (-pair[1], pair[0]))
    shown = [pair for pair in ordered if pair[1] >= SHORTEST_SHARE * total]
    if len(ordered) - len(shown) > 1:
        rest = sum(spent for _, spent in ordered[len(shown) :])
        shown.append((f"{len(ordered) - len(shown)} others", rest))
    else:
        shown = ordered
    return [
        StageDuration(
            name,
            spent,
            figures.bar_figure(spent / longest, f"bar {_work(name)}"),
            tuple(within.get(name, {}).items()),
        )
        for name, spent in shown
    ]


def _shares(seconds: Mapping[str, float]) -> list[tuple[str, float]]:
    """The share of the whole time that each kind of work took."""
    spent = {"sampling": 0.0, "training": 0.0, "rest": 0.0}
    for name, took in seconds.items():
        spent[_work(name)] += took
    total = sum(spent.values()) or 1.0
    return [(work, took / total) for work, took in spent.items()]


def _work(artifact: str) -> str:
    return WORK.get(artifact.rpartition("/")[2], "rest")


def _settings(config: Config) -> dict[str, str]:
    """The keys that change the outcome."""
    return {key: _shown(value) for key, value in flatten(config.outcome_keys()).items()}


def _resources(config: Config) -> dict[str, str]:
    """The other keys. Environment variables may be secrets: their names are all that is shown."""
    outcome_keys = set(flatten(config.outcome_keys()))
    return {
        key: "(set)" if key.startswith("sampling.environment.") else _shown(value)
        for key, value in flatten(config.shown()).items()
        if key not in outcome_keys and key != "run.directory"
    }


def _shown(value: Any) -> str:
    if value is None:
        return ABSENT
    if isinstance(value, list):
        return ", ".join(_shown(each) for each in value)
    return _CREDENTIALS.sub("", str(value))
