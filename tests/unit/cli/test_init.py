"""``raypipe init``: from a sheet and images to files that the prepare stage takes."""

import csv
import io
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from raypipe import config as configuration
from raypipe.artifacts import Run
from raypipe.attributes import AttributeSchema, load_attribute_schema
from raypipe.catalog import stage
from raypipe.cli import main as cli
from raypipe.cli.init import main
from raypipe.config import CONFIGS, Config, Section, flatten
from raypipe.intake.config_draft import Place, draft_config, run_name
from raypipe.intake.photos import split_names
from raypipe.intake.schema_draft import draft_schema
from raypipe.intake.survey import Survey
from raypipe.schemas import LISTINGS
from tests.pickled import add_column, hostile

Init = Callable[..., int]
HEADER = ("sku", "category", "colour", "price", "image")


def photo(shade: int) -> bytes:
    """A small photo; another shade is another photo."""
    stream = io.BytesIO()
    Image.new("RGB", (40, 30), (shade % 256, 9 * shade % 256, 77)).save(stream, "JPEG")
    return stream.getvalue()


def write_sheet(path: Path, rows: list[tuple[str, ...]], delimiter: str = ",") -> Path:
    with path.open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream, delimiter=delimiter).writerows(rows)
    return path


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with twelve shoes in a sheet and a photo of each, where the user stands."""
    directory = tmp_path / "shop"
    (directory / "photos").mkdir(parents=True)
    rows = [HEADER]
    for number in range(12):
        name = f"S{number:02}"
        (directory / "photos" / f"{name}.jpg").write_bytes(photo(number))
        colour = ("Red", "Blue", "red")[number % 3]
        rows.append((name, "shoe", colour, f"{10 + number}.50", f"photos/{name}.jpg"))
    write_sheet(directory / "listings.csv", rows)
    monkeypatch.chdir(directory)
    return directory


@pytest.fixture
def init(shop: Path) -> Init:
    def call(*arguments: str) -> int:
        return main(["--gpus", "0", *arguments])

    return call


def rows_of(path: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pq.read_table(path).to_pylist()
    return rows


def refused(path: Path) -> list[dict[str, str]]:
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def prepared(shop: Path) -> list[dict[str, Any]]:
    """The listings that the prepare stage makes of what init wrote."""
    run = Run(str(shop / "runs" / "shop"))
    stage.run(configuration.load("catalog.yaml"), run)
    rows: list[dict[str, Any]] = run.artifact("catalog/listings", LISTINGS).read().to_pylist()
    return rows


def add_answers(init: Init, shop: Path) -> None:
    seed = [("sku", "attribute", "reasoning", "answer"), ("S00", "colour", "It is red.", "RED")]
    truth = [("sku", "colour", "split"), *((f"S{n:02}", "Blue", "") for n in range(1, 5))]
    write_sheet(shop / "seed.csv", seed)
    write_sheet(shop / "verified.csv", [*truth, ("S05", "Red", "anchor")])
    assert init("--seed", "seed.csv", "--truth", "verified.csv") == 0


# From a sheet to a prepared catalog.


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


def test_the_target_may_be_elsewhere_and_the_images_outside_it(
    init: Init, shop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert init("listings.csv", "--target", "../made") == 0
    made = tmp_path / "made"
    images = [image for row in rows_of(made / "listings.parquet") for image in row["images"]]
    assert all(Path(image).is_absolute() for image in images)
    write_sheet(made / "seed.csv", [("id", "colour"), ("S00", "Red")])
    write_sheet(made / "truth.csv", [("id", "colour", "split"), ("S01", "Blue", "anchor")])
    monkeypatch.chdir(made)
    assert init("--seed", "seed.csv", "--truth", "truth.csv") == 0
    assert len(prepared(made)) == 12
    assert configuration.load("catalog.yaml").run.name == "made"


def test_embedded_images_need_no_files(init: Init, shop: Path) -> None:
    assert init("listings.csv", "--embed") == 0
    images = {row["listing_id"]: row["images"] for row in rows_of(shop / "listings.parquet")}
    assert images["S03"] == [photo(3)]
    for file in (shop / "photos").iterdir():
        file.unlink()
    add_answers(init, shop)
    assert len(prepared(shop)) == 12


def test_without_image_columns_files_are_found_by_name(init: Init, shop: Path) -> None:
    photos = shop / "loose"
    (photos / "A7").mkdir(parents=True)
    for name in ("A1.jpg", "A1_10.jpg", "A1_2.JPG", "A1_B.png", "A7/back.webp", "stray.jpg"):
        (photos / name).write_bytes(photo(len(name)))
    (photos / "A1.txt").write_text("no image")
    write_sheet(
        shop / "loose.csv",
        [("ID", "Category"), ("A1", "shoe"), ("A1_B", "shoe"), ("A7", "shoe"), ("A9", "shoe")],
    )
    assert init("loose.csv", "--images", "loose") == 0
    found = {row["listing_id"]: row["images"] for row in rows_of(shop / "listings.parquet")}
    assert found == {
        "A1": ["loose/A1.jpg", "loose/A1_2.JPG", "loose/A1_10.jpg"],
        "A1_B": ["loose/A1_B.png"],
        "A7": ["loose/A7/back.webp"],
    }
    (lost,) = refused(shop / "listings.refused.csv")
    assert (lost["refused_because"], lost["ID"]) == ("no_image", "A9")


def test_image_files_of_no_row_are_told(
    init: Init, shop: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (shop / "photos" / "unknown.jpg").write_bytes(photo(99))
    assert init("listings.csv", "--images", "photos") == 0
    assert "1 image files belong to no row" in capsys.readouterr().out


def test_several_image_columns_are_read_in_order_and_missing_files_told(
    init: Init, shop: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_sheet(
        shop / "wide.csv",
        [
            ("id", "vertical", "image_1", "image_2", "Image URL"),
            ("A", "shoe", "photos/S01.jpg", "photos/S00.jpg", "https://cdn.shop.com/a.jpg?w=1"),
            ("B", "shoe", "photos/S02.jpg", "gone.jpg", ""),
        ],
    )
    assert init("wide.csv") == 0
    images = [row["images"] for row in rows_of(shop / "listings.parquet")]
    assert images == [
        ["photos/S01.jpg", "photos/S00.jpg", "https://cdn.shop.com/a.jpg?w=1"],
        ["photos/S02.jpg"],
    ]
    assert "1 images are named but not there (such as gone.jpg)" in capsys.readouterr().out
    fetch = configuration.load("catalog.yaml").catalog.fetch
    assert (fetch.schemes, fetch.hosts) == (("https",), ("cdn.shop.com",))


@pytest.mark.parametrize(
    ("cell", "names"),
    [
        ("a.jpg|b c.jpg", ["a.jpg", "b c.jpg"]),
        ("a.jpg; b.jpg;", ["a.jpg", "b.jpg"]),
        ("a.jpg\nb.jpg", ["a.jpg", "b.jpg"]),
        ("a.jpg, b.jpg", ["a.jpg", "b.jpg"]),
        ("red, left.jpg", ["red, left.jpg"]),
        ("https://x.com/a?s=1,2", ["https://x.com/a?s=1,2"]),
        ("https://x.com/a https://x.com/b", ["https://x.com/a", "https://x.com/b"]),
        ("my shoe.jpg", ["my shoe.jpg"]),
        ("https://x.com/a;v=1.jpg", ["https://x.com/a;v=1.jpg"]),
        ("https://x.com/a,b;v=1.jpg|c.jpg", ["https://x.com/a,b;v=1.jpg", "c.jpg"]),
        ("https://x.com/a;v=1;https://x.com/b;v=2", ["https://x.com/a;v=1", "https://x.com/b;v=2"]),
        ("https://x.com/a,s3://x/b.jpg", ["https://x.com/a", "s3://x/b.jpg"]),
        ("https://x.com/a;v=1; b.jpg", ["https://x.com/a;v=1", "b.jpg"]),
        ("b.jpg;https://x.com/a;v=1.jpg", ["b.jpg", "https://x.com/a;v=1.jpg"]),
        ("https://x.com/a;v=1 https://x.com/b", ["https://x.com/a;v=1", "https://x.com/b"]),
        ("https://x.com/a.jpg;", ["https://x.com/a.jpg"]),
        ("red; left.jpg", ["red; left.jpg"]),
        ("a.jpg; b.jpg, c.jpg", ["a.jpg", "b.jpg", "c.jpg"]),
        ("", []),
        (["a.jpg", "b;c.jpg"], ["a.jpg", "b;c.jpg"]),
    ],
)
def test_a_cell_names_images(cell: str | list[str], names: list[str]) -> None:
    assert split_names(cell) == names


def test_a_cell_reaches_no_file_outside_the_users_folders(init: Init, shop: Path) -> None:
    (shop.parent / "secret.jpg").write_bytes(photo(1))
    rows = [("id", "vertical", "image"), ("A", "shoe", "photos/S01.jpg")]
    outside = ["../secret.jpg", str(shop.parent / "secret.jpg"), "x" * 5000, "\0"]
    names = [(f"B{number}", "shoe", name) for number, name in enumerate(outside[:3])]
    write_sheet(shop / "odd.csv", [*rows, *names])
    assert init("odd.csv", "--embed") == 0
    assert [row["listing_id"] for row in rows_of(shop / "listings.parquet")] == ["A"]
    assert len(refused(shop / "listings.refused.csv")) == 3


# Ways of writing a sheet.


def test_a_sheet_of_excel_is_read(init: Init, shop: Path) -> None:
    text = (
        '﻿Artikel;Category;Größe;Farbe;Bild\r\n'
        'S00;"Schuh; Damen";"36 ""EU""";Grün;photos/S00.jpg\r\n'
        '\r\n'
        'S01;"Schuh; Damen";"zwei\nZeilen";Grün;photos/S01.jpg\r\n'
    )  # fmt: skip
    (shop / "excel.csv").write_bytes(text.encode())
    assert init("excel.csv", "--id", "Artikel", "--image-columns", "Bild") == 0
    rows = rows_of(shop / "listings.parquet")
    assert [row["listing_id"] for row in rows] == ["S00", "S01"]
    assert rows[0]["vertical"] == "Schuh; Damen"
    assert rows[0]["seller_values"] == [
        {"attribute": "Größe", "value": '36 "EU"'},
        {"attribute": "Farbe", "value": "Grün"},
    ]
    assert rows[1]["seller_values"][0]["value"] == "zwei\nZeilen"


@pytest.mark.parametrize(
    ("name", "encoding", "delimiter"),
    [("a.tsv", "utf-8", "\t"), ("a.csv", "utf-16", ","), ("a.txt", "utf-8", "|")],
)
def test_other_delimiters_and_unicode_forms_are_found_out(
    init: Init, shop: Path, name: str, encoding: str, delimiter: str
) -> None:
    text = write_sheet(
        shop / "plain.csv",
        [HEADER, ("S00", "shoe", "Grün", "1,50", "photos/S00.jpg")],
        delimiter,
    ).read_text("utf-8")
    (shop / name).write_text(text, encoding)
    assert init(name) == 0
    (row,) = rows_of(shop / "listings.parquet")
    assert row["seller_values"][0] == {"attribute": "colour", "value": "Grün"}


def test_another_encoding_is_named(init: Init, shop: Path) -> None:
    write_sheet(shop / "old.csv", [HEADER, ("S00", "shoe", "Grün", "1", "photos/S00.jpg")])
    (shop / "old.csv").write_bytes((shop / "old.csv").read_text("utf-8").encode("cp1252"))
    assert init("old.csv") == 3
    assert init("old.csv", "--encoding", "cp1252") == 0
    assert rows_of(shop / "listings.parquet")[0]["seller_values"][0]["value"] == "Grün"


@pytest.mark.parametrize("form", ["lines", "array"])
def test_json_is_read(init: Init, shop: Path, form: str) -> None:
    rows = [
        {"id": 7, "category": "shoe", "images": ["photos/S00.jpg", "photos/S01.jpg"],
         "attributes": {"colour": "Red", "vegan": True, "heel": None}, "size": {"eu": 38}},
        {"id": "8", "category": "shoe", "images": "photos/S02.jpg", "tags": ["a", "b"]},
    ]  # fmt: skip
    lines = "\n".join(json.dumps(row) for row in rows)
    (shop / "a.jsonl").write_text(lines + "\n{broken\n" if form == "lines" else json.dumps(rows))
    assert init("a.jsonl") == 0
    first, second = rows_of(shop / "listings.parquet")
    assert first["listing_id"] == "7"
    assert first["images"] == ["photos/S00.jpg", "photos/S01.jpg"]
    assert {pair["attribute"]: pair["value"] for pair in first["seller_values"]} == {
        "colour": "Red", "vegan": "yes", "size.eu": "38",
    }  # fmt: skip
    assert second["seller_values"] == [{"attribute": "tags", "value": "a, b"}]
    reasons = [row["refused_because"] for row in refused(shop / "listings.refused.csv")]
    assert reasons == (["unreadable_row"] if form == "lines" else [])


# What is which column.


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


# What cannot be used.


def test_every_row_is_written_or_refused_with_a_reason(init: Init, shop: Path) -> None:
    rows = [
        HEADER,
        ("S00", "shoe", "Red", "1", "photos/S00.jpg"),
        ("", "shoe", "Red", "1", "photos/S01.jpg"),
        ("a/b", "shoe", "Red", "1", "photos/S01.jpg"),
        ("S00", "shoe", "Blue", "1", "photos/S02.jpg"),
        ("S03", " ", "Red", "1", "photos/S03.jpg"),
        ("S04", "shoe", "Red", "1", "photos/gone.jpg"),
        ("S05", "shoe", "Red, dark"),
        ("S06", "shoe", "Red", "1", "photos/S06.jpg"),
    ]
    write_sheet(shop / "bad.csv", rows)
    assert init("bad.csv") == 0
    kept = [row["listing_id"] for row in rows_of(shop / "listings.parquet")]
    assert kept == ["S00", "S06"]
    lost = refused(shop / "listings.refused.csv")
    assert len(kept) + len(lost) == len(rows) - 1
    assert {row["refused_because"]: row["sku"] for row in lost} == {
        "unreadable_row": "",
        "no_id": "",
        "bad_id": "a/b",
        "doubled_id": "S00",
        "no_vertical": "S03",
        "no_image": "S04",
    }
    (unreadable,) = [row for row in lost if row["refused_because"] == "unreadable_row"]
    assert "S05" in unreadable["refused_detail"]
    (doubled,) = [row for row in lost if row["refused_because"] == "doubled_id"]
    assert doubled["colour"] == "Blue"


def test_refused_rows_can_be_mended_and_taken(init: Init, shop: Path) -> None:
    write_sheet(shop / "bad.csv", [HEADER, ("S00", "shoe", "Red", "1", "photos/S00.jpg"),
                                   ("S01", "", "Red", "1", "photos/S01.jpg")])  # fmt: skip
    assert init("bad.csv") == 0
    text = (shop / "listings.refused.csv").read_text()
    (shop / "mended.csv").write_text(text.replace("S01,,", "S01,shoe,"))
    (shop / "schema.yaml").write_text("edited")
    assert init("mended.csv", "--force", "--listings-only") == 0
    assert [row["listing_id"] for row in rows_of(shop / "listings.parquet")] == ["S01"]
    (row,) = rows_of(shop / "listings.parquet")
    assert [pair["attribute"] for pair in row["seller_values"]] == ["colour", "price"]
    assert not (shop / "listings.refused.csv").exists()
    assert (shop / "schema.yaml").read_text() == "edited"


def test_what_was_refused_is_not_lost_when_it_is_given_back(
    init: Init, shop: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_sheet(shop / "listings.refused.csv", [HEADER])
    assert init("listings.refused.csv", "--force") == 2
    assert "rename it first" in capsys.readouterr().err
    assert (shop / "listings.refused.csv").exists()


def test_a_quote_that_is_not_closed_takes_rows_with_it_aloud(init: Init, shop: Path) -> None:
    lines = (shop / "listings.csv").read_text().splitlines()
    lines[5] = lines[5].replace("Blue", '"Blue').replace("Red", '"Red').replace("red", '"red')
    (shop / "open.csv").write_text("\n".join(lines))
    assert init("open.csv") == 0
    assert len(rows_of(shop / "listings.parquet")) == 4
    (lost,) = refused(shop / "listings.refused.csv")
    assert "over 8 lines (is a quote not closed?)" in lost["refused_detail"]
    assert "S11" in lost["refused_detail"]


def test_all_that_a_quote_swallows_is_kept_and_counted(
    init: Init, shop: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [f"N{n},shoe,{'word ' * 20},1,photos/S00.jpg" for n in range(200)]
    rows[50] = rows[50].replace("shoe", '"shoe')
    (shop / "open.csv").write_text("\n".join([",".join(HEADER), *rows]))
    assert init("open.csv") == 0
    assert len(rows_of(shop / "listings.parquet")) == 50
    (lost,) = refused(shop / "listings.refused.csv")
    assert lost["refused_detail"].endswith("\n".join(rows[50:]))
    printed = capsys.readouterr().out
    assert "1 unreadable_row over 150 lines" in printed
    assert "N199" not in printed


def test_a_large_sheet_is_taken_whole(init: Init, shop: Path) -> None:
    rows = [(f"N{n}", "shoe", f"word {n} " * 60, "1", "photos/S00.jpg") for n in range(12_000)]
    write_sheet(shop / "large.csv", [HEADER, *rows])
    assert (shop / "large.csv").stat().st_size > 1 << 22
    assert init("large.csv") == 0
    assert pq.read_metadata(shop / "listings.parquet").num_rows == 12_000
    assert not (shop / "listings.refused.csv").exists()


@pytest.mark.parametrize(
    "header", ["productId,productType,imageUrl", "Product ID,Category,Main Image"]
)
def test_names_are_known_however_they_are_written(init: Init, shop: Path, header: str) -> None:
    (shop / "names.csv").write_text(f"{header}\r7,shoe,photos/S00.jpg\r")
    assert init("names.csv") == 0
    (row,) = rows_of(shop / "listings.parquet")
    assert (row["listing_id"], row["vertical"], row["images"]) == ("7", "shoe", ["photos/S00.jpg"])


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


# The configuration.


def settings(text: str) -> dict[str, Any]:
    return flatten(configuration.resolve(yaml.safe_load(text)).model_dump())


@pytest.mark.parametrize(("gpus", "shipped"), [(0, "local.yaml"), (2, "qwen2.5-vl-3b.yaml")])
def test_the_configuration_is_the_shipped_one_for_the_users_files(gpus: int, shipped: str) -> None:
    made = settings(draft_config(Place("shop", "listings.parquet", gpus)))
    known = flatten(configuration.load(CONFIGS / shipped).model_dump())
    own = {"run.name", "catalog.listings", "catalog.attribute_schema", "catalog.seed",
           "catalog.truth", "labeling.listings"}  # fmt: skip
    own |= {"sampling.num_actors", "cluster.num_train_workers"} if gpus else set()
    different = {key for key in made if made[key] != known.get(key, made[key])}
    assert {key for key in different if not key.startswith("sweep.")} <= own
    assert made["catalog.listings"] == "listings.parquet"
    if gpus:
        assert (made["sampling.num_actors"], made["cluster.num_train_workers"]) == (2, 2)


@pytest.mark.parametrize("gpus", [0, 4])
def test_every_key_of_the_configuration_has_a_comment_above(gpus: int) -> None:
    lines = draft_config(Place("shop", "listings.parquet", gpus)).splitlines()
    keys = [
        number
        for number, line in enumerate(lines)
        if re.match(r"  (  )?#?[a-z_]+:", line) and not _inside_a_value(lines, number)
    ]
    assert len(keys) > 40
    for number in keys:
        if not lines[number].strip().endswith("fetch:"):
            assert lines[number - 1].strip().startswith("# "), lines[number]


def _inside_a_value(lines: list[str], number: int) -> bool:
    """Whether a line is of the mapping that a key such as sampling.engine is."""
    above = lines[number - 1]
    depth = len(lines[number]) - len(lines[number].lstrip())
    while not re.match(r"\s*(#|[a-z_]+:$)", above) and number > 1:
        number -= 1
        above = lines[number - 1]
    opens = bool(re.match(r"\s+[a-z_]+:$", above))
    return opens and depth > len(above) - len(above.lstrip()) and "fetch" not in above


@pytest.mark.parametrize("gpus", [0, 4])
def test_what_is_commented_out_is_the_default_and_can_be_switched_on(gpus: int) -> None:
    text = draft_config(Place("shop", "listings.parquet", gpus))
    switched = re.sub(r"^(\s*)#(?=[a-z_]+:)", r"\1", text, flags=re.MULTILINE)
    assert switched != text
    assert settings(switched) == settings(text)


def test_comments_on_unset_keys_are_the_keys_own_docstrings() -> None:
    text = draft_config(Place("shop", "listings.parquet", 0))
    words = " ".join(text.replace("#", " ").split())
    section = Config.model_fields["rounds"].annotation
    assert isinstance(section, type)
    assert issubclass(section, Section)
    description = section.model_fields["max_anchor_drop"].description
    assert description is not None
    assert " ".join(description.split()) in words


def test_without_a_gpu_it_says_loudly_what_the_nano_is_for() -> None:
    assert "KNOWS NOTHING OF YOUR GOODS" in draft_config(Place("shop", "listings.parquet", 0))
    assert "KNOWS NOTHING" not in draft_config(Place("shop", "listings.parquet", 1))


@pytest.mark.parametrize(("count", "allowed"), [(10, 10), (11, 0)])
def test_few_hosts_are_allowed_and_many_are_the_users_choice(count: int, allowed: int) -> None:
    hosts = tuple(("https", f"cdn{number}.shop.com") for number in range(count))
    made = settings(draft_config(Place("shop", "listings.parquet", 0, hosts)))
    assert len(made["catalog.fetch.hosts"]) == allowed


@pytest.mark.parametrize(
    ("directory", "name"),
    [("My Shop (2)", "my-shop-2"), ("__", "catalog"), ("..x", "x"), ("Ä" * 90, "catalog")],
)
def test_the_run_is_named_after_the_directory(directory: str, name: str) -> None:
    assert run_name(directory) == name
    assert settings(draft_config(Place(run_name(directory), "l.parquet", 0)))["run.name"] == name


# The schema.


def drafted(*sellers: dict[str, str], vertical: str = "shoe") -> tuple[str, AttributeSchema]:
    survey = Survey()
    for values in sellers:
        survey.add(vertical, values, [])
    text = draft_schema(survey).text
    return text, AttributeSchema.from_json(yaml.safe_load(text))


def test_the_schema_has_frequent_values_with_their_counts(init: Init, shop: Path) -> None:
    assert init("listings.csv") == 0
    schema = load_attribute_schema("schema.yaml")
    assert schema.get("shoe", "colour").values == ("Red", "Blue")
    text = (shop / "schema.yaml").read_text()
    assert '- "Red"  # 8' in text
    assert "Not asked: price: no value is there twice" in text


def test_rare_values_are_left_out_and_named() -> None:
    text, schema = drafted(*[{"heel": "Flat"}] * 3, *[{"heel": "Block"}] * 2, {"heel": "Wedge"})
    assert schema.get("shoe", "heel").values == ("Flat", "Block")
    assert "# left out: 'Wedge' (1)" in text


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        (["Red"] * 9, "always 'Red'"),
        ([f"word {n}" for n in range(9)], "no value is there twice"),
        ([f"text {n}" for n in range(60)] + ["a", "a"], "61 different values"),
        ([f"{n},5" for n in range(20)] * 3, "20 different numbers"),
        ([f"{n}" for n in range(2500)], "more than 2,000 different values"),
        (["N/A", "-"] * 5, "no value says anything"),
        (["Blue", "Blue", "Green"], "of 2 different values only 'Blue' is there twice"),
        (["Blue", "blue", "x" * 61, "x" * 61], "of 2 different values only 'Blue' is there twice"),
    ],
)
def test_what_is_no_choice_is_not_asked_and_says_why(values: list[str], reason: str) -> None:
    text, schema = drafted(*({"what": value, "colour": "Red"} for value in values),
                           *[{"colour": "Blue"}] * 2, {"colour": "Red"})  # fmt: skip
    assert [entry.name for entry in schema.attributes("shoe")] == ["colour"]
    assert f"# Not asked: what: {reason}" in text


def test_a_vertical_without_anything_to_ask_gets_an_example_that_says_so() -> None:
    text, schema = drafted({}, {}, vertical="hat")
    assert schema.get("hat", "color").values
    assert "AN EXAMPLE" in text


@given(
    st.lists(
        st.tuples(st.sampled_from(["a", "A ", "b: #"]), st.text(max_size=4), st.text(max_size=8)),
        min_size=1,
    )
)
def test_whatever_sellers_say_the_schema_loads(rows: list[tuple[str, str, str]]) -> None:
    survey = Survey()
    for vertical, name, value in rows * 2:
        survey.add(vertical, {name: value}, [])
    draft = draft_schema(survey)
    schema = AttributeSchema.from_json(yaml.safe_load(draft.text))
    assert set(schema.verticals) == {vertical.strip() for vertical, _, _ in rows}


# A Parquet file that is there already.


def write_parquet(path: Path, **columns: Any) -> None:
    table = {
        "listing_id": ["A", "B"],
        "vertical": ["shoe", "shoe"],
        "images": [[photo(1)], [photo(2)]],
        "seller_values": [[("heel", "Flat")], [("heel", "Block")]],
    } | columns
    kind = pa.map_(pa.string(), pa.string())
    arrays = {
        name: pa.array(values, kind) if name == "seller_values" else pa.array(values)
        for name, values in table.items()
        if values is not None
    }
    pq.write_table(pa.table(arrays), path)


def test_a_parquet_file_is_taken_as_it_is(init: Init, shop: Path) -> None:
    write_parquet(shop / "mine.parquet", seller_values=None)
    before = (shop / "mine.parquet").read_bytes()
    assert init("mine.parquet") == 0
    assert configuration.load("catalog.yaml").catalog.listings == "mine.parquet"
    assert (shop / "mine.parquet").read_bytes() == before
    assert not (shop / "listings.parquet").exists()
    assert load_attribute_schema("schema.yaml").verticals == ("shoe",)


def test_hosts_of_images_by_address_are_proposed(
    init: Init, shop: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    addresses = [["https://CDN.shop.com/b.jpg", "https://img.shop.com/b.jpg"], ["a.jpg"]]
    write_parquet(shop / "mine.parquet", images=addresses)
    assert init("mine.parquet") == 0
    fetch = configuration.load("catalog.yaml").catalog.fetch
    assert (fetch.hosts, fetch.schemes) == (("cdn.shop.com", "img.shop.com"), ("https",))
    assert "allows images from cdn.shop.com, img.shop.com" in capsys.readouterr().out


DOUBTFUL = {
    "s3://shop-images/a.jpg": "a bucket, which is read with this machine's credentials",
    "gs://shop-images/a.jpg": "a bucket",
    "http://cdn.shop.com/a.jpg": "not https",
    "file:///etc/passwd": "a scheme that is not fetched",
    "ftp://cdn.shop.com/a": "a scheme that is not fetched",
    "https://169.254.169.254/latest": "an address of a machine",
    "https://[::1]/a": "an address of a machine",
    "https://2130706433/a": "an address of a machine",
    "https://0x7f000001/a": "an address of a machine",
    "https://127.1/a": "an address of a machine",
    "https://[::1/a": "no name that a host can have",
    "https:///a": "no name that a host can have",
    "https://localhost/a": "a name inside a network",
    "https://LOCALHOST./a": "a name inside a network",
    "https://intranet/a": "a name inside a network",
    "https://metadata.google.internal/a": "a name inside a network",
    "https://printer.local/a": "a name inside a network",
    "https://a.localhost/a": "a name inside a network",
    "https://*.shop.com/a": "no name that a host can have",
    "https://cdn_1.shop.com/a": "no name that a host can have",
    "https://-cdn.shop.com/a": "no name that a host can have",
    "https://cdn..shop.com/a": "no name that a host can have",
    "https://cdn.shop.com%2f.evil/a": "no name that a host can have",
    "https://b\u00fccher.de/a": "no name that a host can have",
    "https://\u0441dn.shop.com/a": "no name that a host can have",
    "https://xn--bcher-kva.de/a": "letters that may only look like others",
    "https://a\u2028hosts: [evil.com]/a": "no name that a host can have",
    "https://a\x85b.com/a": "no name that a host can have",
    "https://" + "a." * 200 + "com/a": "no name that a host can have",
    "https://user:s3cr3t@/a": "no name that a host can have",
}


@pytest.mark.parametrize("address", DOUBTFUL)
def test_other_hosts_are_commented_out_with_the_reason(
    init: Init, shop: Path, capsys: pytest.CaptureFixture[str], address: str
) -> None:
    write_parquet(shop / "mine.parquet", images=[[address], ["https://cdn2.shop.com/b.jpg"]])
    assert init("mine.parquet") == 0
    fetch = configuration.load("catalog.yaml").catalog.fetch
    assert (fetch.hosts, fetch.schemes) == (("cdn2.shop.com",), ("https",))
    (comment,) = (
        line for line in (shop / "catalog.yaml").read_text().splitlines() if "#   - " in line
    )
    assert DOUBTFUL[address] in comment
    assert comment.isascii()
    assert len(comment) < 220
    printed = capsys.readouterr().out
    assert f"does not allow {comment.partition('- ')[2].partition('  #')[0]}: " in printed
    assert "s3cr3t" not in comment + printed


def test_hosts_that_are_not_proposed_leave_the_default(init: Init, shop: Path) -> None:
    write_parquet(shop / "mine.parquet", images=[[f"s3://b{n}/a"] for n in range(2)])
    assert init("mine.parquet") == 0
    assert configuration.load("catalog.yaml").catalog.fetch.hosts == ()
    assert "s3://b1" in (shop / "catalog.yaml").read_text()


@given(st.lists(st.text(min_size=1, max_size=30), max_size=14))
def test_whatever_a_sheet_names_the_configuration_loads(names: list[str]) -> None:
    survey = Survey()
    survey.add("shoe", {}, [f"https://{name}" for name in names])
    hosts = tuple(survey.hosts)
    text = draft_config(Place("shop", "listings.parquet", 0, hosts))
    for host in settings(text)["catalog.fetch.hosts"]:
        assert re.fullmatch(r"[a-z0-9.-]+", host)
    assert settings(text).keys() == settings(draft_config(Place("shop", "l.parquet", 0))).keys()


def test_the_folder_of_images_outside_is_a_root(
    init: Init, shop: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (shop / "photos").rename(tmp_path / "elsewhere")
    sheet = (shop / "listings.csv").read_text().replace("photos/", "")
    (shop / "listings.csv").write_text(sheet)
    assert init("listings.csv", "--images", "../elsewhere") == 0
    roots = configuration.load("catalog.yaml").catalog.image_roots
    assert roots == (str(tmp_path / "elsewhere"),)
    assert "catalog.image_roots of catalog.yaml names" in capsys.readouterr().out
    add_answers(init, shop)
    assert len(prepared(shop)) == 12


def test_the_root_of_images_beside_a_sheet_elsewhere_is_their_own_folder(
    init: Init, shop: Path
) -> None:
    assert init("listings.csv", "--target", "../made") == 0
    made = configuration.load("../made/catalog.yaml").catalog
    assert made.image_roots == (str(shop / "photos"),)


def test_images_in_the_target_need_no_root(init: Init, shop: Path) -> None:
    assert init("listings.csv", "--images", "photos") == 0
    assert configuration.load("catalog.yaml").catalog.image_roots == ()


def test_a_folder_of_images_that_is_a_link_is_a_root(
    init: Init, shop: Path, tmp_path: Path
) -> None:
    (shop / "photos").rename(tmp_path / "elsewhere")
    (shop / "photos").symlink_to(tmp_path / "elsewhere")
    assert init("listings.csv", "--images", "photos") == 0
    roots = configuration.load("catalog.yaml").catalog.image_roots
    assert roots == (str(tmp_path / "elsewhere"),)
    add_answers(init, shop)
    assert len(prepared(shop)) == 12


@pytest.mark.parametrize("embed", [(), ("--embed",)])
def test_a_link_that_leads_out_of_the_folders_is_no_image(
    init: Init, shop: Path, tmp_path: Path, embed: tuple[str, ...]
) -> None:
    (tmp_path / "private.jpg").write_bytes(photo(77))
    (shop / "photos" / "S00.jpg").unlink()
    (shop / "photos" / "S00.jpg").symlink_to(tmp_path / "private.jpg")
    assert init("listings.csv", *embed) == 0
    (lost,) = refused(shop / "listings.refused.csv")
    assert (lost["refused_because"], lost["sku"]) == ("no_image", "S00")


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


# Annotated and verified values.


def test_verified_values_may_be_long_or_wide(init: Init, shop: Path) -> None:
    init("listings.csv")
    write_sheet(shop / "long.csv", [("listing_id", "attribute", "value", "split"),
                                    ("S01", "colour", "Blue", "eval"),
                                    ("S02", "colour", "Red", "")])  # fmt: skip
    write_sheet(shop / "wide.csv", [("sku", "split", "colour"), ("S01", "eval", "Blue"),
                                    ("S02", "", "Red")])  # fmt: skip
    assert init("--truth", "long.csv") == 0
    long = rows_of(shop / "truth" / "truth.parquet")
    assert init("--truth", "wide.csv", "--force") == 0
    assert rows_of(shop / "truth" / "truth.parquet") == long
    assert long[0] == {
        "listing_id": "S01",
        "answers": [{"attribute": "colour", "value": "Blue"}],
        "split": "eval",
    }
    assert long[1]["split"] is None


def test_values_that_cannot_be_used_are_refused_with_a_reason(init: Init, shop: Path) -> None:
    init("listings.csv")
    write_sheet(shop / "seed.csv", [("id", "colour"), ("S09", "Red")])
    assert init("--seed", "seed.csv") == 0
    rows = [
        ("id", "attribute", "value", "split"),
        ("S01", "colour", "Blue", "eval"),
        ("S01", "colour", "Red", "eval"),
        ("S01", "heel", "Flat", "anchor"),
        ("S02", "colour", "Blue", "test"),
        ("S03", "colour", "", ""),
        ("S09", "colour", "Blue", ""),
        ("X", "colour", "Blue", ""),
        ("", "colour", "Blue", ""),
    ]
    write_sheet(shop / "verified.csv", rows)
    assert init("--truth", "verified.csv") == 0
    reasons = [row["refused_because"] for row in refused(shop / "truth.refused.csv")]
    assert reasons == [
        "repeated_attribute",
        "two_splits",
        "bad_split",
        "no_value",
        "in_the_seed",
        "unknown_listing",
        "no_id",
    ]
    assert [row["listing_id"] for row in rows_of(shop / "truth" / "truth.parquet")] == ["S01"]


def test_values_outside_the_schema_are_kept_and_told(
    init: Init, shop: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    init("listings.csv")
    write_sheet(shop / "verified.csv", [("id", "colour"), ("S01", "Crimson"), ("S02", "blue")])
    assert init("--truth", "verified.csv") == 0
    assert "1 of them are not in schema.yaml" in capsys.readouterr().out
    assert len(rows_of(shop / "truth" / "truth.parquet")) == 2


def test_seed_answers_keep_their_reasoning_and_miss_it_aloud(
    init: Init, shop: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [("listing_id", "attribute", "reasoning", "answer"), ("S1", "colour", "It is.", "Red"),
            ("S1", "heel", "", "Flat")]  # fmt: skip
    write_sheet(shop / "seed.csv", rows)
    assert init("--seed", "seed.csv") == 0
    (row,) = rows_of(shop / "seed" / "seed.parquet")
    assert [answer["reasoning"] for answer in row["answers"]] == ["It is.", ""]
    printed = capsys.readouterr().out
    assert "1 of them come without reasoning" in printed
    assert "ids and values were not checked" in printed
    assert init("--seed", "seed.csv") == 2


def test_answers_beside_a_table_are_taken_unchecked_and_it_says_so(
    init: Init, shop: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    init("listings.csv")
    text = (shop / "catalog.yaml").read_text()
    (shop / "catalog.yaml").write_text(text.replace("listings.parquet", "delta:/lake/listings"))
    write_sheet(shop / "seed.csv", [("id", "colour"), ("T1", "Red"), ("T2", "Crimson")])
    write_sheet(shop / "verified.csv", [("id", "colour"), ("T1", "Red"), ("T3", "Blue")])
    assert init("--seed", "seed.csv", "--truth", "verified.csv") == 0
    printed = capsys.readouterr().out
    assert printed.count("catalog.listings is a table, which is not read here") == 2
    assert len(rows_of(shop / "seed" / "seed.parquet")) == 2
    assert [row["refused_because"] for row in refused(shop / "truth.refused.csv")] == [
        "in_the_seed"
    ]


@pytest.mark.parametrize(
    "table", ["delta:s3://shop/listings", "iceberg:shop.listings", "lance:l@3"]
)
def test_a_table_is_named_in_the_configuration(
    init: Init, shop: Path, capsys: pytest.CaptureFixture[str], table: str
) -> None:
    assert init(table) == 2
    assert f"{table} is a table" in (error := capsys.readouterr().err)
    assert "catalog.listings" in error
    assert not (shop / "catalog.yaml").exists()


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
