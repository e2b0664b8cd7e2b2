"""Labels of verified listings: their calibration, and whether a precision is reached."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from raypipe import seeds
from raypipe.config import Config
from raypipe.errors import InputError
from raypipe.evaluation.accuracy import estimate
from raypipe.evaluation.confidence import (
    Calibration,
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
from raypipe.summaries import (
    FittedCalibration,
    LabelGroup,
    MeasuredShare,
    Quality,
    SellerComparison,
)

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
        published = probabilities >= (np.inf if threshold is None else threshold)
        fitted = FittedCalibration(
            knots=calibration.points,
            threshold=threshold,
            target_precision=target,
            queries=len(rows),
            answered=len(answered),
            anchor_precision=_share(np.asarray(right)[published]),
            anchor_coverage=float(published.sum() / len(rows)),
        )
        attempt.write_json(fitted.FILE, fitted.to_json())
        return attempt.commit(counts={"queries": len(rows), "answered": len(answered)})

    fingerprint = _fingerprint(run, calibration_run) | config.fingerprint_keys("calibration")
    return get_or_commit(run.artifact(Paths(scope).calibration), fingerprint, make)


def measure_quality(config: Config, run: Run, *, calibration_run: str, scope: str) -> Commit:
    """Measure the eval labels of a calibration run with a scope's calibration, and commit
    ``<scope>/quality`` with ``quality.json``. Raises InputError without an eval query."""

    def make(attempt: Attempt) -> Commit:
        calibration = FittedCalibration.of(run.artifact(Paths(scope).calibration))
        rows = _verified(run, calibration_run, "eval")
        if not rows:
            raise InputError("no eval query to measure labels on")
        _publish(rows, Calibration.through(calibration.knots), calibration.threshold)
        quality = _quality(rows, calibration, config)
        attempt.write_json(quality.FILE, quality.to_json())
        return attempt.commit(counts={"queries": len(rows), "published": quality.published})

    fingerprint = _fingerprint(run, calibration_run) | {
        **config.fingerprint_keys("quality"),
        "upstream.calibration": run.artifact(Paths(scope).calibration).require_commit().digest,
    }
    return get_or_commit(run.artifact(Paths(scope).quality), fingerprint, make)


def _fingerprint(run: Run, calibration_run: str) -> dict[str, Any]:
    return {
        "upstream.calibration_run": run.artifact(Paths(calibration_run).calibration_run)
        .require_commit()
        .digest,
        "upstream.truth": run.artifact(CATALOG.truth).require_commit().digest,
    }


def _verified(run: Run, calibration_run: str, split: str) -> list[Row]:
    """The labels of a split's verified queries, in order, with ``truth`` and ``right``."""
    truth = {
        (row["listing_id"], answer["attribute"]): answer["value"]
        for row in run.artifact(CATALOG.truth, TRUTH).read().to_pylist()
        for answer in row["answers"]
    }
    labels = run.artifact(Paths(calibration_run).calibration_run, LABELS).read().to_pylist()
    rows = []
    for row in sorted(labels, key=lambda row: (row["listing_id"], row["attribute"])):
        value = truth.get((row["listing_id"], row["attribute"]))
        if row["split"] == split and value is not None:
            rows.append(row | {"truth": value, "right": row["answer"] == value})
    return rows


def _publish(rows: Sequence[Row], calibration: Calibration, threshold: float | None) -> None:
    for row in rows:
        row["probability"] = float(calibration.probabilities(row["confidence"]))
        row["published"] = (
            row["answer"] is not None and threshold is not None and row["probability"] >= threshold
        )


def _quality(rows: Sequence[Row], calibration: FittedCalibration, config: Config) -> Quality:
    answered = [row for row in rows if row["answer"] is not None]
    published = [row for row in rows if row["published"]]
    confidences, probabilities, right = (
        [row[name] for row in answered] for name in ("confidence", "probability", "right")
    )
    bins = reliability(probabilities, right) if answered else []
    target, precision = calibration.target_precision, None
    if published:
        precision = _estimate([row["right"] for row in published], published, config)
    return Quality(
        queries=len(rows),
        answered=len(answered),
        published=len(published),
        accuracy=_estimate([row["right"] for row in rows], rows, config),
        coverage=_estimate([row["published"] for row in rows], rows, config),
        precision=precision,
        target_precision=target,
        threshold=calibration.threshold,
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
            coverage=float(np.mean([row["published"] for row in group])),
            precision=_share([row["right"] for row in group if row["published"]]),
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
