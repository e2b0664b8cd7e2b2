"""Which photos belong to a listing, and which a sheet may not name."""

from pathlib import Path

import pytest

from raypipe import config as configuration
from raypipe.ingest.photos import split_names
from tests.fakes.user_sheets import (
    Init,
    add_answers,
    photo,
    prepared,
    refused,
    rows_of,
    write_sheet,
)


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
