"""Counters of a run as Ray metrics, for Ray's dashboard, Prometheus and Grafana.

Counters are recorded in the worker process, once per block, and count work: blocks that Ray retries
after a crash count twice, and finished work of a resumed run does not count again. The manifests
hold the contents of a run. A process without Ray counts nothing.

Ray prefixes names with ``ray_`` and appends ``_total`` to counters. There are no gauges: Ray drops
one that is not set every few seconds, so figures of policies go to the trackers.
"""

import sys
import threading
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import pyarrow as pa
import pyarrow.compute as pc

from raypipe.schemas import LABELS
from raypipe.store.artifacts import Artifact

MetricKind = Literal["counter", "histogram"]
TAGS = ("run", "scope", "stage", "policy")
"""Tags of every metric: the run's name, the two parts of the artifact's name, and the policy's id,
empty where there is none."""


@dataclass(frozen=True)
class Metric:
    """One metric; ``tags`` are those besides ``TAGS``."""

    name: str
    kind: MetricKind
    description: str
    tags: tuple[str, ...] = ()
    boundaries: tuple[float, ...] = field(default=())


LISTINGS = Metric("raypipe_listings", "counter", "Listings that came out of a stage as rows.")
QUARANTINED = Metric(
    "raypipe_quarantined", "counter", "Listings that a stage refused, by reason.", ("reason",)
)
QUERIES = Metric("raypipe_queries", "counter", "Queries that a stage made, asked or voted on.")
CHAINS = Metric("raypipe_chains", "counter", "Chains that engines completed.")
TOKENS = Metric("raypipe_tokens", "counter", "Tokens of those chains.")
INVALID_CHAINS = Metric(
    "raypipe_invalid_chains",
    "counter",
    "Chains without an answer in a vote, by reason.",
    ("reason",),
)
GATED = Metric("raypipe_gated", "counter", "Pool queries by gate decision.", ("gate",))
PAIRS = Metric("raypipe_pairs", "counter", "Preference pairs drawn.")
LABELS_MADE = Metric(
    "raypipe_labels", "counter", "Labels: answered, or why there is no answer.", ("reason",)
)
CONFIDENCE = Metric(
    "raypipe_confidence",
    "histogram",
    "Votes of a query's consensus over chains requested. Ray tells buckets and counts exactly, "
    "the sum only to half a bucket.",
    boundaries=tuple(tenth / 10 for tenth in range(1, 11)),
)
METRICS = (
    LISTINGS,
    QUARANTINED,
    QUERIES,
    CHAINS,
    TOKENS,
    INVALID_CHAINS,
    GATED,
    PAIRS,
    LABELS_MADE,
    CONFIDENCE,
)


@dataclass(frozen=True)
class Meter:
    """Counts for one stage of a run, in any process it is sent to."""

    run: str
    scope: str
    stage: str
    policy: str = ""

    @classmethod
    def of(cls, artifact: Artifact, policy_id: str = "") -> "Meter":
        """The meter of an artifact's stage."""
        scope, _, stage = artifact.name.rpartition("/")
        return cls(artifact.run.location.rstrip("/").rpartition("/")[2], scope, stage, policy_id)

    def count(self, metric: Metric, amount: float, **tags: str) -> None:
        """Add to a counter; zero is not recorded."""
        if amount > 0 and _counting():
            _recorder(metric).inc(amount, self._tags(tags))

    def count_by(self, metric: Metric, amounts: Mapping[str, int]) -> None:
        """Add to a counter by its own tag."""
        (tag,) = metric.tags
        for value, amount in amounts.items():
            self.count(metric, amount, **{tag: value})

    def observe(self, metric: Metric, values: Iterable[float]) -> None:
        """Add values to a histogram."""
        if _counting():
            recorder, tags = _recorder(metric), self._tags({})
            for value in values:
                recorder.observe(value, tags)

    def block(
        self,
        rows: pa.Table,
        refused: Iterable[Mapping[str, object]],
        counts: Mapping[str, float],
    ) -> None:
        """Count a block of listings: rows of any table with a ``listing_id`` (of labels also
        reason and confidence), rows of quarantine, and queries, chains and tokens in ``counts``."""
        if not _counting():
            return
        if "listing_id" in rows.column_names:
            self.count(LISTINGS, pc.count_distinct(rows.column("listing_id")).as_py())
        self.count_by(QUARANTINED, Counter(str(row["reason"]) for row in refused))
        for metric, name in ((QUERIES, "queries"), (CHAINS, "chains"), (TOKENS, "tokens")):
            self.count(metric, counts.get(name, 0))
        if rows.schema.equals(LABELS.schema):
            outcomes = pc.value_counts(rows.column("reason")).to_pylist()
            self.count_by(LABELS_MADE, {row["values"]: row["counts"] for row in outcomes})
            self.observe(CONFIDENCE, rows.column("confidence").to_pylist())

    def _tags(self, more: Mapping[str, str]) -> dict[str, str]:
        return {
            "run": self.run,
            "scope": self.scope,
            "stage": self.stage,
            "policy": self.policy,
            **more,
        }


_recorders: dict[str, Any] = {}
_lock = threading.Lock()


def _counting() -> bool:
    """Whether this process belongs to a Ray session, found without importing Ray."""
    ray = sys.modules.get("ray")
    return ray is not None and bool(ray.is_initialized())


def _recorder(metric: Metric) -> Any:
    """Ray's object for a metric, created once per process."""
    from ray.util import metrics as ray_metrics

    with _lock:
        if metric.name not in _recorders:
            tags = TAGS + metric.tags
            if metric.kind == "histogram":
                made = ray_metrics.Histogram(
                    metric.name, metric.description, list(metric.boundaries), tags
                )
            else:
                made = ray_metrics.Counter(metric.name, metric.description, tags)
            _recorders[metric.name] = made
        return _recorders[metric.name]
