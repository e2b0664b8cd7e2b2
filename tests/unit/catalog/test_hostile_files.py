"""A user's files that are made to run code or to fail: refused by name, whoever opens them."""

import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray.data
import yaml

from raypipe.attributes.schema import load_attribute_schema
from raypipe.catalog import stage
from raypipe.catalog.answer_files import open_answers
from raypipe.catalog.inputs import open_inputs, roles_of
from raypipe.catalog.sources import LISTINGS_COLUMNS, TRUTH_COLUMNS, check_columns, open_source
from raypipe.errors import InputError
from raypipe.schemas import QUARANTINE
from raypipe.store.id_hashes import hash_ids, repeated
from tests.fakes.pickle_payloads import (
    HOW,
    OBJECT,
    TENSOR_V2,
    Named,
    add_column,
    add_field,
    hostile,
    nested,
)

assert ray.data  # it registers its types, as it has in every worker
KINDS = (OBJECT, TENSOR_V2, "shop.money")


def write(shop: Any) -> Path:
    """The shop with every file that a catalog may have, its schema as Parquet too."""
    shop.write()
    directory: Path = shop.directory
    splits = {"listing_id": list(shop.stated_splits), "split": list(shop.stated_splits.values())}
    pq.write_table(pa.table(splits), directory / "splits.parquet")
    entries = [entry | {"aliases": list(entry["aliases"].items())} for entry in shop.schema]
    aliases = pa.map_(pa.string(), pa.string())
    names = ("vertical", "attribute", "description")
    schema = pa.schema(
        [(name, pa.string()) for name in names]
        + [("values", pa.list_(pa.string())), ("aliases", aliases)]
    )
    pq.write_table(pa.Table.from_pylist(entries, schema), directory / "schema.parquet")
    return directory


def opened(shop: Any) -> Any:
    return open_inputs(shop.config(attribute_schema=str(shop.directory / "schema.parquet")).catalog)


def test_the_shop_is_whole_without_a_change(shop):
    write(shop)
    assert len(roles_of(opened(shop))) == 6


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["listings", "seed", "truth", "splits", "schema"])
def test_a_spare_column_of_an_extension_type_is_refused_in_every_file(shop, name, kind, how):
    path, canary = write(shop) / f"{name}.parquet", shop.directory / "ran"
    rows = pq.read_metadata(path).num_rows
    add_column(path, "note", nested(hostile(canary, rows, kind), how))
    with pytest.raises(InputError) as caught:
        opened(shop)
    message = str(caught.value)
    assert f"{name}.parquet: the column 'note" in message
    assert f"extension type '{kind}'" in message
    assert not canary.exists()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["seed", "truth"])
def test_a_spare_field_of_an_extension_type_is_refused(shop, name, kind):
    path, canary = write(shop) / f"{name}.parquet", shop.directory / "ran"
    answers = pq.read_table(path).column("answers").combine_chunks().flatten()
    add_field(path, "answers", "note", hostile(canary, len(answers), kind))
    with pytest.raises(InputError, match=rf"'answers.note' is of the extension type '{kind}'"):
        opened(shop)
    assert not canary.exists()


@pytest.mark.parametrize("name", ["listings", "seed", "truth", "splits", "schema"])
def test_a_doubled_column_is_refused_in_every_file(shop, name):
    path = write(shop) / f"{name}.parquet"
    first = pq.read_table(path).column(0).combine_chunks()
    add_column(path, pq.read_schema(path).names[0], first)
    with pytest.raises(InputError, match=rf"{name}.parquet: there are two columns '"):
        opened(shop)


@pytest.mark.parametrize("field", ["attribute", "note"])
def test_a_doubled_field_is_refused(shop, field):
    path = write(shop) / "truth.parquet"
    texts = pa.array(
        ["spare"] * len(pq.read_table(path).column("answers").combine_chunks().flatten())
    )
    add_field(path, "answers", field, texts)
    if field == "note":
        add_field(path, "answers", field, texts)
    with pytest.raises(
        InputError, match=rf"truth.parquet: there are two columns 'answers.{field}'"
    ):
        opened(shop)


def test_a_field_that_nobody_asks_for_is_not_read(shop):
    path = write(shop) / "truth.parquet"
    count = len(pq.read_table(path).column("answers").combine_chunks().flatten())
    never = pa.array([2**62] * count, pa.timestamp("us"))  # no date of Python's
    add_field(path, "answers", "when", never)
    assert {row["listing_id"] for row in opened(shop).truth.rows()} == set(shop.truth)


def test_a_moment_that_is_no_date_is_the_files_fault(shop):
    path = write(shop) / "truth.parquet"
    count = len(pq.read_table(path).column("answers").combine_chunks().flatten())
    add_field(path, "answers", "reviewed_at", pa.array([2**62] * count, pa.timestamp("us")))
    with pytest.raises(InputError, match=r"truth.parquet holds a value that cannot be read"):
        list(opened(shop).truth.rows())


@pytest.mark.parametrize(
    "kind",
    [
        pa.list_(pa.struct({"attribute": pa.string(), "value": pa.string(), "x": pa.json_()})),
        None,
    ],
)
def test_the_schema_of_a_table_is_checked_like_a_files(kind):
    x = Named(OBJECT, pa.large_binary())
    pair = pa.struct({"attribute": pa.string(), "value": pa.string(), "x": x})
    fields = {"listing_id": pa.string(), "vertical": pa.string(), "images": pa.list_(pa.string())}
    schema = pa.schema(fields | {"seller_values": pa.list_(pair) if kind is None else kind})
    if kind is not None:
        check_columns(schema, LISTINGS_COLUMNS, "a table")
        return
    with pytest.raises(InputError, match=rf"'seller_values.x' is of the extension type '{OBJECT}'"):
        check_columns(schema, LISTINGS_COLUMNS, "a table")


LONG = "x" * 20_000
ODD = {
    "long": LONG,
    "longer by one": LONG + "y",
    "at the bound": "x" * 512,
    "beyond the bound": "x" * 513,
    "multi-byte": "é" * 257,
    "with NUL": "L\0",
    "NUL alone": "\0",
    "NUL at the end": "L00\0",
    "two of them": "L00\0\0",
}


def refused_rows(run: Any, name: str = "catalog/listings") -> dict[str, str]:
    table = run.artifact(name).read(kind="quarantine")
    assert table.schema == QUARANTINE.schema
    return {row["id"]: row["reason"] for row in table.to_pylist()}


def test_a_row_whose_id_cannot_be_costs_that_row(shop, run):
    for index, name in enumerate([*ODD.values(), "", "", None, None]):
        shop.add(name, 100 + index)
    shop.write()
    commit = stage.run(shop.config(max_quarantined=1.0), run)
    refused = refused_rows(run)
    assert commit.rows == 12
    assert commit.quarantined == len(refused) == len(ODD) + 4
    assert set(refused.values()) == {"bad_id"}
    assert max(len(name.encode()) for name in refused) <= 512
    rows = [12 + len(ODD) + place for place in range(1, 5)]
    assert {f"(listings.parquet, row {row})" for row in rows} < set(refused)


@pytest.mark.parametrize("name", ODD)
@pytest.mark.parametrize("answers", ["seed", "truth"])
def test_answers_for_an_id_that_cannot_be_are_refused_by_file(shop, name, answers):
    shop.add(ODD[name], 99)
    getattr(shop, answers)[ODD[name]] = []
    if name == "at the bound":
        write(shop)
        roles_of(opened(shop))
        return
    write(shop)
    with pytest.raises(
        InputError, match=rf"{answers}.parquet: the listing_id .* is empty"
    ) as caught:
        roles_of(opened(shop))
    assert len(str(caught.value)) < 500


def test_the_same_long_id_twice_is_said_shortly(shop, run):
    shop.add(LONG, 98)
    shop.add(LONG, 99)
    write(shop)
    with pytest.raises(
        InputError, match=r"the listing_id 'x{64}… \(20,000 bytes, .*' is there twice"
    ):
        stage.run(shop.config(), run)


def test_long_texts_cost_no_more_than_their_beginning(shop, run):
    shop.add("L90", 90, vertical=LONG)
    shop.add("L91", 91, vertical="shoe\0")
    shop.add("L92", 92, group_id=LONG, seller_values=[(LONG, "Red"), ("color", LONG)])
    shop.add("L93", 93, group_id=LONG + "y")
    shop.add("L94", 94, group_id=LONG)
    shop.truth["L03"] = [{"attribute": LONG, "value": "Red"}, {"attribute": "heel", "value": LONG}]
    shop.write()
    stage.run(shop.config(max_quarantined=1.0), run)
    assert refused_rows(run) == {"L90": "unknown_vertical", "L91": "unknown_vertical"}
    rows = {row["listing_id"]: row for row in run.artifact("catalog/listings").read().to_pylist()}
    groups = [rows[name]["group_id"] for name in ("L92", "L93", "L94")]
    assert groups[0] == groups[2] != groups[1]
    told = [
        text
        for row in run.artifact("catalog/listings").read(kind="quarantine").to_pylist()
        for text in row.values()
    ]
    told += [query["seller_value"] for query in rows["L92"]["queries"] if query["seller_value"]]
    told += [
        text
        for row in run.artifact("catalog/truth").read(kind="quarantine").to_pylist()
        for text in row.values()
    ]
    assert max(map(len, [*groups, *told])) <= 700


def test_a_schema_takes_no_name_that_rows_cannot_have(shop):
    shop.schema = [shop.schema[0] | {"vertical": "v" * 513}]
    shop.write()
    with pytest.raises(InputError, match=r"vertical: 'v{64}… .* is longer than 512 bytes"):
        load_attribute_schema(str(shop.directory / "schema.yaml"))
    shop.schema = yaml.safe_load(yaml.safe_dump([shop.schema[0] | {"vertical": "v" * 512}]))
    shop.write()
    assert load_attribute_schema(str(shop.directory / "schema.yaml")).verticals == ("v" * 512,)


def test_a_survey_and_a_preparation_name_such_rows_alike(shop):
    for index, name in enumerate([*ODD.values(), "", None]):
        shop.add(name, 100 + index)
    shop.write()
    source = open_source(str(shop.directory / "listings.parquet"), LISTINGS_COLUMNS)
    read = [
        name
        for shard in source.shards()
        for piece in shard.pieces
        for table in source.read_piece(piece, ("listing_id", "images"), 2)
        for name in table.column("listing_id").to_pylist()
    ]
    assert set(read) == source.listing_ids
    assert len(read) == len(set(read)) == 12 + len(ODD) + 2


def test_ids_are_compared_whole_at_16_bytes_each():
    ids = pa.array([f"L{number:05}" for number in range(2000)] + list(ODD.values()))
    known = hash_ids(ids)
    assert known.nbytes == 16 * len(ids)
    assert len(repeated(known)) == 0


def test_an_evaluation_refuses_such_rows_and_truths_alike(shop, run):
    shop.add(None, 98)
    shop.add(LONG, 99)
    shop.truth = {"L02": [{"attribute": "color", "value": "Blue"}]}
    shop.seed = {}
    shop.write()

    def judged() -> str:
        config = shop.config(max_quarantined=1.0)
        inputs = open_inputs(config.catalog)
        truth = open_answers(str(shop.directory / "truth.parquet"), TRUTH_COLUMNS)
        return stage.run_labeled(
            config, run, schema=inputs.schema, listings=inputs.listings, truth=truth
        )

    scope = judged()
    kept = run.artifact(f"{scope}/listings").read(["listing_id"]).column("listing_id")
    assert kept.to_pylist() == ["L02"]
    shop.truth = {LONG: [{"attribute": "color", "value": "Blue"}]}
    shop.write()
    with pytest.raises(
        InputError, match=r"truth.parquet: the listing_id x+… .* is empty, has more"
    ):
        judged()


@pytest.mark.parametrize("within", [False, True])
def test_a_pipe_is_no_file(shop, within):
    directory = shop.directory / "parts"
    directory.mkdir(parents=True)
    os.mkfifo(directory / "a.parquet")
    location = directory if within else directory / "a.parquet"
    with pytest.raises(InputError, match=r"a.parquet is not a readable Parquet file: it is no reg"):
        open_source(str(location), LISTINGS_COLUMNS)


def test_a_folder_that_is_called_like_a_file_is_looked_into(shop):
    write(shop)
    folder = shop.directory / "parts" / "day.parquet"
    folder.mkdir(parents=True)
    (shop.directory / "listings.parquet").rename(folder / "part-0.parquet")
    source = open_source(str(shop.directory / "parts"), LISTINGS_COLUMNS)
    assert len(source.listing_ids) == 12
