"""The rendered catalog: what a user would bring, the same for the same seed."""

from pathlib import Path

import pyarrow.parquet as pq

from raypipe.attributes.schema import load_attribute_schema
from raypipe.embedded.catalog import listing, write_catalog
from raypipe.embedded.schema import verticals

SIZES = {"num_pool": 24, "num_eval": 24, "num_anchor": 12, "seed_per_vertical": 2}


def test_a_listing_depends_on_seed_split_and_number_alone() -> None:
    assert listing(1, "pool", 7) == listing(1, "pool", 7)
    assert listing(1, "pool", 7).images() == listing(1, "pool", 7).images()
    others = [listing(2, "pool", 7), listing(1, "eval", 7), listing(1, "pool", 19)]
    assert all(other.product != listing(1, "pool", 7).product for other in others)


def test_the_files_of_a_catalog_agree(tmp_path: Path) -> None:
    write_catalog(tmp_path, seed=3, **SIZES)
    schema = load_attribute_schema(str(tmp_path / "schema.yaml"))
    listings = {
        row["listing_id"]: row for row in pq.read_table(tmp_path / "listings.parquet").to_pylist()
    }
    splits = pq.read_table(tmp_path / "splits.parquet").to_pylist()
    assert len(listings) == len(splits) == 24 + 24 + 12 + 2 * len(verticals())
    assert {row["listing_id"] for row in splits} == set(listings)
    assert all(1 <= len(row["images"]) <= 5 for row in listings.values())
    for name, field in (("seed", "answer"), ("truth", "value")):
        for row in pq.read_table(tmp_path / f"{name}.parquet").to_pylist():
            vertical = listings[row["listing_id"]]["vertical"]
            for answer in row["answers"]:
                attribute = schema.get(vertical, answer["attribute"])
                assert answer[field] in attribute.values


def test_no_product_is_in_two_splits() -> None:
    seeds = {
        split: {listing(5, split, index).product.seed for index in range(300)}
        for split in ("pool", "seed", "eval", "anchor")
    }
    assert sum(map(len, seeds.values())) == len(set.union(*seeds.values()))


def test_sellers_are_sometimes_wrong_and_sometimes_silent() -> None:
    drawn = [listing(9, "pool", index) for index in range(400)]
    asked = sum(len(item.entries) for item in drawn)
    told = [(item, name, value) for item in drawn for name, value in item.seller_values.items()]
    wrong = [1 for item, name, value in told if item.product.values[name] != value]
    assert 0.7 < len(told) / asked < 0.9
    assert 0.05 < len(wrong) / len(told) < 0.15


def test_annotations_look_where_it_can_be_seen() -> None:
    right = total = 0
    for index in range(240):
        item = listing(9, "seed", index)
        visible = item.visible()
        for answer in item.annotation():
            if answer["attribute"] in visible:
                total += 1
                right += answer["answer"] == visible[answer["attribute"]]
    assert 0.9 < right / total < 0.99
