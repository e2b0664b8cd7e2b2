"""Verified values and seed answers from a user's sheet."""

from pathlib import Path

import pytest

from tests.fakes.user_sheets import Init, refused, rows_of, write_sheet


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
