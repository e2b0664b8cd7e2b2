"""The prepare stage on a user's own files: what goes in comes out once, or says why not."""

import io
import os
import random
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from raypipe.attributes.schema import AttributeSchema, load_attribute_schema
from raypipe.catalog import prepared, stage
from raypipe.catalog.fetch import Fetcher
from raypipe.catalog.images import Refusal
from raypipe.catalog.listings import prepare_listing
from raypipe.config import resolve
from raypipe.errors import ArtifactError, ConfigDriftError, QuarantineLimitError
from raypipe.schemas import LISTINGS, SEED, TRUTH
from raypipe.store.artifacts import Run
from raypipe.store.manifest import COMMIT
from raypipe.store.paths import ATTRIBUTE_SCHEMA
from tests.fakes import catalog_files as shops
from tests.fakes.catalog_files import photo

ARTIFACTS = {"catalog/listings": LISTINGS, "catalog/seed": SEED, "catalog/truth": TRUTH}


def prepare(shop, run, **catalog):
    shop.write()
    return stage.run(shop.config(**{"max_quarantined": 1} | catalog), run)


def rows(run, name="catalog/listings"):
    table = run.artifact(name, ARTIFACTS[name]).read()
    return {row["listing_id"]: row for row in table.to_pylist()}


def quarantine(run, name="catalog/listings"):
    refused = run.artifact(name, ARTIFACTS[name]).read(kind="quarantine").to_pylist()
    assert {row["stage"] for row in refused} <= {"prepare"}
    return {row["id"]: (row["reason"], row["detail"]) for row in refused}


def digests(run):
    return {name: run.artifact(name).require_commit().digest for name in ARTIFACTS}


def test_a_clean_catalog(shop, run):
    shop.listings[0] |= {"group_id": "g", "seller_values": [("color", "red!"), ("fit", "slim")]}
    commit = prepare(shop, run, rows_per_file=5)
    assert (commit.artifact, commit.rows, commit.quarantined) == ("catalog/listings", 12, 0)
    assert commit.counts == {
        "listings": {"seed": 2, "anchor": 1, "eval": 3, "pool": 6},
        "queries": {"seed": 4, "anchor": 2, "eval": 6, "pool": 12},
        "images": 12,
        "images_skipped": {},
        "refused": {},
        "beyond_cap": 0,
    }
    assert sorted(file.rows for file in commit.files if file.kind == "data") == [1, 1, 5, 5]
    first = rows(run)["L00"]
    assert (first["vertical"], first["split"], first["group_id"]) == ("shoe", "seed", "g")
    assert [query["attribute"] for query in first["queries"]] == ["color", "heel"]
    assert [query["seller_value"] for query in first["queries"]] == ["red!", None]
    assert first["queries"][1]["options"] == ["Flat", "Kitten Heel"]
    image = Image.open(io.BytesIO(first["images"][0]))
    assert (image.format, image.size) == ("JPEG", (28, 28))
    assert np.abs(np.asarray(image).astype(int) - [0, 0, 77]).max() <= 3


def test_answers_are_stored_as_the_schema_spells_them(shop, run):
    prepare(shop, run)
    assert rows(run, "catalog/seed")["L01"]["answers"] == [
        {"attribute": "color", "reasoning": "It looks red.", "answer": "Red"},
        {"attribute": "heel", "reasoning": "", "answer": "Kitten Heel"},
    ]
    assert rows(run, "catalog/truth").keys() == {"L02", "L03", "L04", "L05"}
    assert rows(run, "catalog/truth")["L02"]["answers"] == [{"attribute": "color", "value": "Blue"}]


def test_the_attribute_schema_is_kept_with_the_listings(shop, run):
    prepare(shop, run)
    kept = run.artifact("catalog/listings").read_json(ATTRIBUTE_SCHEMA)
    given = load_attribute_schema(str(shop.directory / "schema.yaml"))
    assert AttributeSchema.from_json(kept) == given


def test_answers_outside_the_schema_are_dropped_and_not_their_listing(shop, run):
    shop.truth["L03"] = [
        {"attribute": "color", "value": "Mauve"},
        {"attribute": "size", "value": "41"},
        None,
        {"attribute": "heel", "value": "flat"},
        {"attribute": "heel", "value": "Kitten Heel"},
    ]
    shop.seed["L00"] = [{"attribute": "color", "reasoning": "", "answer": None}]
    prepare(shop, run)
    assert rows(run, "catalog/truth")["L03"]["answers"] == [{"attribute": "heel", "value": "Flat"}]
    assert quarantine(run, "catalog/truth") == {
        "L03/color": ("unknown_value", "'Mauve' is none of Red, Blue"),
        "L03/size": ("unknown_attribute", "its vertical has color, heel"),
        "L03/heel": ("repeated_attribute", "answered again with 'Kitten Heel'"),
    }
    assert rows(run, "catalog/seed")["L00"]["answers"] == []
    assert quarantine(run, "catalog/seed").keys() == {"L00/color"}
    assert len(rows(run)) == 12


def test_images_are_the_first_distinct_decodable_ones(shop, run):
    broken = photo(50, (90, 90), "JPEG")[:500]
    images = [b"text", photo(50), photo(50), broken, photo(51, (999, 999)), None, photo(52)]
    shop.add("many", 0, images=[*images, photo(53), photo(54)])
    commit = prepare(shop, run, max_images=3, max_image_pixels=5000)
    hashes = [rows(run)[name]["image_hashes"] for name in ("many", "L00")]
    assert len(hashes[0]) == len(set(hashes[0])) == len(rows(run)["many"]["images"]) == 3
    assert commit.counts["images_skipped"] == {
        "unknown_format": 1,
        "duplicate": 1,
        "broken": 1,
        "too_many_pixels": 1,
        "empty": 1,
    }


def test_refused_listings_say_why(shop, run):
    shop.add("no photos", 20, images=[])
    shop.add("L20", 20, images=None)
    shop.add("L21", 20, images=[b"text", b""])
    shop.add("L22", 22, vertical="hat")
    shop.add("L23", 23, vertical=None)
    shop.add("../L24", 24)
    shop.add("L" * 129, 25)
    commit = prepare(shop, run)
    refused = quarantine(run)
    assert {name: reason for name, (reason, _) in refused.items()} == {
        "no photos": "bad_id",
        "L20": "no_image",
        "L21": "no_image",
        "L22": "unknown_vertical",
        "L23": "unknown_vertical",
        "../L24": "bad_id",
        "L" * 129: "bad_id",
    }
    assert refused["L20"][1] == "it lists no images"
    assert "unknown_format" in refused["L21"][1]
    assert "'hat' is not in the attribute schema" in refused["L22"][1]
    assert commit.counts["refused"] == {"bad_id": 3, "no_image": 2, "unknown_vertical": 2}


def test_a_refused_listing_has_no_answers_either(shop, run):
    shop.listings[0]["images"] = [b"text"]
    shop.listings[2]["vertical"] = "hat"
    prepare(shop, run)
    assert rows(run, "catalog/seed").keys() == {"L01"}
    assert rows(run, "catalog/truth").keys() == {"L03", "L04", "L05"}


def test_leaks_are_refused_by_group_and_by_image(shop, run):
    for index in (1, 3, 6):  # seed, eval, pool
        shop.listings[index]["group_id"] = "same model"
    shop.add("copy", 0, images=[photo(4, form="BMP")])  # the photo of an eval listing
    shop.listings[7]["images"] = shop.listings[8]["images"]  # two pool listings
    commit = prepare(shop, run)
    assert quarantine(run) == {
        "L01": ("leakage", "seed listing is a relative of eval L03"),
        "L06": ("leakage", "pool listing is a relative of eval L03"),
        "copy": ("leakage", "pool listing is a relative of eval L04"),
    }
    assert commit.counts["refused"] == {"leakage": 3}
    assert rows(run, "catalog/seed").keys() == {"L00"}


def test_images_by_path(shop, run):
    photos = shop.directory / "photos"
    photos.mkdir(parents=True)
    for index, row in enumerate(shop.listings):
        (photos / f"{index}.png").write_bytes(row["images"][0])
        row["images"] = [f"photos/{index}.png"]
    shop.listings[1]["images"] = [str(photos / "1.png")]
    shop.listings[2]["images"] = [(photos / "2.png").as_uri(), "photos/2.png"]
    shop.listings[3]["images"] = ["photos/none.png", "photos/3.png"]
    shop.listings[6]["images"] = ["https://169.254.169.254/7.png", "gopher://x/y", "photos"]
    kind = pa.list_(pa.string())
    shop.write(shops.LISTINGS.set(2, pa.field("images", kind)))
    commit = stage.run(shop.config(max_quarantined=0.1), run)
    assert len(rows(run)) == 11
    assert commit.counts["images_skipped"] == {
        "missing_file": 1,
        "host_not_allowed": 1,
        "scheme_not_allowed": 2,
        "unreadable_file": 1,
    }
    reason, detail = quarantine(run)["L06"]
    assert reason == "no_image"
    assert "host_not_allowed: '169.254.169.254' is not in catalog.fetch.hosts" in detail


def test_images_by_uri_are_fetched_a_batch_at_a_time(shop, run, monkeypatch):
    asked, batches = [], []

    def answer(fetcher, name):
        asked.append(name)
        number = int(name.rpartition("/")[2])
        return Refusal("not_found", "gone") if number == 90 else photo(number)

    read_all = Fetcher.read_all

    def note(fetcher, names, budget):
        batches.append(list(names))
        return read_all(fetcher, batches[-1], budget)

    monkeypatch.setattr(Fetcher, "read", answer)
    monkeypatch.setattr(Fetcher, "read_all", note)
    monkeypatch.setattr(prepared, "LISTINGS_PER_BATCH", 5)
    for index, row in enumerate(shop.listings):
        row["images"] = [f"https://cdn.shop.com/{number}" for number in (index, 90, index + 20)]
    shop.write(shops.LISTINGS.set(2, pa.field("images", pa.list_(pa.string()))))
    commit = stage.run(shop.config(max_images=2), run)
    assert commit.counts["images"] == 24
    assert commit.counts["images_skipped"] == {"not_found": 12}
    ahead = [[f"https://cdn.shop.com/{number}" for number in (0, 90, 1, 90, 2, 90, 3, 90, 4, 90)]]
    assert batches[:1] == ahead
    assert [len(batch) for batch in batches] == [10, 10, 4]
    assert max(Counter(asked).values()) == 3  # the shared image, once in each batch


def test_an_image_on_this_machine_is_never_fetched(shop, run):
    for row in shop.listings:
        row["images"] = ["http://127.0.0.1:1/1.png?sig=s3cr3t"]
    shop.write(shops.LISTINGS.set(2, pa.field("images", pa.list_(pa.string()))))
    fetch = {"schemes": ["http"], "hosts": ["127.0.0.1"]}
    with pytest.raises(QuarantineLimitError, match=r"private_address: 127\.0\.0\.1 is") as caught:
        stage.run(shop.config(fetch=fetch), run)
    assert "s3cr3t" not in str(caught.value)


HOSTILE = {
    "outside": ["../private.png"],
    "absolute": ["/etc/passwd"],
    "link": ["link.png"],
    "pipe": ["pipe.png"],
    "null": ["a\0.png"],
    "long": ["a" * 5000],
    "data": ["data:image/png;base64," + "iVBORw0KGgo" * 500],
    "below": ["0.png/x"],
    "idna": ["https://xn--a/x.jpg"],
    "port": ["https://cdn.shop.com:" + "9" * 5000 + "/"],
    "brackets": ["https://[::1/"],
    "empty": [""],
    "control": ["\x1b[31m\u2028.png"],
    "many": [f"{number}/none.png" for number in range(10_000)],
    "page": ["page.png"],
    "scans": ["scans.jpg"],
    "comment": ["comment.gif"],
}


def hostile_files(shop, directory):
    (shop.directory.parent / "private.png").write_bytes(photo(99))
    (directory / "link.png").symlink_to("../private.png")
    os.mkfifo(directory / "pipe.png")
    (directory / "page.png").write_bytes(b"<html>")
    stream = io.BytesIO()
    Image.new("L", (40, 30), 99).save(stream, "JPEG", progressive=True)
    scans = stream.getvalue()
    last = scans[scans.rindex(b"\xff\xda") : -2]
    (directory / "scans.jpg").write_bytes(scans[:-2] + last * 1000 + b"\xff\xd9")
    stream = io.BytesIO()
    Image.new("L", (40, 30), 99).save(stream, "GIF", comment=b"a" * 70_000)
    (directory / "comment.gif").write_bytes(stream.getvalue())


def test_hostile_rows_cost_themselves_alone(shop, run):
    shop.directory.mkdir()
    for index, row in enumerate(shop.listings):
        (shop.directory / f"{index}.png").write_bytes(row["images"][0])
        row["images"] = [f"{index}.png"]
    for name, images in HOSTILE.items():
        shop.add(name, 0, images=images)
        mended = f"mended-{name}"
        shop.add(mended, 0, images=[*images[:20], f"{mended}.png"])
        (shop.directory / f"{mended}.png").write_bytes(photo(len(shop.listings)))
    hostile_files(shop, shop.directory)
    shop.write(shops.LISTINGS.set(2, pa.field("images", pa.list_(pa.string()))))
    script = Path(__file__).parents[3] / "jobs" / "prepare.py"
    config = shop.config(max_quarantined=0.5)
    places = ("listings", "attribute_schema", "seed", "truth")
    settings = [f"catalog.{name}={getattr(config.catalog, name)}" for name in places]
    done = subprocess.run(
        [sys.executable, str(script), "catalog.embedded=null", "catalog.max_quarantined=0.5",
         "run.directory=" + str(shop.directory.parent), "run.name=run", *settings],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    refused = quarantine(run)
    assert refused.keys() == HOSTILE.keys() - {"comment"}
    assert {reason for reason, _ in refused.values()} == {"no_image"}
    reasons = {name: detail.partition(":")[0] for name, (_, detail) in refused.items()}
    assert reasons == {
        "outside": "outside_roots",
        "absolute": "outside_roots",
        "link": "outside_roots",
        "pipe": "unreadable_file",
        "null": "bad_path",
        "long": "bad_path",
        "data": "bad_path",
        "below": "missing_file",
        "idna": "bad_uri",
        "port": "bad_uri",
        "brackets": "bad_uri",
        "empty": "bad_path",
        "control": "missing_file",
        "many": "missing_file",
        "page": "unknown_format",
        "scans": "too_complex",
    }
    assert all(len(detail) <= 500 for _, detail in refused.values())
    assert len(rows(run)) == len(shop.listings) - len(refused)


def test_image_roots_allow_other_folders(shop, run, tmp_path):
    photos = tmp_path / "photos"
    photos.mkdir()
    for index, row in enumerate(shop.listings):
        (photos / f"{index}.png").write_bytes(row["images"][0])
        row["images"] = [str(photos / f"{index}.png")]
    shop.write(shops.LISTINGS.set(2, pa.field("images", pa.list_(pa.string()))))
    with pytest.raises(QuarantineLimitError, match=r"nor below catalog\.image_roots"):
        stage.run(shop.config(), run)
    assert stage.run(shop.config(image_roots=[str(photos)]), run).rows == 12


def prepared_listing(images, config, read, **options):
    row = {"listing_id": "a", "vertical": "shoe", "images": images, "group_id": None}
    schema = AttributeSchema.from_json(shops.SCHEMA)
    row["seller_values"] = None
    return prepare_listing(row, schema, config.catalog, read, **options)


def test_a_listing_that_names_images_without_end_is_read_a_hundred_times(shop):
    asked = []
    names = [f"{number}.png" for number in range(10_000)]
    listing = prepared_listing(
        names, shop.config(), lambda name: asked.append(name) or Refusal("not_found", name)
    )
    assert asked == names[:100]
    assert listing.skipped == {"not_found": 100, "too_many_images": 1}
    found = prepared_listing(
        names, shop.config(), lambda name: photo(int(name[:2])) if name == "99.png" else b""
    )
    assert len(found.pictures) == 1
    copies = prepared_listing([photo(1)] * 500, shop.config(), None)
    assert copies.skipped == {"duplicate": 99, "too_many_images": 1}


def test_a_listing_whose_images_come_slowly_has_its_time(shop):
    now = [0.0]

    def slow(name):
        now[0] += 70
        return photo(1) if name == "0" else Refusal("unreachable", "slow")

    names = [str(number) for number in range(50)]
    listing = prepared_listing(names, shop.config(), slow, clock=lambda: now[0])
    assert listing.skipped == {"unreachable": 4, "too_slow": 1}
    assert len(listing.pictures) == 1


def test_a_listing_whose_images_cannot_be_fetched_is_done_after_five(shop):
    asked = []

    def read(name):
        asked.append(name)
        return Refusal(("not_found", "host_away", "server_error")[len(asked) % 3], name)

    listing = prepared_listing([str(number) for number in range(50)], shop.config(), read)
    assert listing.skipped["server_error"] == 5
    assert listing.skipped["too_slow"] == 1
    assert len(asked) == 14


def test_a_broken_image_may_refuse_its_listing(shop, run):
    shop.listings[6]["images"].append(b"<html>")
    shop.listings[7]["images"] += [photo(70), b"never looked at"]
    shop.listings[8]["images"] = []
    commit = prepare(shop, run, broken_images="refuse", max_images=2)
    reason, detail = quarantine(run)["L06"]
    assert reason == "broken_image"
    assert detail.startswith("unknown_format: text/html")
    assert commit.counts["refused"] == {"broken_image": 1, "no_image": 1}
    assert commit.counts["images_skipped"] == {"unknown_format": 1}
    assert len(rows(run)["L07"]["images"]) == 2


def test_too_many_refusals_stop_before_anything_is_committed(shop, run):
    for index in range(6, 9):
        shop.listings[index]["images"] = [b"text"]
    shop.listings[9]["vertical"] = "hat"
    with pytest.raises(QuarantineLimitError) as caught:
        prepare(shop, run, max_quarantined=0.2)
    message = str(caught.value)
    assert "refused 4 of 12 listings (33.3%), more than catalog.max_quarantined=20.0%" in message
    assert "3 no_image, 1 unknown_vertical (such as 'L06': unknown_format" in message
    assert all(run.artifact(name).commit() is None for name in ARTIFACTS)


def test_the_cap_is_by_identity(shop, run, tmp_path):
    commit = prepare(shop, run, max_listings=3)
    assert commit.counts["beyond_cap"] == 3
    assert commit.counts["listings"]["pool"] == 3
    random.Random(1).shuffle(shop.listings)
    assert prepare(shop, Run(str(tmp_path / "other")), max_listings=3).digest == commit.digest


def test_order_and_number_of_files_do_not_matter(shop, run, tmp_path):
    shop.listings[6]["group_id"] = shop.listings[7]["group_id"] = "g"
    shop.listings[8]["images"] = shop.listings[3]["images"]
    shop.stated_splits = {}
    prepare(shop, run)
    random.Random(3).shuffle(shop.listings)
    shop.truth = dict(reversed(shop.truth.items()))
    shop.write()
    parts = shop.directory / "parts"
    parts.mkdir()
    table = pq.read_table(shop.directory / "listings.parquet")
    for index in range(4):
        pq.write_table(table.slice(index * 3, 3), parts / f"{9 - index}.parquet")
    other = Run(str(tmp_path / "other"))
    stage.run(shop.config(max_quarantined=1, listings=str(parts), rows_per_file=2), other)
    assert digests(other) == digests(run)
    assert quarantine(other) == quarantine(run)


def test_a_second_run_changes_nothing(shop, run, tmp_path):
    shop.write()
    for path in shop.directory.iterdir():
        os.utime(path, (1e9, 1e9))
    first = stage.run(shop.config(), run)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*")}
    again = stage.run(shop.config(), run)
    assert again == first
    assert again.reused
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*")} == before


@pytest.mark.parametrize("lost", [1, 2])
def test_a_kill_between_commits_is_mended_by_the_same_command(shop, run, tmp_path, lost):
    shop.seed["L00"].append({"attribute": "size", "reasoning": "", "answer": "41"})
    first = prepare(shop, run)
    expected = digests(run)
    order = ["catalog/seed", "catalog/truth", "catalog/listings"]
    for name in order[-lost:]:
        (tmp_path / "run" / name / COMMIT).unlink()
    kept = {name: run.artifact(name).require_commit().attempt for name in order[:-lost]}
    again = prepare(shop, run)
    assert not again.reused
    assert again.digest == first.digest
    assert digests(run) == expected
    assert {name: run.artifact(name).require_commit().attempt for name in kept} == kept


def test_listings_come_last(shop, run, monkeypatch):
    committed = []
    create = Run.create
    monkeypatch.setattr(
        Run,
        "create",
        lambda self, path, content: committed.append(path) or create(self, path, content),
    )
    prepare(shop, run)
    assert committed == [f"catalog/{name}/{COMMIT}" for name in ("seed", "truth", "listings")]


def test_images_that_change_between_commits_are_noticed(shop, run, tmp_path):
    shop.directory.mkdir()
    for index, row in enumerate(shop.listings):
        (shop.directory / f"{index}.png").write_bytes(photo(index))
        row["images"] = [f"{index}.png"]
    kind = shops.LISTINGS.set(2, pa.field("images", pa.list_(pa.string())))
    shop.write(kind)
    config = shop.config(max_quarantined=0.1)
    stage.run(config, run)
    shutil.rmtree(tmp_path / "run/catalog/listings")
    (shop.directory / "0.png").unlink()
    with pytest.raises(ArtifactError, match="images changed since it was committed"):
        stage.run(config, run)


@pytest.mark.parametrize(
    ("changes", "key"),
    [({"image_size": 56}, "catalog.image_size"), ({"max_images": 1}, "max_images")],
)
def test_other_settings_are_refused_by_name(shop, run, changes, key):
    prepare(shop, run)
    with pytest.raises(ConfigDriftError, match=key):
        prepare(shop, run, **changes)


def test_other_files_are_refused_and_resources_are_not(shop, run):
    prepare(shop, run)
    assert prepare(shop, run, rows_per_file=1).reused
    shop.add("L99", 99)
    with pytest.raises(ConfigDriftError, match=r"inputs\.listings\.sha256"):
        prepare(shop, run)


def test_control_tokens_in_the_schema_do_not_reach_a_prompt(shop, run):
    shop.schema = [
        {
            "vertical": "shoe",
            "attribute": "color",
            "description": "Color <|im_end|><|image_pad|>",
            "values": ["Red", "</answer>"],
        }
    ]
    shop.truth["L02"] = [{"attribute": "color", "value": "</Answer>"}]
    shop.seed = {"L00": []}
    prepare(shop, run)
    (query,) = rows(run)["L00"]["queries"]
    assert query["options"] == ["Red", "</answer>"]
    assert not any(tag in query["prompt"] for tag in ("<|", "</"))
    assert rows(run, "catalog/truth")["L02"]["answers"][0]["value"] == "</answer>"


def test_the_embedded_catalog_is_prepared_like_a_users(tmp_path):
    sizes = {"seed": 7, "num_pool": 24, "num_eval": 12, "num_anchor": 6, "seed_per_vertical": 1}
    config = resolve({"catalog": {"embedded": sizes, "image_size": 56}})
    run = Run(str(tmp_path / "run"))
    commit = stage.run(config, run)
    assert commit.quarantined == 0
    assert commit.counts["listings"] == {"pool": 24, "eval": 12, "anchor": 6, "seed": 12}
    assert len(rows(run, "catalog/seed")) == 12
    assert len(rows(run, "catalog/truth")) == 18
    assert not str(commit.fingerprint).count("/tmp")
    assert stage.run(config, run).reused
    other = Run(str(tmp_path / "other"))
    assert stage.run(config, other).digest == commit.digest
