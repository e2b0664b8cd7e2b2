"""Rows of LABELS, and decisions on them."""

import json
from collections.abc import Collection
from typing import Any

from raypipe.attributes.publishing import PublishingRule
from raypipe.labeling.label_versions import set_decision
from raypipe.review.tasks import FindListings
from raypipe.store.artifacts import Artifact, Run
from raypipe.store.paths import Paths
from tests.conftest import CommitRows, Row

DIGEST = "0123456789ab"


def label(listing_id: str, key: str, attribute: str = "colour") -> Row:
    return {
        "listing_id": listing_id,
        "vertical": "Shoe",
        "split": "pool",
        "attribute": attribute,
        "reason": "answered",
        "answer": "Red",
        "confidence": 1.0,
        "votes": [{"value": "Red", "count": 7, "probability": 6.3}],
        "num_chains": 7,
        "num_valid": 7,
        "invalid": [],
        "greedy": None,
        "reasoning": "It is red.",
        "seller_value": None,
        "seller_conflict": None,
        "policy_id": "p",
        "template": "t",
        "schema_version": "s",
        "label_key": key,
        "versions": "torch 1.0",
    }


def unanswered(listing_id: str, key: str, attribute: str = "colour") -> Row:
    return label(listing_id, key, attribute) | {
        "reason": "tie",
        "answer": None,
        "confidence": 0.0,
        "votes": [],
        "num_valid": 0,
        "invalid": [{"reason": "malformed", "count": 7}],
        "reasoning": None,
    }


def rule(threshold: float | None = 0.5, **changes: Any) -> PublishingRule:
    """Publishes from a confidence upwards: the probability is the confidence."""
    values: dict[str, Any] = {
        "signal": "confidence",
        "knots": ((0.0, 0.0), (1.0, 1.0)),
        "threshold": threshold,
        "scopes": {},
        "target_precision": 0.9,
        "queries": 40,
        "answered": 30,
        "anchor_precision": None,
        "anchor_coverage": 0.0,
    }
    return PublishingRule(**values | changes)


def decide(run: Run, commit_rows: CommitRows, scope: str, decided: PublishingRule) -> None:
    """Commit a decision on a label version, and make it the current one."""
    content = json.dumps(decided.to_json()).encode()
    calibration = Paths.of_decision(scope, DIGEST).calibration
    commit_rows(run, calibration, files={decided.FILE: content})
    set_decision(run, scope, DIGEST)


def found_in(listings: Artifact) -> FindListings:
    """Finds listings among the rows of an artifact."""

    def find(listing_ids: Collection[str]) -> dict[str, Row]:
        rows = listings.read(["listing_id", "images", "queries"]).to_pylist()
        return {row["listing_id"]: row for row in rows if row["listing_id"] in listing_ids}

    return find
