"""What is written is what the contract says: nothing missing, extra, null or mistyped."""

from typing import Any

import pyarrow as pa
import pytest

import raypipe.schemas as schemas
from raypipe.errors import ArtifactError
from raypipe.schemas import CHAINS, CONSENSUS, LISTINGS, SEED, SPLITS, Table

Row = dict[str, Any]
TABLES = [table for table in vars(schemas).values() if isinstance(table, Table)]
CHAIN = {"text": "t", "token_ids": [1], "logprob": -1.0, "finish_reason": "stop"}


def example(kind: pa.DataType) -> Any:
    """A value of a type, every optional part present."""
    if pa.types.is_struct(kind):
        return {field.name: example(field.type) for field in kind}
    if pa.types.is_list(kind):
        return [example(kind.value_type)]
    if pa.types.is_binary(kind):
        return b"bytes"
    if pa.types.is_boolean(kind):
        return True
    if pa.types.is_floating(kind):
        return 0.5
    return 3 if pa.types.is_integer(kind) else "text"


def row_of(table: Table) -> Row:
    return {field.name: example(field.type) for field in table.schema}


def test_every_artifact_of_the_contract_has_its_table() -> None:
    assert {table.name for table in TABLES} == {
        *("listings", "seed", "truth", "chains", "consensus", "pairs", "trees", "reference"),
        *("evaluation", "labels", "published_labels", "annotations", "quarantine"),
    }
    for table in TABLES:
        assert f"| {table.name} " in (schemas.__doc__ or "")


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.name)
def test_whole_rows_are_taken_as_they_are(table: Table) -> None:
    built = table.from_rows([row_of(table)])
    assert built.schema == table.schema
    assert built.to_pylist() == [row_of(table)]
    assert table.conform(built) == built
    assert table.from_rows([]).schema == table.schema


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.name)
def test_a_key_is_made_of_required_columns(table: Table) -> None:
    for name in table.key:
        assert not table.schema.field(name).nullable


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.name)
def test_a_missing_column_is_refused_and_named(table: Table) -> None:
    built = table.from_rows([row_of(table)])
    for name in table.schema.names:
        with pytest.raises(ArtifactError, match=rf"{table.name}: missing columns \['{name}'\]"):
            table.conform(built.drop_columns([name]))


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.name)
def test_an_unknown_column_is_refused_and_named(table: Table) -> None:
    built = table.from_rows([row_of(table)])
    with pytest.raises(ArtifactError, match=r"unknown columns \['surprise'\]"):
        table.conform(built.append_column("surprise", pa.array([1])))
    with pytest.raises(ArtifactError, match=r"unknown columns \['surprise'\]"):
        table.from_rows([row_of(table), {**row_of(table), "surprise": 1}])


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.name)
def test_a_null_is_refused_where_a_value_is_required(table: Table) -> None:
    for field in table.schema:
        row = {**row_of(table), field.name: None}
        if field.nullable:
            assert table.from_rows([row]).to_pylist() == [row]
            continue
        with pytest.raises(ArtifactError, match=field.name):
            table.from_rows([row])
        loose = pa.schema([pa.field(f.name, f.type) for f in table.schema])
        with pytest.raises(ArtifactError, match=field.name):
            table.conform(pa.Table.from_pylist([row], schema=loose))


@pytest.mark.parametrize(
    ("table", "column", "value"),
    [
        (SEED, "answers", [{"attribute": None, "reasoning": "r", "answer": "a"}]),
        (SEED, "answers", [{"attribute": "colour", "answer": "a"}]),
        (SEED, "answers", [None]),
        (LISTINGS, "images", [b"one", None]),
        (
            CHAINS,
            "queries",
            [{"attribute": "a", "greedy": None, "chains": [{**CHAIN, "text": None}]}],
        ),
        (
            CHAINS,
            "queries",
            [{"attribute": "a", "greedy": {**CHAIN, "logprob": None}, "chains": []}],
        ),
    ],
)
def test_a_null_inside_a_list_or_struct_is_refused(table: Table, column: str, value: Any) -> None:
    with pytest.raises(ArtifactError, match=table.name):
        table.from_rows([{**row_of(table), column: value}])


def test_a_query_may_have_no_greedy_chain_and_no_sampled_one() -> None:
    row = row_of(CHAINS) | {"queries": [{"attribute": "a", "greedy": None, "chains": []}]}
    assert CHAINS.from_rows([row]).to_pylist() == [row]


@pytest.mark.parametrize(
    ("table", "column", "value"),
    [
        (SEED, "listing_id", 3),
        (SEED, "answers", "Red"),
        (CONSENSUS, "confidence", "high"),
        (CONSENSUS, "num_chains", 1 << 40),
        (CHAINS, "queries", {"attribute": "a"}),
    ],
)
def test_a_mistyped_value_is_refused(table: Table, column: str, value: Any) -> None:
    with pytest.raises(ArtifactError, match=table.name):
        table.from_rows([{**row_of(table), column: value}])


def test_a_column_of_a_type_that_does_not_convert_is_refused() -> None:
    built = CONSENSUS.from_rows([row_of(CONSENSUS)])
    place = built.column_names.index("confidence")
    with pytest.raises(ArtifactError, match="consensus"):
        CONSENSUS.conform(built.set_column(place, "confidence", pa.array(["high"])))


def test_columns_come_back_in_the_contracts_order_and_exact_types() -> None:
    built = CONSENSUS.from_rows([row_of(CONSENSUS)])
    shuffled = built.select(built.column_names[::-1])
    wider = shuffled.set_column(
        shuffled.column_names.index("num_chains"), "num_chains", pa.array([3], pa.int64())
    )
    assert CONSENSUS.conform(wider) == built


def test_splits_are_the_four_of_the_design() -> None:
    assert SPLITS == ("pool", "seed", "eval", "anchor")
