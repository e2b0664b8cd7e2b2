"""Metrics are declared once; the page and the dashboard name those that exist, and all of them."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from raypipe.runtime.metrics import METRICS, TAGS, Metric

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGE = (DOCS / "tracking.md").read_text()
DASHBOARD: dict[str, Any] = json.loads((DOCS / "grafana" / "raypipe.json").read_text())
NAMED = re.compile(r"(?<![a-z_])(?:ray_)?(raypipe_[a-z_]+)")


def exported(metric: Metric) -> set[str]:
    """The names that Prometheus sees."""
    if metric.kind == "counter":
        return {f"ray_{metric.name}_total"}
    return {f"ray_{metric.name}_{part}" for part in ("bucket", "count", "sum")}


def expressions() -> list[str]:
    return [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]


def test_names_are_valid_and_no_two_are_the_same() -> None:
    names = [metric.name for metric in METRICS]
    assert all(re.fullmatch(r"raypipe_[a-z]+(_[a-z]+)*", name) for name in names)
    assert len(set(names)) == len(names)
    assert all(metric.description.endswith(".") for metric in METRICS)


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
def test_the_page_has_a_row_for_every_metric_with_its_kind_and_tags(metric: Metric) -> None:
    rows = [line for line in PAGE.splitlines() if line.startswith(f"| `{metric.name}` |")]
    assert len(rows) == 1
    _, _, kind, tags, _, _ = (cell.strip() for cell in rows[0].split("|"))
    assert kind == metric.kind
    assert re.findall(r"`(\w+)`", tags) == list(metric.tags)


def test_the_page_names_no_metric_that_does_not_exist() -> None:
    known = {metric.name for metric in METRICS} | {f"{metric.name}_total" for metric in METRICS}
    assert set(NAMED.findall(PAGE)) <= known


def test_the_dashboard_asks_for_metrics_that_exist_and_for_all_of_them() -> None:
    known = {name for metric in METRICS for name in exported(metric)}
    text = json.dumps(DASHBOARD)
    asked = {f"ray_{name}" for name in NAMED.findall(text)}
    assert asked <= known
    for metric in METRICS:
        assert exported(metric) & asked, f"no panel shows {metric.name}"


@pytest.mark.parametrize("expression", expressions())
def test_a_panel_sums_over_tags_that_its_metric_has(expression: str) -> None:
    names = {f"ray_{name}" for name in NAMED.findall(expression)}
    (metric,) = [metric for metric in METRICS if exported(metric) & names]
    used = re.findall(r"by \(([\w, ]+)\)", expression)
    tags = {tag for group in used for tag in group.split(", ")}
    tags |= set(re.findall(r"(\w+)(?:=~|=)\"", expression))
    assert tags <= {*TAGS, *metric.tags, "le"}
