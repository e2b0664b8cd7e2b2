"""Faults of the user's files are one clear error, each before anything is decoded."""

import copy
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raypipe.catalog import stage
from raypipe.catalog.hashed_files import HashedFiles
from raypipe.catalog.inputs import open_inputs, roles_of
from raypipe.catalog.sources import LISTINGS_COLUMNS, TRUTH_COLUMNS, open_source
from raypipe.errors import InputError
from raypipe.store.artifacts import Run


def opened(shop, **catalog):
    shop.write()
    return open_inputs(shop.config(**catalog).catalog)


def refused(shop, message):
    """The one-line error of preparing the shop; nothing was decoded."""
    shop.write()
    run = Run(str(shop.directory.parent / "refused"))
    with pytest.raises(InputError, match=message) as caught:
        stage.run(shop.config(), run)
    assert not Path(run.path("catalog")).exists()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("column", ["listing_id", "vertical", "images"])
def test_a_missing_column_is_named_with_its_file(shop, column):
    shop.write()
    path = shop.directory / "listings.parquet"
    pq.write_table(pq.read_table(path).drop_columns([column]), path)
    with pytest.raises(InputError, match=rf"listings.parquet: the column '{column}' .*is missing"):
        open_inputs(shop.config().catalog)


@pytest.mark.parametrize(
    ("column", "values", "expected"),
    [
        ("listing_id", pa.array([1, 2]), "is int64, expected string"),
        ("images", pa.array([b"a", b"b"]), "is binary, expected list<binary>"),
        ("images", pa.array([[1], [2]]), "is list<.*int64.*>, expected list<binary>"),
        ("seller_values", pa.array(["a", "b"]), "is string, expected list<struct"),
        ("group_id", pa.array([1, 2]), "is int64, expected string"),
    ],
)
def test_a_column_of_another_type_is_named(tmp_path, column, values, expected):
    columns = {
        "listing_id": pa.array(["a", "b"]),
        "vertical": pa.array(["shoe", "shoe"]),
        "images": pa.array([[b"a"], [b"b"]]),
    }
    pq.write_table(pa.table(columns | {column: values}), tmp_path / "listings.parquet")
    with pytest.raises(InputError, match=rf"listings.parquet: the column '{column}' {expected}"):
        open_source(str(tmp_path), LISTINGS_COLUMNS)


@pytest.mark.parametrize("name", ["seed", "truth"])
def test_answers_without_their_fields_are_refused(shop, name):
    shop.write()
    table = pa.table({"listing_id": ["L00"], "answers": [[{"attribute": "color"}]]})
    pq.write_table(table, shop.directory / f"{name}.parquet")
    with pytest.raises(InputError, match=rf"{name}.parquet: the column 'answers' is .*expected"):
        open_inputs(shop.config().catalog)


def test_a_file_that_is_cut_short_is_refused_when_opened(shop):
    shop.write()
    path = shop.directory / "listings.parquet"
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(InputError, match=r"listings.parquet is not a readable Parquet file"):
        open_inputs(shop.config().catalog)


def test_a_file_with_a_corrupt_page_is_refused_when_read(shop):
    shop.write()
    path = shop.directory / "listings.parquet"
    pq.write_table(pq.read_table(path), path, write_page_checksum=True, compression=None)
    content = bytearray(path.read_bytes())
    content[content.index(b"\x89PNG")] = 0
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"listings.parquet is truncated or corrupt"):
        list(open_inputs(shop.config().catalog).listings.rows())


def test_text_that_is_not_utf8_is_refused_when_read(shop):
    shop.write()
    path = shop.directory / "listings.parquet"
    binary = pa.array([b"L00", b"\xff\xfe"], pa.binary())
    text = pa.Array.from_buffers(pa.string(), 2, binary.buffers())
    rows = pa.table({"listing_id": text, "vertical": ["shoe"] * 2, "images": [[b"a"]] * 2})
    pq.write_table(rows, path)
    with pytest.raises(InputError, match=r"listings.parquet is truncated or corrupt.*UTF8"):
        _ = open_inputs(shop.config().catalog).listings.listing_ids


def test_nothing_there(shop, tmp_path):
    with pytest.raises(InputError, match=r"there are no Parquet files at .*nowhere"):
        open_source(str(tmp_path / "nowhere"), LISTINGS_COLUMNS)
    (tmp_path / "bare").mkdir()
    with pytest.raises(InputError, match=r"there are no Parquet files at .*bare"):
        open_source(str(tmp_path / "bare"), LISTINGS_COLUMNS)


def test_an_empty_catalog(shop):
    shop.listings = []
    shop.seed, shop.truth = {}, {}
    refused(shop, r"listings.parquet holds no listings")


def test_a_doubled_id_is_named(shop):
    shop.add("L03", 99)
    refused(shop, r"listings.parquet: the listing_id 'L03' is there twice")


def test_a_seed_or_truth_without_an_id_is_refused(shop):
    shop.truth[None] = []
    refused(shop, r"truth.parquet: the listing_id \(truth.parquet, row 5\) is empty, has more")


def test_ids_that_are_not_listings_are_counted(shop):
    shop.seed |= {"X2": [], "X1": []}
    refused(shop, r"seed.parquet: 2 seed ids are not among the listings \(first: 'X1'\)")


def test_an_id_in_seed_and_truth_is_refused(shop):
    shop.truth["L00"] = []
    refused(shop, r"1 ids are in the seed and in the truth \(first: 'L00'\)")


def test_verified_listings_are_eval_or_anchor(shop):
    shop.stated_splits["L03"] = "pool"
    refused(shop, r"'L03' has verified values, so its split must be eval or anchor, not 'pool'")


def test_the_truth_files_column_decides_before_the_file_beside_it(shop):
    del shop.stated_splits["L03"], shop.stated_splits["L04"]
    shop.write()
    stated = pa.table({"listing_id": ["L02", "L03", "L09"], "split": ["eval", "anchor", "pool"]})
    pq.write_table(stated, shop.directory / "splits.parquet")
    roles = roles_of(open_inputs(shop.config().catalog))
    assert roles["L00"] == "seed"
    assert roles["L02"] == "anchor"
    assert roles["L03"] == "anchor"
    assert roles["L04"] == "truth"
    assert "L09" not in roles


def test_a_directory_is_read_without_what_writers_leave_beside_tables(shop):
    shop.write()
    table = pq.read_table(shop.directory / "listings.parquet")
    parts = shop.directory / "parts"
    (parts / "day=1").mkdir(parents=True)
    (parts / "_temporary").mkdir()
    pq.write_table(table.slice(0, 5), parts / "day=1" / "a.parquet")
    pq.write_table(table.slice(5), parts / "b.parquet")
    (parts / "_SUCCESS").touch()
    (parts / "_temporary" / "c.parquet").touch()
    source = open_source(str(parts), LISTINGS_COLUMNS)
    assert source.listing_ids == {f"L{n:02}" for n in range(12)}


def test_the_fingerprint_follows_what_files_hold_and_not_their_names(shop, tmp_path):
    before = opened(shop).fingerprint(HashedFiles())
    shop.directory = tmp_path / "moved"
    assert opened(shop).fingerprint(HashedFiles()) == before
    shop.add("L99", 99)
    changed = opened(shop).fingerprint(HashedFiles())
    assert {key for key in before if before[key] != changed[key]} == {
        "inputs.listings.bytes",
        "inputs.listings.sha256",
    }


def of_three_groups(path: Path, rows: int) -> None:
    table = pa.table(
        {
            "listing_id": [f"l{number}" for number in range(rows)],
            "vertical": ["shoe"] * rows,
            "images": [["a.jpg"]] * rows,
        }
    )
    pq.write_table(table, path, row_group_size=100)


def test_a_file_that_grows_after_its_footer_was_read_has_another_stamp(tmp_path):
    path = tmp_path / "listings.parquet"
    of_three_groups(path, 100)
    source = open_source(str(path), LISTINGS_COLUMNS)
    (before,) = source.shards()
    of_three_groups(path, 300)
    assert source.shards() == [before]
    (after,) = open_source(str(path), LISTINGS_COLUMNS).shards()
    assert after.rows == 300
    assert after.key != before.key


def test_a_file_that_loses_row_groups_while_it_is_read_is_an_input_error(tmp_path):
    path = tmp_path / "listings.parquet"
    of_three_groups(path, 300)
    source = open_source(str(path), LISTINGS_COLUMNS)
    pieces = source.shards()[0].pieces
    of_three_groups(path, 100)
    for piece in pieces[1:]:
        with pytest.raises(InputError, match="changed while it was read"):
            list(source.read_piece(piece, ["listing_id"], 100))


def test_tasks_are_not_sent_the_footers_of_a_catalog(tmp_path):
    path = tmp_path / "listings.parquet"
    of_three_groups(path, 300)
    source = open_source(str(path), LISTINGS_COLUMNS)
    copied = copy.copy(source)
    assert copied == source
    assert "footers" not in vars(copied)


@pytest.mark.parametrize("stray", [["a.jpg"], [1], [{"path": "a.jpg"}]])
def test_answers_beside_a_stray_column_of_images_are_read(tmp_path, stray):
    answers = [[{"attribute": "colour", "value": "Red"}]]
    path = tmp_path / "truth.parquet"
    pq.write_table(pa.table({"listing_id": ["l1"], "answers": answers, "images": stray}), path)
    (row,) = open_source(str(path), TRUTH_COLUMNS).rows()
    assert row["answers"] == answers[0]
