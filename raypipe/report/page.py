"""The page: what each section shows, and the template that sets it.

Autoescaping is on and the page's security policy admits no script, no remote address and no style
but the one sheet: texts of listings and models are shown, never obeyed.
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
from raypipe.report.gallery import Gallery
from raypipe.report.record import Group, Record, Scope, SplitMetrics, Summary, scope_title

HERE = Path(__file__).parent
ABSENT = "–"
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
class Spell:
    """How long one artifact took to make."""

    name: str
    kind: str
    seconds: float
    figure: Markup


def render_page(config: Config, record: Record, gallery: Gallery | None) -> bytes:
    """The whole page as UTF-8 HTML; the same record gives the same bytes."""
    environment = Environment(
        loader=FileSystemLoader(HERE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        score=score,
        percent=percent,
        points=points,
        count=count,
        duration=duration,
        title=scope_title,
    )
    sheet = (HERE / "page.css").read_text()
    digest = base64.b64encode(hashlib.sha256(sheet.encode()).digest()).decode()
    page = environment.get_template("page.html.j2").render(
        sheet=Markup(sheet),  # a package file, not data
        sheet_digest=digest,
        config=config,
        model=_said(record.summary.model or config.model.path),
        record=record,
        summary=record.summary,
        baseline=record.summary.baseline,
        best=record.summary.stage(record.summary.best),
        outcome=outcome(record.summary),
        gallery=gallery,
        figures=figures,
        funnels=funnel.funnel_views(record),
        verticals=_gains(record, "by_vertical"),
        attributes=_gains(record, "by_attribute"),
        spells=_spells(record.summary),
        settings=_settings(config),
        resources=_resources(config),
    )
    return page.encode()


def outcome(summary: Summary) -> str:
    """What came out, in one sentence."""
    comparison, best, baseline = summary.comparison, summary.stage(summary.best), summary.baseline
    if comparison is not None:
        before, after = summary.stage(comparison.start), summary.stage(comparison.to)
        if before is not None and after is not None:
            low, high = comparison.ci95 or (None, None)
            return (
                f"{before.title} {score(before.accuracy)} → {after.title} {score(after.accuracy)} "
                f"on {count(after.queries)} held-out queries: {points(comparison.difference)} "
                f"points, 95 % [{points(low)}, {points(high)}]{_verdict(low, high)}."
            )
    shown = best or baseline
    if shown is None:
        return "Nothing has been evaluated yet."
    return (
        f"{shown.title} answers {score(shown.accuracy)} of {count(shown.queries)} held-out queries "
        "right; no round has been compared with it yet."
    )


def _verdict(low: float | None, high: float | None) -> str:
    if low is None or high is None:
        return ""
    if low > 0:
        return ""
    return ", a loss" if high < 0 else ", which may be noise"


def _gains(record: Record, grouping: str) -> list[Gain]:
    """Groups by falling gain from the baseline to the best policy; empty without both."""
    before, after = _baseline_and_best(record)
    if before is None or after is None:
        return []
    earlier: Mapping[str, Group] = getattr(before, grouping)
    later: Mapping[str, Group] = getattr(after, grouping)
    gains = []
    for name in sorted(set(earlier) | set(later)):
        old, new = earlier.get(name, Group()), later.get(name, Group())
        figure = figures.gain_figure(old.accuracy, new.accuracy)
        gains.append(Gain(name, new.queries or old.queries, old.accuracy, new.accuracy, figure))
    return sorted(gains, key=lambda gain: -(gain.difference or 0.0))


def _baseline_and_best(record: Record) -> tuple[SplitMetrics | None, SplitMetrics | None]:
    baseline, best = record.summary.baseline, record.summary.best
    if baseline is None or best is None or best == baseline.name:
        return None, None
    return _eval_metrics(record.scope(baseline.name)), _eval_metrics(record.scope(best))


def _eval_metrics(scope: Scope | None) -> SplitMetrics | None:
    return scope.metrics.eval if scope is not None and scope.metrics is not None else None


KINDS = {"chains": "sampling", "adapter": "training", "listings": "catalog", "labels": "labeling"}


def _spells(summary: Summary) -> list[Spell]:
    longest = max(summary.seconds.values(), default=0.0) or 1.0
    ordered = sorted(summary.seconds.items(), key=lambda pair: (-pair[1], pair[0]))
    return [
        Spell(name, kind, seconds, figures.bar_figure(seconds / longest, f"bar {kind}"))
        for name, seconds in ordered
        for kind in [KINDS.get(name.rpartition("/")[2], "other")]
    ]


def _settings(config: Config) -> dict[str, str]:
    """The keys that change what comes out."""
    return {key: _said(value) for key, value in flatten(config.outcome()).items()}


def _resources(config: Config) -> dict[str, str]:
    """The other keys. Environment variables may be secrets: their names are all that is shown."""
    outcome_keys = set(flatten(config.outcome()))
    return {
        key: "(set)" if key.startswith("sampling.environment.") else _said(value)
        for key, value in flatten(config.model_dump(mode="json")).items()
        if key not in outcome_keys and key != "run.directory"
    }


def _said(value: Any) -> str:
    if value is None:
        return ABSENT
    if isinstance(value, list):
        return ", ".join(_said(each) for each in value)
    return _CREDENTIALS.sub("", str(value))


def score(figure: float | None) -> str:
    """An accuracy: 0.704."""
    return ABSENT if figure is None else f"{figure:.3f}"


def percent(share: float | None) -> str:
    return ABSENT if share is None else f"{share:.1%}".replace("%", " %")


def points(difference: float | None) -> str:
    """A difference of accuracies in percentage points, signed."""
    if difference is None:
        return ABSENT
    return f"{100 * difference:+.1f}".replace("-", "−")


def count(number: int | None) -> str:
    return ABSENT if number is None else f"{number:,}"


def duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"
