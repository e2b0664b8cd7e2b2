"""Sheets of every kind: each row is written, or refused with a reason."""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.fakes.user_sheets import HEADER, Init, refused, rows_of, write_sheet


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
