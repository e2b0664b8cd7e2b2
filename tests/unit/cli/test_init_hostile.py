"""``raypipe init`` on sheets whose cells are made to hold it."""

import csv
import io
import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from raypipe.cli.init import main
from raypipe.ingest import sheets
from raypipe.ingest.listings import MAX_NAMES
from raypipe.ingest.photos import split_names

HEADER = "sku,category,colour,image\n"


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a photo, where the user stands."""
    stream = io.BytesIO()
    Image.new("RGB", (40, 30), "red").save(stream, "JPEG")
    (tmp_path / "a.jpg").write_bytes(stream.getvalue())
    monkeypatch.chdir(tmp_path)
    return tmp_path


def ids(shop: Path) -> list[str]:
    found: list[str] = pq.read_table(shop / "listings.parquet").column("listing_id").to_pylist()
    return found


def refused(shop: Path) -> list[dict[str, str]]:
    with (shop / "listings.refused.csv").open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def test_a_long_first_row_changes_no_delimiter(shop: Path) -> None:
    first = f"1,shoe,{'a' * 100_000},a.jpg\n"
    (shop / "sheet.csv").write_text(f"{HEADER}{first}2,shoe,red,a.jpg\n")
    assert main(["sheet.csv"]) == 0
    assert ids(shop) == ["1", "2"]


def test_a_quote_that_is_not_closed_in_the_first_row_changes_no_delimiter(
    shop: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = "".join(f"{number},shoe,red,a.jpg\n" for number in range(3000))
    (shop / "sheet.csv").write_text(f'{HEADER}0,shoe,"red,a.jpg\n{rows}')
    assert main(["sheet.csv"]) == 3
    assert "over 3,001 lines (is a quote not closed?)" in capsys.readouterr().err


def test_a_row_that_names_images_without_end_is_refused(shop: Path) -> None:
    few, many = "|".join(["a.jpg"] * MAX_NAMES), "|".join(["a.jpg"] * (MAX_NAMES + 1))
    (shop / "sheet.csv").write_text(f"{HEADER}1,shoe,red,{few}\n2,shoe,red,{many}\n")
    assert main(["sheet.csv"]) == 0
    assert ids(shop) == ["1"]
    [row] = refused(shop)
    assert row["refused_because"] == "too_many_images"
    assert "2: it names 1,001 images, at most 1,000 are read" in row["refused_detail"]


def test_keys_without_end_are_no_columns(
    shop: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sheets, "MAX_COLUMNS", 100)
    good = {"sku": "1", "category": "shoe", "image": "a.jpg"}
    lines = [good, *({f"key {number}": "x"} for number in range(98))]
    (shop / "sheet.jsonl").write_text("\n".join(map(json.dumps, lines)))
    assert main(["sheet.jsonl"]) == 3
    assert "sheet.jsonl: its objects have more than 100 different keys, counted to row 99" in (
        capsys.readouterr().err
    )


@pytest.mark.parametrize("part", ["a", "x://", "a;b", "a,b;", "https://a;b", "x:// ", "https://a,"])
def test_no_cell_holds_what_looks_for_names(part: str) -> None:
    cell = part * 50_000  # each letter looked at once for each before it would take an hour
    assert "".join(split_names(cell)).replace(";", "").count("a") == cell.count("a")
    assert split_names("https://a" + ";b" * 50_000) == ["https://a" + ";b" * 50_000]


@given(
    st.lists(st.sampled_from([";", ",", " ", "|", "a.jpg", "b", "https://x/a", "s3://", "c.png"]))
)
def test_nothing_of_a_cell_is_lost(pieces: list[str]) -> None:
    cell = "".join(pieces)
    kept = "".join(split_names(cell))
    assert [letter for letter in kept if letter.isalnum()] == [
        letter for letter in cell if letter.isalnum()
    ]
