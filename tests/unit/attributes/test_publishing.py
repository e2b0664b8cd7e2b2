"""What a rule publishes of labels: the same rows with a value, a probability and a reason."""

import json
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raypipe.attributes.publishing import (
    PublishingRule,
    ScopeRule,
    published,
    read_published,
)
from raypipe.schemas import LABELS, PUBLISHED_LABELS
from raypipe.store.artifacts import Run
from tests.conftest import CommitRows, Row
from tests.fakes.label_rows import label, rule, unanswered

UNIT = st.floats(0, 1)
SCOPES = ["Shoe", "Hat", "Shoe/colour", "Shoe/heel", "Hat/colour", "colour"]


@st.composite
def scope_rules(draw: st.DrawFn) -> dict[str, Any]:
    levels = draw(st.lists(UNIT, max_size=4, unique=True))
    rising = draw(st.lists(UNIT, min_size=len(levels), max_size=len(levels)))
    knots = tuple(zip(sorted(levels), sorted(rising), strict=True))
    return {"knots": knots, "threshold": draw(st.none() | UNIT)}


@st.composite
def rules(draw: st.DrawFn) -> PublishingRule:
    scopes = draw(st.dictionaries(st.sampled_from(SCOPES), scope_rules(), max_size=4))
    parts = {name: ScopeRule(**part) for name, part in scopes.items()}
    return rule(**draw(scope_rules()), scopes=parts)


@st.composite
def label_rows(draw: st.DrawFn) -> Row:
    make = draw(st.sampled_from([label, unanswered]))
    row = make("a", "key", draw(st.sampled_from(["colour", "heel"])))
    row["vertical"] = draw(st.sampled_from(["Shoe", "Hat", "Bag"]))
    return row | ({} if row["answer"] is None else {"confidence": draw(UNIT)})


tables = st.lists(label_rows(), max_size=12).map(LABELS.from_rows)


def published_row(row: Row, decided: PublishingRule) -> Row:
    """One row, by the words of the documentation."""
    if row["answer"] is None:
        return row | {"value": None, "probability": None}
    whole = ScopeRule(knots=decided.knots, threshold=decided.threshold)
    part = decided.scopes.get(row["vertical"], whole)
    part = decided.scopes.get(f"{row['vertical']}/{row['attribute']}", part)
    probability = 0.0
    if part.knots:
        probability = float(np.interp(row["confidence"], *zip(*part.knots, strict=True)))
    if part.threshold is not None and probability >= part.threshold:
        return row | {"value": row["answer"], "probability": probability, "reason": "published"}
    return row | {"value": None, "probability": probability, "reason": "below_precision"}


@given(tables, rules())
def test_a_table_is_published_row_by_row(labels: pa.Table, decided: PublishingRule) -> None:
    view = published(labels, decided)
    assert view.schema.equals(PUBLISHED_LABELS.schema)
    assert view.to_pylist() == [
        {name: made[name] for name in view.column_names}
        for made in (published_row(row, decided) for row in labels.to_pylist())
    ]


@given(tables, rules(), rules())
def test_no_rule_changes_the_evidence(
    labels: pa.Table, first: PublishingRule, second: PublishingRule
) -> None:
    names = [name for name in LABELS.schema.names if name != "reason"]
    views = [published(labels, decided).select(names) for decided in (first, second)]
    assert views[0].equals(labels.select(names))
    assert views[1].equals(views[0])


@given(tables, rules(), UNIT, UNIT)
def test_a_higher_threshold_publishes_some_of_the_same_labels(
    labels: pa.Table, decided: PublishingRule, one: float, other: float
) -> None:
    low, high = sorted((one, other))
    values = [
        published(labels, decided.model_copy(update={"threshold": threshold})).column("value")
        for threshold in (low, high, None)
    ]
    for fewer, more in ((values[1], values[0]), (values[2], values[1])):
        pairs = zip(fewer.to_pylist(), more.to_pylist(), strict=True)
        assert all(strict is None or strict == loose for strict, loose in pairs)


def test_a_rule_of_an_attribute_goes_before_that_of_its_vertical_and_that_before_the_whole() -> (
    None
):
    rows = [label(name, "k", name) for name in ("colour", "heel")]
    rows.append(label("hat", "k") | {"vertical": "Hat"})
    flat = {"Shoe": 0.5, "Shoe/heel": 0.25}
    scopes = {name: ScopeRule(knots=((0.0, level),), threshold=0.5) for name, level in flat.items()}
    view = published(LABELS.from_rows(rows), rule(scopes=scopes))
    assert view.column("probability").to_pylist() == [0.5, 0.25, 1.0]
    assert view.column("value").to_pylist() == ["Red", None, "Red"]


def test_the_threshold_itself_is_published_and_without_one_nothing_is() -> None:
    labels = LABELS.from_rows([label("a", "k") | {"confidence": 0.5}, unanswered("b", "k")])
    assert published(labels, rule(0.5)).column("reason").to_pylist() == ["published", "tie"]
    view = published(labels, rule(None))
    assert view.column("reason").to_pylist() == ["below_precision", "tie"]
    assert view.column("probability").to_pylist() == [0.5, None]


def test_columns_are_read_in_the_order_asked_for(run: Run, commit_rows: CommitRows) -> None:
    rows = [label("a", "k"), label("b", "k") | {"confidence": 0.25}]
    commit_rows(run, "labels/1/labels", LABELS, rows, per_file=1)
    labels = run.artifact("labels/1/labels", LABELS)
    read = pa.concat_tables(read_published(labels, rule(), ["value", "listing_id"]))
    assert read.to_pydict() == {"value": ["Red", None], "listing_id": ["a", "b"]}
    whole = pa.concat_tables(read_published(labels, rule()))
    assert whole.equals(published(LABELS.from_rows(rows), rule()))


@pytest.mark.parametrize("scopes", [{}, {"Shoe": ScopeRule(knots=((0.5, 0.5),), threshold=None)}])
def test_a_rule_reads_back_from_its_document(scopes: dict[str, ScopeRule]) -> None:
    written = rule(scopes=scopes)
    content = json.dumps(written.to_json()).encode()
    assert PublishingRule.parse(content, "calibration.json") == written
