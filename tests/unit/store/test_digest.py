"""The digest of rows: blind to order, files and chunks, and to nothing else."""

import random
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raypipe.store.digest import MODULUS, digest_rows

SCHEMA = pa.schema(
    [
        ("name", pa.string()),
        ("flag", pa.bool_()),
        ("number", pa.float64()),
        ("content", pa.binary()),
        (
            "queries",
            pa.list_(
                pa.struct(
                    [
                        ("text", pa.string()),
                        ("inner", pa.struct([("ids", pa.list_(pa.int32()))])),
                    ]
                )
            ),
        ),
    ]
)
texts = st.none() | st.text(max_size=4)
numbers = st.lists(st.integers(-3, 3), max_size=3)
queries = st.fixed_dictionaries(
    {"text": texts, "inner": st.none() | st.fixed_dictionaries({"ids": st.none() | numbers})}
)
rows = st.lists(
    st.fixed_dictionaries(
        {
            "name": texts,
            "flag": st.none() | st.booleans(),
            "number": st.none() | st.floats(allow_nan=False),
            "content": st.none() | st.binary(max_size=4),
            "queries": st.none() | st.lists(st.none() | queries, max_size=3),
        }
    ),
    max_size=8,
)


def table(values: list[dict[str, Any]]) -> pa.Table:
    return pa.Table.from_pylist(values, schema=SCHEMA)


@settings(deadline=None)
@given(rows, st.randoms(use_true_random=False), st.integers(0, 8))
def test_order_chunks_and_slices_change_nothing(
    values: list[dict[str, Any]], shuffle: random.Random, cut: int
) -> None:
    whole = table(values)
    expected = digest_rows(whole)
    order = list(range(len(values)))
    shuffle.shuffle(order)
    assert digest_rows(whole.take(pa.array(order, pa.int64()))) == expected
    assert digest_rows(pa.concat_tables([whole.slice(cut), whole.slice(0, cut)])) == expected
    parts = (digest_rows(whole.slice(0, cut)), digest_rows(whole.slice(cut)))
    assert sum(parts) % MODULUS == expected


@settings(deadline=None)
@given(rows, rows)
def test_other_rows_have_another_digest(
    one: list[dict[str, Any]], other: list[dict[str, Any]]
) -> None:
    same = sorted(map(repr, table(one).to_pylist())) == sorted(map(repr, table(other).to_pylist()))
    assert (digest_rows(table(one)) == digest_rows(table(other))) == same


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ([{"name": None}], [{"name": ""}]),
        ([{"flag": None}], [{"flag": False}]),
        ([{"number": None}], [{"number": 0.0}]),
        ([{"queries": None}], [{"queries": []}]),
        ([{"queries": [{"text": "ab"}]}], [{"queries": [{"text": "a"}, {"text": "b"}]}]),
        ([{"name": "ab"}, {"name": "c"}], [{"name": "a"}, {"name": "bc"}]),
        ([{"name": "a"}], [{"name": "a"}, {"name": "a"}]),
    ],
)
def test_nothing_is_taken_for_something(one: list[Any], other: list[Any]) -> None:
    assert digest_rows(table(one)) != digest_rows(table(other))


def test_what_lies_beneath_a_null_does_not_count() -> None:
    values = pa.array(["seen", "hidden"])
    masked = pa.StructArray.from_arrays([values], ["text"], mask=pa.array([False, True]))
    plain = pa.array([{"text": "seen"}, None], masked.type)
    assert digest_rows(pa.table({"a": masked})) == digest_rows(pa.table({"a": plain}))
