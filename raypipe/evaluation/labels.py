"""Labels of verified listings: their calibration, and whether a precision is reached."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from raypipe import seeds
from raypipe.attributes.publishing import PublishingRule, published
from raypipe.attributes.vote import PUBLISHED
from raypipe.config import Config
from raypipe.errors import InputError
from raypipe.evaluation.accuracy import estimate
from raypipe.evaluation.confidence import (
    brier_score,
    calibration_error,
    coverage_curve,
    fit,
    reliability,
    threshold_for,
)
from raypipe.schemas import LABELS, TRUTH
from raypipe.store.artifacts import Attempt, Run, get_or_commit
from raypipe.store.manifest import Commit
from raypipe.store.paths import CATALOG, Paths
from raypipe.summaries import LabelGroup, MeasuredShare, Quality, SellerComparison

Row = dict[str, Any]


def calibrate(config: Config, run: Run, *, calibration_run: str, scope: str) -> Commit:
    """Fit the calibration on the anchor labels of a calibration run and find the threshold of
    the precision that is asked for.

    Commits ``<scope>/calibration`` with ``calibration.json``.

    Raises:
        InputError: there is no anchor query to fit on.
    """
    target = config.labeling.precision

    def make(attempt: Attempt) -> Commit:
        rows = _verified(run, calibration_run, "anchor")
        if not rows:
            raise InputError(
                "no anchor query to calibrate labels on: set catalog.anchor_share above 0"
            )
        answered = [row for row in rows if row["answer"] is not None]
        confidences = [row["confidence"] for row in answered]
        right = [row["right"] for row in answered]
        calibration = fit(confidences, right)
        probabilities = calibration.probabilities(confidences)
        threshold = threshold_for(target, probabilities, right)
        enough = probabilities >= (np.inf if threshold is None else threshold)
        rule = PublishingRule(
            signal="confidence",
            knots=calibration.points,
            threshold=threshold,
            scopes={},
            target_precision=target,
            queries=len(rows),
            answered=len(answered),
            anchor_precision=_share(np.asarray(right)[enough]),
            anchor_coverage=float(enough.sum() / len(rows)),
        )
        attempt.write_json(rule.FILE, rule.to_json())
        return attempt.commit(counts={"queries": len(rows), "answered": len(answered)})

    fingerprint = _fingerprint(run, calibration_run) | config.fingerprint_keys("calibration")
    return get_or_commit(run.artifact(Paths(scope).calibration), fingerprint, make)


def measure_quality(config: Config, run: Run, *, calibration_run: str, scope: str) -> Commit:
    """Measure what a scope's rule publishes of a calibration run's eval labels, and commit
    ``<scope>/quality`` with ``quality.json``. Raises InputError without an eval query."""

    def make(attempt: Attempt) -> Commit:
        rule = PublishingRule.of(run.artifact(Paths(scope).calibration))
        rows = _verified(run, calibration_run, "eval", rule)
        if not rows:
            raise InputError("no eval query to measure labels on")
        quality = _quality(rows, rule, config)
        attempt.write_json(quality.FILE, quality.to_json())
        return attempt.commit(counts={"queries": len(rows), "published": quality.published})

    fingerprint = _fingerprint(run, calibration_run) | {
        **config.fingerprint_keys("quality"),
        "upstream.calibration": run.artifact(Paths(scope).calibration).require_commit().digest,
    }
    return get_or_commit(run.artifact(Paths(scope).quality), fingerprint, make)


def decision_fingerprint(config: Config, run: Run, *, calibration_run: str) -> dict[str, Any]:
    """All that calibration and quality depend on; a decision is named by its digest."""
    keys = config.fingerprint_keys("calibration") | config.fingerprint_keys("quality")
    return _fingerprint(run, calibration_run) | keys


def _fingerprint(run: Run, calibration_run: str) -> dict[str, Any]:
    return {
        "upstream.calibration_run": run.artifact(Paths(calibration_run).calibration_run)
        .require_commit()
        .digest,
        "upstream.truth": run.artifact(CATALOG.truth).require_commit().digest,
    }


def _verified(
    run: Run, calibration_run: str, split: str, rule: PublishingRule | None = None
) -> list[Row]:
    """The labels of a split's verified queries, in order, with ``truth`` and ``right``; with a rule
    as it publishes them."""
    truth = {
        (row["listing_id"], answer["attribute"]): answer["value"]
        for row in run.artifact(CATALOG.truth, TRUTH).read().to_pylist()
        for answer in row["answers"]
    }
    labels = run.artifact(Paths(calibration_run).calibration_run, LABELS).read()
    if rule is not None:
        labels = published(labels, rule)
    rows = []
    for row in sorted(labels.to_pylist(), key=lambda row: (row["listing_id"], row["attribute"])):
        value = truth.get((row["listing_id"], row["attribute"]))
        if row["split"] == split and value is not None:
            rows.append(row | {"truth": value, "right": row["answer"] == value})
    return rows


def _is_published(row: Row) -> bool:
    return bool(row["reason"] == PUBLISHED)


def _quality(rows: Sequence[Row], rule: PublishingRule, config: Config) -> Quality:
    answered = [row for row in rows if row["answer"] is not None]
    chosen = [row for row in rows if _is_published(row)]
    confidences, probabilities, right = (
        [row[name] for row in answered] for name in ("confidence", "probability", "right")
    )
    bins = reliability(probabilities, right) if answered else []
    target, precision = rule.target_precision, None
    if chosen:
        precision = _estimate([row["right"] for row in chosen], chosen, config)
    return Quality(
        queries=len(rows),
        answered=len(answered),
        published=len(chosen),
        accuracy=_estimate([row["right"] for row in rows], rows, config),
        coverage=_estimate([_is_published(row) for row in rows], rows, config),
        precision=precision,
        target_precision=target,
        threshold=rule.threshold,
        holds=precision is None or precision.ci95[1] >= target,
        curve=tuple(coverage_curve(confidences, right, len(rows)) if answered else ()),
        reliability=tuple(bins),
        calibration_error=calibration_error(bins) if bins else None,
        brier=brier_score(probabilities, right) if answered else None,
        groups=_groups(rows),
        seller=_seller(rows),
    )


def _estimate(values: Sequence[bool], rows: Sequence[Row], config: Config) -> MeasuredShare:
    measured = estimate(
        values,
        [row["listing_id"] for row in rows],
        config.evaluation.num_resamples,
        seeds.derive("bootstrap", config.run.seed, "labels"),
    )
    return MeasuredShare(value=measured.value, ci95=measured.ci95)


def _groups(rows: Sequence[Row]) -> dict[str, LabelGroup]:
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(f"{row['vertical']}/{row['attribute']}", []).append(row)
    return {
        name: LabelGroup(
            queries=len(group),
            accuracy=float(np.mean([row["right"] for row in group])),
            coverage=float(np.mean([_is_published(row) for row in group])),
            precision=_share([row["right"] for row in group if _is_published(row)]),
        )
        for name, group in sorted(groups.items())
    }


def _seller(rows: Sequence[Row]) -> SellerComparison:
    compared = [row for row in rows if row["seller_conflict"] is not None]
    conflicts = [row for row in compared if row["seller_conflict"]]
    return SellerComparison(
        queries=len(compared),
        conflicts=len(conflicts),
        label_right=sum(row["right"] for row in conflicts),
        seller_right=sum(row["seller_value"] == row["truth"] for row in conflicts),
    )


def _share(values: Any) -> float | None:
    return float(np.mean(values)) if len(values) else None
