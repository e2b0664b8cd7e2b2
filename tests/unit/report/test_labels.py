"""The page of a labeling: what it says, for every way that a labeling can come out."""

import json
from typing import Any

import pytest

from raypipe.config import load
from raypipe.report.labels import precision_statement, write_labels_page
from raypipe.store.artifacts import Run
from raypipe.summaries import Quality
from tests.conftest import CommitRows
from tests.fakes.label_rows import DIGEST, rule

SCOPE = "labels/000001"
DECISION = f"{SCOPE}/decisions/{DIGEST}"
POINTS = [
    {"threshold": 1.0, "coverage": 0.1, "accuracy": 1.0, "queries": 10},
    {"threshold": 0.5, "coverage": 0.6, "accuracy": 0.8, "queries": 60},
]


def quality(**changes: Any) -> dict[str, Any]:
    return {
        "queries": 100,
        "answered": 60,
        "published": 10,
        "accuracy": {"value": 0.48, "ci95": [0.4, 0.56]},
        "coverage": {"value": 0.1, "ci95": [0.06, 0.15]},
        "precision": {"value": 0.93, "ci95": [0.87, 0.98]},
        "target_precision": 0.9,
        "threshold": 0.9,
        "holds": True,
        "curve": POINTS,
        "reliability": [{"probability": 0.8, "accuracy": 0.75, "queries": 40}],
        "calibration_error": 0.05,
        "brier": 0.1,
        "groups": {
            "Shoe/<b>heel</b>": {
                "queries": 9, "accuracy": 0.5, "coverage": 0.0, "precision": None
            }
        },
        "seller": {"queries": 5, "conflicts": 2, "label_right": 1, "seller_right": 1},
    } | changes  # fmt: skip


def page(run: Run, commit_rows: CommitRows, found: dict[str, Any]) -> str:
    calibration = rule(found["threshold"]).to_json()
    for name, values in (("quality", found), ("calibration", calibration)):
        files = {f"{name}.json": json.dumps(values).encode()}
        commit_rows(run, f"{DECISION}/{name}", files=files)
    write_labels_page(
        load(),
        run,
        scope=SCOPE,
        decision=DECISION,
        policy="<script>round-1",
        taken={
            "listings": 50,
            "queries": 200,
            "chains": 1400,
            "seconds": 12.5,
            "carried": 3,
            "refused": 1,
            "reasons": {"published": 20, "below_precision": 170, "tie": 10},
            "table": [("listings", "50", "50"), ("cost (USD)", "unknown", "unknown")],
        },
    )
    return (run.read(f"{SCOPE}/report/index.html") or b"").decode()


def test_the_page_says_whether_the_precision_holds_and_what_it_covers(
    run: Run, commit_rows: CommitRows
) -> None:
    text = page(run, commit_rows, quality())
    assert "The target precision of 0.900 holds: 0.930 [0.870, 0.980] on eval, for 10.0 %" in text
    for words in (
        "below the precision asked for",
        "85.0 %",
        "cost (USD)",
        "3 unchanged, 1 refused",
    ):
        assert words in text


def test_what_comes_from_data_is_shown_and_never_obeyed(run: Run, commit_rows: CommitRows) -> None:
    text = page(run, commit_rows, quality())
    assert "<script>" not in text
    assert "<b>heel</b>" not in text
    assert "default-src &#39;none&#39;" in text or "default-src 'none'" in text


def test_a_labeling_that_publishes_or_answers_nothing_has_a_page_too(
    run: Run, commit_rows: CommitRows
) -> None:
    nothing = quality(
        threshold=None, precision=None, published=0, coverage={"value": 0.0, "ci95": [0, 0]},
        curve=[], reliability=[], calibration_error=None, brier=None, answered=0,
    )  # fmt: skip
    assert "Nothing is published" in page(run, commit_rows, nothing)


@pytest.mark.parametrize(
    ("value", "holds", "words"),
    [
        (0.93, True, " holds: "),
        (0.87, True, " is missed by no more than chance may explain: "),
        (0.80, False, " does not hold: "),
    ],
)
def test_the_verdict_is_plain(value: float, holds: bool, words: str) -> None:
    precision = {"value": value, "ci95": [value - 0.05, value + 0.05]}
    written = quality(holds=holds, precision=precision)
    parsed = Quality.parse(json.dumps(written).encode(), "quality.json")
    assert words in precision_statement(parsed)
