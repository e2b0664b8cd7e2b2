"""Labels of verified listings: what their confidence is worth, and whether a precision holds."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from raypipe import seeds
from raypipe.artifacts import Attempt, Run, committed
from raypipe.config import Config
from raypipe.errors import InputError
from raypipe.evaluation.accuracy import Estimate, estimate
from raypipe.evaluation.confidence import (
    Calibration,
    brier_score,
    calibration_error,
    coverage_curve,
    fit,
    reliability,
    threshold_for,
)
from raypipe.manifest import Commit
from raypipe.schemas import LABELS, TRUTH

CALIBRATION, QUALITY = "calibration.json", "quality.json"
Row = dict[str, Any]


def calibrate(config: Config, run: Run, *, trial: str, scope: str) -> Commit:
    """Fit the calibration on the anchor labels of a trial and find the asked precision's threshold.

    Commits ``<scope>/calibration`` with ``calibration.json``: ``steps`` (confidence, probability),
    ``threshold`` (a probability; None when the precision is reached nowhere), ``precision`` (as
    asked), ``queries``, ``answered``, and the anchor's own ``anchor_precision`` and
    ``anchor_coverage`` at the threshold.

    Raises:
        InputError: there is no anchor query to fit on.
    """
    asked = config.labeling.precision

    def make(attempt: Attempt) -> Commit:
        rows = _verified(run, trial, "anchor")
        if not rows:
            raise InputError(
                "no anchor query to calibrate labels on: set catalog.anchor_share above 0"
            )
        answered = [row for row in rows if row["answer"] is not None]
        confidences = [row["confidence"] for row in answered]
        right = [row["right"] for row in answered]
        calibration = fit(confidences, right)
        probabilities = calibration.probabilities(confidences)
        threshold = threshold_for(asked, probabilities, right)
        published = probabilities >= (np.inf if threshold is None else threshold)
        attempt.write_json(
            CALIBRATION,
            {
                "steps": calibration.to_json(),
                "threshold": threshold,
                "precision": asked,
                "queries": len(rows),
                "answered": len(answered),
                "anchor_precision": _share(np.asarray(right)[published]),
                "anchor_coverage": float(published.sum() / len(rows)),
            },
        )
        return attempt.commit(counts={"queries": len(rows), "answered": len(answered)})

    fingerprint = _fingerprint(run, trial) | {"labeling.precision": asked}
    return committed(run.artifact(f"{scope}/calibration"), fingerprint, make)


def judge(config: Config, run: Run, *, trial: str, scope: str) -> Commit:
    """Judge the eval labels of a trial with a scope's calibration.

    Commits ``<scope>/quality`` with ``quality.json``: ``accuracy`` over all queries, ``coverage``
    and ``precision`` of what is published (each ``{"value", "ci95"}``; precision None when nothing
    is), ``holds`` (whether the asked precision is not above the interval), ``curve``,
    ``reliability``, ``calibration_error``, ``brier``, ``groups`` per "vertical/attribute", and
    ``seller``: queries with a comparable seller's value, conflicts, and who was right in those.

    Raises:
        InputError: there is no eval query.
    """

    def make(attempt: Attempt) -> Commit:
        found = run.artifact(f"{scope}/calibration").read_json(CALIBRATION)
        rows = _verified(run, trial, "eval")
        if not rows:
            raise InputError("no eval query to judge labels on")
        _publish(rows, Calibration.from_json(found["steps"]), found["threshold"])
        quality = _quality(rows, config) | {
            "asked": found["precision"],
            "threshold": found["threshold"],
        }
        precision = quality["precision"]
        quality["holds"] = precision is None or precision["ci95"][1] >= found["precision"]
        attempt.write_json(QUALITY, quality)
        return attempt.commit(counts={"queries": len(rows), "published": quality["published"]})

    fingerprint = _fingerprint(run, trial) | {
        "evaluation.num_resamples": config.evaluation.num_resamples,
        "run.seed": config.run.seed,
        "upstream.calibration": run.artifact(f"{scope}/calibration").required().digest,
    }
    return committed(run.artifact(f"{scope}/quality"), fingerprint, make)


def _fingerprint(run: Run, trial: str) -> dict[str, Any]:
    return {
        "upstream.trial": run.artifact(f"{trial}/trial").required().digest,
        "upstream.truth": run.artifact("catalog/truth").required().digest,
    }


def _verified(run: Run, trial: str, split: str) -> list[Row]:
    """The labels of a split's verified queries, in order, with ``truth`` and ``right``."""
    truth = {
        (row["listing_id"], answer["attribute"]): answer["value"]
        for row in run.artifact("catalog/truth", TRUTH).read().to_pylist()
        for answer in row["answers"]
    }
    labels = run.artifact(f"{trial}/trial", LABELS).read().to_pylist()
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


def _quality(rows: Sequence[Row], config: Config) -> dict[str, Any]:
    answered = [row for row in rows if row["answer"] is not None]
    published = [row for row in rows if row["published"]]
    confidences, probabilities, right = (
        [row[name] for row in answered] for name in ("confidence", "probability", "right")
    )
    bins = reliability(probabilities, right) if answered else []
    return {
        "queries": len(rows),
        "answered": len(answered),
        "published": len(published),
        "accuracy": _estimate([row["right"] for row in rows], rows, config),
        "coverage": _estimate([row["published"] for row in rows], rows, config),
        "precision": (
            _estimate([row["right"] for row in published], published, config) if published else None
        ),
        "curve": coverage_curve(confidences, right, len(rows)) if answered else [],
        "reliability": bins,
        "calibration_error": calibration_error(bins) if bins else None,
        "brier": brier_score(probabilities, right) if answered else None,
        "groups": _groups(rows),
        "seller": _seller(rows),
    }


def _estimate(values: Sequence[bool], rows: Sequence[Row], config: Config) -> dict[str, Any]:
    found: Estimate = estimate(
        values,
        [row["listing_id"] for row in rows],
        config.evaluation.num_resamples,
        seeds.derive("bootstrap", config.run.seed, "labels"),
    )
    return {"value": found.value, "ci95": [found.low, found.high]}


def _groups(rows: Sequence[Row]) -> dict[str, dict[str, Any]]:
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(f"{row['vertical']}/{row['attribute']}", []).append(row)
    return {
        name: {
            "queries": len(group),
            "accuracy": _share([row["right"] for row in group]),
            "coverage": _share([row["published"] for row in group]),
            "precision": _share([row["right"] for row in group if row["published"]]),
        }
        for name, group in sorted(groups.items())
    }


def _seller(rows: Sequence[Row]) -> dict[str, Any]:
    """Where the seller's value resolves to another allowed value than the label's answer."""
    compared = [row for row in rows if row["seller_conflict"] is not None]
    conflicts = [row for row in compared if row["seller_conflict"]]
    return {
        "queries": len(compared),
        "conflicts": len(conflicts),
        "label_right": sum(row["right"] for row in conflicts),
        "seller_right": sum(row["seller_value"] == row["truth"] for row in conflicts),
    }


def _share(values: Any) -> float | None:
    return float(np.mean(values)) if len(values) else None
