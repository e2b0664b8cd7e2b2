"""Prepare in many slices: what is done is found again, and what comes out does not depend on it."""

import os
from pathlib import Path

import pyarrow as pa
import pytest

from raypipe.catalog import prepared, prepared_slices, relatives, split_files, stage
from raypipe.catalog.fetch import Fetcher
from raypipe.catalog.images import Refusal
from raypipe.errors import ArtifactError, QuarantineLimitError
from raypipe.schemas import LISTINGS
from raypipe.store.artifacts import Run
from tests.fakes import catalog_files as shops
from tests.fakes.catalog_files import photo

PLACE = "catalog/listings"


class Stopped(Exception):
    """A kill, as far as one process can tell."""


@pytest.fixture
def decoded(monkeypatch):
    """The ids that were prepared, in the order in which that began."""
    ids: list[str] = []
    prepare = prepared.prepare_listing

    def note(row, **options):
        ids.append(row["listing_id"])
        return prepare(row, **options)

    monkeypatch.setattr(prepared, "prepare_listing", note)
    monkeypatch.setattr(prepared_slices, "SLICE_ROWS", 4)
    return ids


def stop_at_commit(monkeypatch, shop, run, **catalog):
    """Everything but the last commit."""

    def stop(*args, **options):
        raise Stopped

    with monkeypatch.context() as patch:
        patch.setattr(stage, "_commit_answers", stop)
        with pytest.raises(Stopped):
            stage.run(shop.config(**{"max_quarantined": 1} | catalog), run)


def left(run: Run, pattern: str) -> list[Path]:
    return sorted(Path(run.path(PLACE)).rglob(pattern))


def settled(run: Run) -> dict[str, object]:
    artifact = run.artifact(PLACE, LISTINGS)
    commit = artifact.require_commit()
    refused = sorted(
        row["id"] + row["detail"] for row in artifact.read(kind="quarantine").to_pylist()
    )
    return {"digest": commit.digest, "counts": commit.counts, "refused": refused}


def crowd(shop) -> None:
    """Leaks by group and image across slices, and refused listings."""
    for index in range(12, 60):
        shop.add(f"L{index:02}", index)
    for index in (1, 3, 17, 50):
        shop.listings[index]["group_id"] = "same"
    shop.listings[33]["images"] = [photo(50), photo(4), photo(50)]
    shop.listings[21]["images"] = [b"text"]
    shop.listings[9]["vertical"] = "hat"
    shop.stated_splits = {}
    shop.write()


@pytest.mark.parametrize("cap", [None, 20, 1])
def test_slices_change_nothing(shop, tmp_path, monkeypatch, cap):
    crowd(shop)
    whole, sliced = (Run(str(tmp_path / name)) for name in ("whole", "sliced"))
    stage.run(shop.config(max_quarantined=1, max_listings=cap), whole)
    for module, name, value in (
        (prepared_slices, "SLICE_ROWS", 3),
        (relatives, "_SLICES_PER_TASK", 2),
        (split_files, "_REFUSED_PER_FILE", 1),
    ):
        monkeypatch.setattr(module, name, value)
    stage.run(shop.config(max_quarantined=1, max_listings=cap, rows_per_file=2), sliced)
    assert settled(sliced) == settled(whole)
    if cap is None:
        assert settled(whole)["counts"]["refused"] == {
            "leakage": 4,
            "no_image": 1,
            "unknown_vertical": 1,
        }


def test_what_is_prepared_is_not_decoded_again(shop, run, monkeypatch, decoded, tmp_path):
    crowd(shop)
    stop_at_commit(monkeypatch, shop, run)
    assert sorted(decoded) == sorted(row["listing_id"] for row in shop.listings)
    decoded.clear()
    stage.run(shop.config(max_quarantined=1, rows_per_file=7), run)
    assert decoded == ["L21"]  # its images could not be used
    other = Run(str(tmp_path / "other"))
    stage.run(shop.config(max_quarantined=1), other)
    assert settled(other) == settled(run)


def test_nothing_is_left_that_the_manifest_does_not_name(shop, run, monkeypatch, decoded):
    crowd(shop)
    stop_at_commit(monkeypatch, shop, run)
    assert left(run, "*.npz")
    commit = stage.run(shop.config(max_quarantined=1), run)
    named = {run.path(PLACE, file.path) for file in commit.files}
    assert {str(path) for path in left(run, "*.*")} == {*named, run.path(PLACE, "_COMMIT.json")}


@pytest.mark.parametrize("pattern", ["*.parquet", "*.npz", "*.json"])
@pytest.mark.parametrize("damage", ["cut", "gone"])
def test_a_slice_that_is_damaged_is_prepared_again(
    shop, run, monkeypatch, decoded, pattern, damage
):
    shop.write()
    stop_at_commit(monkeypatch, shop, run)
    path = left(run, pattern)[0]
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-5])
    else:
        path.unlink()
    decoded.clear()
    assert stage.run(shop.config(max_quarantined=1), run).rows == 12
    assert 3 <= len(decoded) <= 4


def test_images_that_could_not_be_fetched_are_tried_again(shop, run, monkeypatch, decoded):
    away = {"https://cdn.shop.com/7", "https://cdn.shop.com/3"}

    def answer(fetcher, name):
        if name in away:
            return Refusal("unreachable", "away")
        return photo(int(name.rpartition("/")[2]))

    monkeypatch.setattr(Fetcher, "read", answer)
    for index, row in enumerate(shop.listings):
        row["images"] = [f"https://cdn.shop.com/{index}"]
    shop.listings[8]["vertical"] = "hat"
    shop.write(shops.LISTINGS.set(2, pa.field("images", pa.list_(pa.string()))))
    stop_at_commit(monkeypatch, shop, run)
    decoded.clear()
    away.remove("https://cdn.shop.com/3")
    stop_at_commit(monkeypatch, shop, run)
    assert sorted(decoded) == ["L03", "L07"]
    decoded.clear()
    away.clear()
    commit = stage.run(shop.config(max_quarantined=1), run)
    assert decoded == ["L07"]
    assert commit.rows == 11
    assert commit.counts["images_skipped"] == {}
    assert commit.counts["refused"] == {"unknown_vertical": 1}
    assert commit.counts["listings"] == {"seed": 2, "anchor": 1, "eval": 3, "pool": 5}


def test_a_listing_that_is_lost_is_noticed(shop, run, monkeypatch):
    shop.write()
    rows = prepared_slices.PrepareSlice._rows
    monkeypatch.setattr(
        prepared_slices.PrepareSlice,
        "_rows",
        lambda *args, **options: (
            row for row in rows(*args, **options) if row["listing_id"] != "L07"
        ),
    )
    with pytest.raises(ArtifactError, match=r"of 12 listings of a shard 1 are lost, 0 unknown"):
        stage.run(shop.config(), run)
    assert run.artifact(PLACE).commit() is None


def test_too_many_refusals_stop_at_once(shop, run, decoded):
    for row in shop.listings:
        row["images"] = [b"text"]
    shop.write()
    with pytest.raises(QuarantineLimitError, match=r"refused 3 of 12 listings"):
        stage.run(shop.config(max_quarantined=0.2), run)
    assert len(decoded) == 3


def test_leaks_count_as_refused(shop, run):
    for index in range(2, 12):
        shop.listings[index]["group_id"] = "one"
    shop.write()
    with pytest.raises(QuarantineLimitError, match=r"refused 7 of 12 .*7 leakage"):
        stage.run(shop.config(), run)


def test_a_file_without_leaks_is_not_written_again(shop, run, monkeypatch, decoded):
    shop.listings[11]["group_id"] = shop.listings[3]["group_id"] = "one"
    shop.write()
    stop_at_commit(monkeypatch, shop, run)
    before = {path.name for path in left(run, "*.parquet")}
    commit = stage.run(shop.config(max_quarantined=1), run)
    data = [file for file in commit.files if file.kind == "data"]
    kept = [file for file in data if os.path.basename(file.path) in before]
    assert [file.rows for file in kept] == [3]  # L06 to L08
    assert sorted(file.rows for file in data) == [2, 3, 6]
