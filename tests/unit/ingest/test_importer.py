"""A sheet and photos become a catalog: what ``raypipe init`` writes, keeps and refuses."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raypipe import config as configuration
from raypipe.attributes.schema import load_attribute_schema
from raypipe.cli import main as cli
from tests.fakes.pickle_payloads import add_column, hostile
from tests.fakes.user_sheets import (
    Init,
    add_answers,
    prepared,
    rows_of,
    write_parquet,
    write_sheet,
)


def test_a_sheet_and_photos_become_a_catalog_that_prepare_takes(init: Init, shop: Path) -> None:
    assert init("listings.csv") == 0
    add_answers(init, shop)
    listings = prepared(shop)
    assert len(listings) == 12
    splits = {row["listing_id"]: row["split"] for row in listings}
    assert splits["S00"] == "seed"
    assert splits["S05"] == "anchor"
    assert {splits[f"S{n:02}"] for n in range(1, 5)} <= {"eval", "anchor"}
    assert splits["S11"] == "pool"
    (query,) = listings[0]["queries"]
    assert (query["attribute"], query["options"]) == ("colour", ["Red", "Blue"])
    assert {row["queries"][0]["seller_value"] for row in listings} == {"Red", "Blue", "red"}


def test_what_was_done_and_what_comes_next_is_printed(
    init: Init, shop: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    init("listings.csv")
    printed = capsys.readouterr().out
    assert "column 'sku'" in printed
    assert "column 'category'" in printed
    assert "12 listings in 1 verticals, 12 images" in printed
    assert "missing  seed/, truth/" in printed
    steps = ["annotate", "--truth", "prepare", "round", "label"]
    places = [printed.index(f"raypipe {s}" if s[0] != "-" else s) for s in steps]
    assert places == sorted(places)
    add_answers(init, shop)
    assert "annotate" not in capsys.readouterr().out


def test_columns_are_mapped_by_name_or_as_told(init: Init, shop: Path) -> None:
    rows = [
        ("id", "code", "category", "department", "parent", "photo", "pic"),
        ("1", "X1", "shoe", "women", "P", "photos/S00.jpg", "photos/S01.jpg"),
    ]
    write_sheet(shop / "many.csv", rows)
    assert init("many.csv") == 0
    (row,) = rows_of(shop / "listings.parquet")
    assert (row["listing_id"], row["vertical"], len(row["images"])) == ("1", "shoe", 2)
    overridden = ["--id", "code", "--vertical", "department", "--image-columns", "pic",
                  "--group", "parent"]  # fmt: skip
    assert init("many.csv", "--force", *overridden) == 0
    (row,) = rows_of(shop / "listings.parquet")
    assert (row["listing_id"], row["vertical"]) == ("X1", "women")
    assert (row["images"], row["group_id"]) == (["photos/S01.jpg"], "P")
    names = [pair["attribute"] for pair in row["seller_values"]]
    assert names == ["id", "category", "photo"]


def test_one_vertical_for_all_needs_no_column(init: Init, shop: Path) -> None:
    write_sheet(shop / "few.csv", [("id", "image"), ("1", "photos/S00.jpg")])
    assert init("few.csv") == 3
    assert init("few.csv", "--one-vertical", "shoe") == 0
    assert rows_of(shop / "listings.parquet")[0]["vertical"] == "shoe"


@pytest.mark.parametrize(
    ("name", "content", "arguments", "code", "told"),
    [
        ("in.csv", "", (), 3, "is empty"),
        ("in.csv", "sku,category,image\n", (), 3, "no row of in.csv can be used: it has none"),
        ("in.csv", "sku,category,image\n1,a,b.jpg\n", (), 3, "1 no_image"),
        ("in.csv", "name,category,image\n1,a,b\n", (), 3, "--id COLUMN"),
        ("in.csv", "sku,kind,image\n1,a,b\n", (), 3, "--vertical COLUMN"),
        ("in.csv", "sku,category,kind\n1,a,b\n", (), 3, "--images DIR"),
        ("in.csv", "sku,,image\n1,a,b\n", (), 3, "column 2 has no name"),
        ("in.csv", "sku,sku,image\n1,a,b\n", (), 3, "'sku' is there twice"),
        ("in.csv", "sku,category,image\n1,a,b\n", ("--id", "skuu"), 2, "nearest is 'sku'"),
        ("in.csv", "sku,category\n1,a\n", ("--images", "nowhere"), 3, "no directory nowhere"),
        ("in.csv", "sku,category,image\n1,a,b\n", ("--encoding", "klingon"), 3, "no encoding"),
        ("in.csv", "sku,category,image\n1,a,https://x.com/b\n", ("--embed",), 2, "an address"),
        ("in.xlsx", "PK", (), 3, "save it as CSV"),
        ("in.jsonl", "[1, 2", (), 3, "is not JSON"),
        ("in.jsonl", "nothing\n", (), 3, "holds no JSON object"),
        ("in.parquet", "PAR1", (), 3, "not a readable Parquet file"),
        (None, "", (), 3, "cannot read in.csv"),
    ],
)
def test_a_broken_input_is_one_line_with_the_remedy_and_leaves_nothing(
    init: Init,
    shop: Path,
    capsys: pytest.CaptureFixture[str],
    name: str | None,
    content: str,
    arguments: tuple[str, ...],
    code: int,
    told: str,
) -> None:
    (shop / "listings.csv").unlink()
    if name is not None:
        (shop / name).write_text(content)
    assert init(name or "in.csv", *arguments) == code
    error = capsys.readouterr().err
    assert told in error
    assert len(error.strip().splitlines()) == 1
    assert {path.name for path in shop.iterdir()} <= {"photos", name, "listings.refused.csv"}


def test_nothing_to_do_is_said(init: Init, capsys: pytest.CaptureFixture[str]) -> None:
    assert init() == 2
    assert "nothing to do" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["catalog.yaml", "schema.yaml", "listings.parquet"])
def test_no_file_is_written_over_without_force(
    init: Init, shop: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    (shop / name).write_text("mine")
    before = sorted(path.name for path in shop.iterdir())
    assert init("listings.csv") == 2
    assert f"{name} exists already" in capsys.readouterr().err
    assert (shop / name).read_text() == "mine"
    assert sorted(path.name for path in shop.iterdir()) == before
    assert init("listings.csv", "--force") == 0
    assert (shop / name).read_bytes() != b"mine"


def test_drafts_that_were_edited_are_kept_beside_the_new_ones(
    init: Init, shop: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (shop / "schema.yaml").write_text("mine")
    (shop / "schema.yaml.bak").write_text("older")
    assert init("listings.csv", "--force") == 0
    assert "the schema.yaml that was there is schema.yaml.bak2 now" in capsys.readouterr().out
    (shop / "catalog.yaml").write_text("mine too")
    assert init("listings.csv", "--force") == 0
    printed = capsys.readouterr().out
    assert "the schema.yaml that was there is schema.yaml.bak3 now" in printed
    assert "the catalog.yaml that was there is catalog.yaml.bak now" in printed
    kept = {path.name: path.read_text() for path in shop.glob("*.bak*")}
    drafted = kept.pop("schema.yaml.bak3")
    assert kept == {"schema.yaml.bak": "older", "schema.yaml.bak2": "mine",
                    "catalog.yaml.bak": "mine too"}  # fmt: skip
    assert (shop / "schema.yaml").read_text() == drafted


def test_a_parquet_file_is_taken_as_it_is(init: Init, shop: Path) -> None:
    write_parquet(shop / "mine.parquet", seller_values=None)
    before = (shop / "mine.parquet").read_bytes()
    assert init("mine.parquet") == 0
    assert configuration.load("catalog.yaml").catalog.listings == "mine.parquet"
    assert (shop / "mine.parquet").read_bytes() == before
    assert not (shop / "listings.parquet").exists()
    assert load_attribute_schema("schema.yaml").verticals == ("shoe",)


@pytest.mark.parametrize(
    ("columns", "told"),
    [
        ({"vertical": None}, "the column 'vertical' (string) is missing"),
        ({"listing_id": [1, 2]}, "expected string"),
        ({"listing_id": ["A", "A"]}, "'A' is there twice"),
        ({"images": ["a.jpg", "b.jpg"]}, "expected list<binary> or list<string>"),
    ],
)
def test_a_parquet_file_with_a_fault_is_an_error(
    init: Init,
    shop: Path,
    capsys: pytest.CaptureFixture[str],
    columns: dict[str, Any],
    told: str,
) -> None:
    write_parquet(shop / "mine.parquet", **columns)
    assert init("mine.parquet") == 3
    assert told in capsys.readouterr().err
    assert not (shop / "catalog.yaml").exists()


def test_options_for_sheets_are_refused_beside_parquet(init: Init, shop: Path) -> None:
    write_parquet(shop / "mine.parquet")
    assert init("mine.parquet", "--id", "sku") == 2


def test_importing_the_command_loads_neither_arrow_nor_anything_heavy() -> None:
    code = "import raypipe.cli.init, json, sys; print(json.dumps(sorted(sys.modules)))"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert set(json.loads(ran.stdout)).isdisjoint({"ray", "torch", "numpy", "pyarrow", "pandas"})


def test_a_parquet_catalog_that_would_run_code_is_not_taken_in(
    shop: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = {"listing_id": ["A", "B"], "vertical": ["shoe"] * 2, "images": [["a.jpg"], ["b.jpg"]]}
    pq.write_table(pa.table(rows), shop / "listings.parquet")
    add_column(shop / "listings.parquet", "note", hostile(shop / "ran", 2))
    assert cli.main(["init", str(shop / "listings.parquet")]) == 3
    assert "the column 'note' is of the extension type" in capsys.readouterr().err
    assert not (shop / "ran").exists()
