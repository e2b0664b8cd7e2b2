"""A seed or truth in several files: merged per attribute, and who has the last word."""

from datetime import UTC, datetime

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raypipe.catalog import stage
from raypipe.catalog.hashed_files import HashedFiles
from raypipe.catalog.inputs import open_inputs, roles_of
from raypipe.errors import InputError
from raypipe.schemas import SEED as SEED_TABLE
from raypipe.schemas import TRUTH as TRUTH_TABLE
from raypipe.store.artifacts import Run
from tests.fakes.catalog_files import SEED, TRUTH

REVIEWS = pa.schema(
    {
        "listing_id": pa.string(),
        "answers": pa.list_(
            pa.struct(
                {
                    "attribute": pa.string(),
                    "value": pa.string(),
                    "source": pa.string(),
                    "reviewed_at": pa.timestamp("us", "UTC"),
                }
            )
        ),
        "split": pa.string(),
    }
)


@pytest.fixture
def parts(shop):
    """The shop's seed and truth as directories with one file each; adds others to them."""
    shop.write()
    for name in ("seed", "truth"):
        (shop.directory / name).mkdir()
        (shop.directory / f"{name}.parquet").rename(shop.directory / name / "first.parquet")

    def add(place, name, rows, schema):
        table = pa.Table.from_pylist(rows, schema=schema)
        pq.write_table(table, shop.directory / place / f"{name}.parquet")

    return add


@pytest.fixture
def config(shop):
    places = {name: str(shop.directory / name) for name in ("seed", "truth")}
    return shop.config(**places, max_quarantined=1)


def review(attribute, value, day):
    moment = datetime(2026, 3, day, tzinfo=UTC)
    return {"attribute": attribute, "value": value, "source": "review", "reviewed_at": moment}


def truth_of(config, run, listing_id):
    stage.run(config, run)
    rows = run.artifact("catalog/truth", TRUTH_TABLE).read().to_pylist()
    answers = next(row["answers"] for row in rows if row["listing_id"] == listing_id)
    return {answer["attribute"]: answer["value"] for answer in answers}


def quarantined(run, name):
    rows = run.artifact(f"catalog/{name}").read(kind="quarantine").to_pylist()
    return {row["id"]: (row["reason"], row["detail"]) for row in rows}


def test_two_files_answer_different_attributes_of_one_listing(parts, config, run):
    added = [{"attribute": "heel", "value": "Flat"}]
    parts("truth", "more", [{"listing_id": "L02", "answers": added}], TRUTH)
    assert truth_of(config, run, "L02") == {"color": "Blue", "heel": "Flat"}
    assert roles_of(open_inputs(config.catalog))["L02"] == "anchor"


def test_a_review_wins_and_what_it_overrules_is_told(parts, config, run):
    rows = [{"listing_id": "L03", "answers": [review("color", "Red", 1)], "split": "eval"}]
    parts("truth", "a-review", rows, REVIEWS)
    assert truth_of(config, run, "L03") == {"color": "Red"}
    reason, detail = quarantined(run, "truth")["L03/color"]
    assert reason == "overruled"
    assert "first.parquet says 'Blue', overruled by a review: 'Red'" in detail


@pytest.mark.parametrize("names", [("a", "b"), ("b", "a")])
def test_a_later_review_wins_whatever_the_files_are_called(parts, config, run, names):
    for name, value, day in zip(names, ("Red", "Blue"), (2, 1), strict=True):
        rows = [{"listing_id": "L06", "answers": [review("color", value, day)], "split": "eval"}]
        parts("truth", name, rows, REVIEWS)
    assert truth_of(config, run, "L06") == {"color": "Red"}


def test_the_same_review_in_two_files_is_one(parts, config, run):
    rows = [{"listing_id": "L06", "answers": [review("color", "Red", 1)], "split": "eval"}]
    parts("truth", "a", rows, REVIEWS)
    parts("truth", "b", rows, REVIEWS)
    assert truth_of(config, run, "L06") == {"color": "Red"}
    assert quarantined(run, "truth") == {}


def test_two_reviews_of_one_moment_that_differ_are_refused(parts, config, run):
    for name, value in (("a", "Red"), ("b", "Blue")):
        rows = [{"listing_id": "L06", "answers": [review("color", value, 1)], "split": "eval"}]
        parts("truth", name, rows, REVIEWS)
    with pytest.raises(InputError, match=r"'color' of 'L06' says 'Blue' .*same moment .*'Red'"):
        stage.run(config, run)


@pytest.mark.parametrize("value", ["Red", "Blue"])
def test_two_files_without_a_review_answer_an_attribute_once(parts, config, run, value):
    answers = [{"attribute": "color", "value": value}]
    parts("truth", "more", [{"listing_id": "L03", "answers": answers}], TRUTH)
    with pytest.raises(InputError, match=r"'color' of 'L03' is answered there and in .*keep one"):
        stage.run(config, run)


def test_a_date_alone_makes_no_review(parts, config, run):
    answer = review("color", "Red", 1) | {"source": "import"}
    parts("truth", "more", [{"listing_id": "L03", "answers": [answer]}], REVIEWS)
    with pytest.raises(InputError, match="keep one"):
        stage.run(config, run)


def test_two_files_state_one_split(parts, config):
    rows = [{"listing_id": "L02", "answers": [review("heel", "Flat", 1)], "split": "eval"}]
    parts("truth", "more", rows, REVIEWS)
    with pytest.raises(InputError, match=r"the split of 'L02' is 'eval' here and 'anchor' in"):
        roles_of(open_inputs(config.catalog))


def test_a_listing_is_there_once_in_each_file(parts, config):
    rows = [{"listing_id": "L03", "answers": []}] * 2
    parts("truth", "more", rows, TRUTH)
    with pytest.raises(InputError, match=r"more.parquet: the listing_id 'L03' is there twice"):
        roles_of(open_inputs(config.catalog))


def test_listings_in_two_files_are_still_refused(parts, config, shop, run):
    (shop.directory / "listings").mkdir()
    for name in ("a", "b"):
        table = pq.read_table(shop.directory / "listings.parquet")
        pq.write_table(table, shop.directory / "listings" / f"{name}.parquet")
    catalog = config.catalog.model_copy(update={"listings": str(shop.directory / "listings")})
    with pytest.raises(InputError, match=r"b.parquet: the listing_id 'L00' is there twice"):
        stage.run(config.model_copy(update={"catalog": catalog}), run)


def test_splits_may_lie_in_the_directory_of_the_truth(parts, config, shop, run):
    stated = pa.table({"listing_id": ["L02"], "split": ["eval"]})
    pq.write_table(stated, shop.directory / "truth" / "splits.parquet")
    inputs = open_inputs(config.catalog)
    assert len(inputs.truth.files) == 1
    assert "inputs.splits.sha256" in inputs.fingerprint(HashedFiles())
    assert roles_of(inputs)["L02"] == "anchor"  # the truth's own column has the last word


def test_what_is_repeated_in_one_file_is_dropped_as_before(parts, config, run):
    twice = [
        {"attribute": "color", "reasoning": "r", "answer": "Red"},
        {"attribute": "color", "reasoning": "b", "answer": "Blue"},
    ]
    parts("seed", "more", [{"listing_id": "L07", "answers": twice}], SEED)
    stage.run(config, run)
    assert quarantined(run, "seed")["L07/color"][0] == "repeated_attribute"
    rows = run.artifact("catalog/seed", SEED_TABLE).read().to_pylist()
    assert {row["listing_id"] for row in rows} == {"L00", "L01", "L07"}


def test_merged_answers_do_not_follow_the_names_of_files(parts, config, shop, run, tmp_path):
    added = [{"attribute": "heel", "value": "Flat"}]
    parts("truth", "more", [{"listing_id": "L02", "answers": added}], TRUTH)
    stage.run(config, run)
    (shop.directory / "truth" / "more.parquet").rename(shop.directory / "truth" / "a.parquet")
    again = Run(str(tmp_path / "again"))
    stage.run(config, again)
    first, second = (one.artifact("catalog/truth").require_commit().digest for one in (run, again))
    assert first == second
