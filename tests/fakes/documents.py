"""Documents of a run with plausible figures, made of the types that the stages write."""

from typing import Any

from raypipe.summaries import (
    CollapseMetrics,
    Funnel,
    FunnelCounts,
    Metrics,
    SplitMetrics,
    Summary,
)

WELL = CollapseMetrics(queries=400, entropy=0.9, entropy_error=0.02, confidence=0.6, unanimity=0.2)


def split_metrics(accuracy: float | None = 0.5, **fields: Any) -> SplitMetrics:
    """Figures of a split; an interval of 0.05 to either side."""
    values = {
        "accuracy": accuracy,
        "ci95": None if accuracy is None else (accuracy - 0.05, accuracy + 0.05),
        "queries": 0 if accuracy is None else 100,
        "listings": 0 if accuracy is None else 50,
        "invalid": None if accuracy is None else 0.1,
        "macro_vertical": accuracy,
        "macro_attribute": accuracy,
        "by_vertical": {},
        "by_attribute": {},
    }
    return SplitMetrics.model_validate(values | fields)


def metrics(accuracy: float | None = 0.5, anchor: float | None = 0.5, **fields: Any) -> Metrics:
    """metrics.json of a policy that nobody voted on."""
    known = {"vote": None, "collapse": None} | fields
    return Metrics(eval=split_metrics(accuracy), anchor=split_metrics(anchor), **known)


def funnel(pairs: int = 5, kept: int = 3, paired: int = 2) -> Funnel:
    """funnel.json with these totals."""
    counts = {
        "chains": {"requested": 63, "valid": 60, "malformed": 3},
        "queries": {"asked": 9, "kept": kept, "tie": 9 - kept, "unanimous": 0, "paired": paired},
        "pairs": pairs,
    }
    return Funnel(total=FunnelCounts.model_validate(counts), by_vertical={}, by_attribute={})


def summary_json(**fields: Any) -> dict[str, Any]:
    """summary.json as values, with these fields in place of an empty run's."""
    empty = {
        "version": 1,
        "run": "synthetic",
        "model": "embedded:nano",
        "method": "dpo",
        "stages": [],
        "best": "sft",
        "alarm": None,
        "comparison": None,
        **{name: {} for name in ("funnel", "digests", "seconds", "quarantined", "within")},
        "pairs": [],
        "unchanged": [],
    }
    return empty | fields


def summary(**fields: Any) -> Summary:
    return Summary.model_validate(summary_json(**fields))


def stage(name: str, **fields: Any) -> dict[str, Any]:
    """A line of summary.json's stages."""
    known = {
        "name": name,
        "accuracy": 0.5,
        "ci95": [0.45, 0.55],
        "queries": 100,
        "invalid": 0.1,
        "anchor_accuracy": 0.5,
        "decision": None,
        "policy_id": f"{name}-0123",
    }
    return known | fields


def record(number: int, **fields: Any) -> dict[str, Any]:
    """A round of summary.json's pairs."""
    known = {"round": number, "start": "sft", "source": "sft", "pairs": 5, "queries": 2}
    return known | {"outcome": "trained", "reason": ""} | fields
