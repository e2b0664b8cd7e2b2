"""A user's whole catalog: its listings are prepared, labeled or refused, shard by shard."""

import io
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from raypipe import config as configuration
from raypipe.attributes.schema import AttributeSchema
from raypipe.catalog.sources import LISTINGS_COLUMNS, Source, open_source
from raypipe.config import Config
from raypipe.errors import InputError, QuarantineLimitError
from raypipe.schemas import LABELS
from raypipe.store.artifacts import Run
from tests.fakes.catalog_files import SCHEMA, photo
from tests.fakes.labeled_catalog import LabeledCatalog

pytestmark = [pytest.mark.engine, pytest.mark.usefixtures("local_ray")]
BYTES = pa.schema(
    {
        "listing_id": pa.string(),
        "vertical": pa.string(),
        "images": pa.list_(pa.binary()),
        "seller_values": pa.map_(pa.string(), pa.string()),
    }
)
NAMES = pa.schema([*list(BYTES)[:2], ("images", pa.list_(pa.string()))])
SHOP = AttributeSchema.from_json(SCHEMA)


def truncated_jpeg() -> bytes:
    noise = np.random.default_rng(3).integers(0, 255, (60, 60, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(noise).save(stream, "JPEG")
    return stream.getvalue()[:1500]


def bomb() -> bytes:
    """A picture of 100 million pixels in some thousand bytes."""
    stream = io.BytesIO()
    Image.new("1", (10_000, 10_000)).save(stream, "PNG")
    return stream.getvalue()


BROKEN = {
    "truncated": (truncated_jpeg(), "broken"),
    "bomb": (bomb(), "too_many_pixels"),
    "page": (b"<!doctype html><html><body>not found</body></html>", "unknown_format"),
    "nothing": (b"", "empty"),
}


def configured(*overrides: str) -> Config:
    return configuration.load(
        None, ["catalog.image_size=28", "catalog.max_quarantined=0.8", *overrides]
    )


def catalog(directory: Path, rows: list[dict[str, object]], schema: pa.Schema) -> Source:
    """The rows in two files of small row groups."""
    directory.mkdir(exist_ok=True)
    half = (len(rows) + 1) // 2
    for number, part in enumerate((rows[:half], rows[half:])):
        table = pa.Table.from_pylist(part, schema=schema)
        pq.write_table(table, directory / f"{number}.parquet", row_group_size=3)
    return open_source(str(directory), LISTINGS_COLUMNS)


def shoe(listing_id: str, *images: object, **columns: object) -> dict[str, object]:
    return {"listing_id": listing_id, "vertical": "shoe", "images": list(images), **columns}


def labeled(run: Run, source: Source, config: Config) -> LabeledCatalog:
    location = str(source.directory)
    return LabeledCatalog(run, config, SHOP, location, Path(f"{location}-asked"))


def prepare(run: Run, source: Source, config: Config) -> dict[str, str]:
    """Label all listings; why each one was refused."""
    shop = labeled(run, source, config)
    commit, _ = shop.label()
    refused = shop.refused(commit)
    ids = {row["listing_id"] for row in shop.rows(commit)}
    assert ids.isdisjoint(refused)
    assert len(ids) + len(refused) == commit.counts["listings"]
    return refused


def test_broken_images_refuse_their_listing_and_no_other(run: Run, tmp_path: Path) -> None:
    rows = [shoe(f"good-{number}", photo(number)) for number in range(9)]
    rows += [shoe(name, content) for name, (content, _) in BROKEN.items()]
    rows += [shoe("mended", BROKEN["truncated"][0], photo(50)), shoe("bare")]
    rows.append(shoe("stranger", photo(60)) | {"vertical": "hat"})
    refused = prepare(run, catalog(tmp_path / "shop", rows, BYTES), configured())
    assert refused.keys() == {*BROKEN, "bare", "stranger"}
    assert refused["stranger"].startswith("unknown_vertical")
    for name, (_, reason) in BROKEN.items():
        assert refused[name].startswith(f"no_image {reason}")


def test_a_broken_image_may_refuse_its_listing_whatever_else_it_has(
    run: Run, tmp_path: Path
) -> None:
    rows = [shoe("mended", photo(1), BROKEN["page"][0]), shoe("good", photo(2))]
    source = catalog(tmp_path / "shop", rows, BYTES)
    refused = prepare(run, source, configured("catalog.broken_images=refuse"))
    assert list(refused) == ["mended"]
    assert refused["mended"].startswith("broken_image unknown_format")


def test_addresses_and_paths_are_read_by_the_rules(run: Run, tmp_path: Path) -> None:
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / "one.png").write_bytes(photo(1))
    rows = [
        shoe("beside", "one.png"),
        shoe("private", "http://127.0.0.1:9/one.png?signature=secret"),
        shoe("stranger", "https://elsewhere.example/one.png"),
        shoe("gone", "two.png"),
    ]
    config = configured(
        "catalog.fetch.schemes=[https, http]",
        "catalog.fetch.hosts=['127.0.0.1']",
        "catalog.fetch.attempts=1",
    )
    refused = prepare(run, catalog(tmp_path / "shop", rows, NAMES), config)
    assert refused.keys() == {"private", "stranger", "gone"}
    assert refused["private"].startswith("no_image private_address")
    assert refused["stranger"].startswith("no_image host_not_allowed")
    assert "secret" not in refused["private"]


def test_too_many_refusals_stop_the_stage_with_their_reasons(run: Run, tmp_path: Path) -> None:
    rows = [shoe(f"bad-{number}", b"<html>") for number in range(5)]
    source = catalog(tmp_path / "shop", [*rows, shoe("good", photo(1))], BYTES)
    with pytest.raises(QuarantineLimitError, match=r"no_image \(such as 'bad-"):
        prepare(run, source, configured("catalog.max_quarantined=0.2"))
    assert run.artifact("labels/000001/labels").commit() is None


def test_what_an_interrupted_call_refused_is_tried_again(run: Run, tmp_path: Path) -> None:
    (tmp_path / "shop").mkdir()
    names = [f"{number}.png" for number in range(6)]
    rows = [shoe(name[0], name) for name in names]
    source = catalog(tmp_path / "shop", rows, NAMES)
    config = configured("catalog.max_quarantined=0.2", "labeling.check_image_files=false")
    with pytest.raises(QuarantineLimitError, match="missing_file"):
        labeled(run, source, config).label()
    for number, name in enumerate(names):
        (tmp_path / "shop" / name).write_bytes(photo(number))
    commit, _ = labeled(run, source, config).label()
    assert (commit.counts["listings"], commit.quarantined) == (6, 0)


def test_hostile_image_names_cost_their_listings_alone(run: Run, tmp_path: Path) -> None:
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / "one.png").write_bytes(photo(1))
    os.mkfifo(tmp_path / "shop" / "pipe.png")
    names = ["a\0.png", "a" * 300, "a" * 5000, "one.png/x", "../shop/../x", "/etc/passwd", ""]
    names += ["pipe.png", "https://xn--a/", "https://[::1/", "data:image/png;base64," + "A" * 999]
    rows = [shoe("good", "one.png"), *(shoe(f"l{n}", name) for n, name in enumerate(names))]
    refused = prepare(
        run,
        catalog(tmp_path / "shop", rows, NAMES),
        configured("catalog.max_quarantined=0.95"),
    )
    assert refused.keys() == {f"l{n}" for n in range(len(names))}
    assert all(said.startswith("no_image ") and len(said) < 520 for said in refused.values())


def test_an_image_file_that_changes_is_noticed_unless_nobody_is_to_look(
    run: Run, tmp_path: Path
) -> None:
    (tmp_path / "shop").mkdir()
    photos = [tmp_path / "shop" / name for name in ("one.png", "two.png")]
    for number, path in enumerate(photos):
        path.write_bytes(photo(number))
    rows = [shoe("one", "one.png"), shoe("two", "two.png")]
    source = catalog(tmp_path / "shop", rows, NAMES)
    _, asked = labeled(run, source, configured()).label()
    assert len(asked) == 2
    photos[1].write_bytes(photo(9, size=(50, 50)))
    unseen = configured("labeling.check_image_files=false")
    assert (
        labeled(run, source, configured()).labels().shards
        != labeled(run, source, unseen).labels().shards
    )
    commit, asked = labeled(run, source, configured()).label()
    assert (len(asked), commit.counts["carried"]) == (1, 1)


def test_ids_must_differ(run: Run, tmp_path: Path) -> None:
    rows = [shoe(name, photo(1)) for name in ["a", "b", "a"]]
    with pytest.raises(InputError, match=r"'a' is there twice"):
        labeled(run, catalog(tmp_path / "shop", rows, BYTES), configured()).label()


def test_a_corrupt_page_is_an_input_error_that_names_the_file(run: Run, tmp_path: Path) -> None:
    source = catalog(tmp_path / "shop", [shoe(f"l{n}", photo(n)) for n in range(12)], BYTES)
    path = Path(source.files[1])
    content = bytearray(path.read_bytes())
    content[60:400] = bytes(340)
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"1\.parquet is truncated or corrupt"):
        labeled(run, source, configured()).label()


def test_a_cut_file_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    source = catalog(tmp_path / "shop", [shoe("a", photo(1)), shoe("b", photo(2))], BYTES)
    path = Path(source.files[0])
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(InputError, match=r"0\.parquet is not a readable Parquet file"):
        open_source(str(tmp_path / "shop"), LISTINGS_COLUMNS)


def test_rows_whose_id_cannot_be_are_refused_and_the_others_prepared(
    run: Run, tmp_path: Path
) -> None:
    odd = [None, "", None, "", "x" * 20_000, "x" * 20_001, "good\0", "good\0\0", "é" * 300]
    names = [f"good-{number}" for number in range(9)]
    rows = [shoe(name, photo(number)) for number, name in enumerate([*names, "good"])]
    rows += [shoe("", photo(50)) | {"listing_id": name} for name in odd]
    rows.append(shoe("vast", photo(60)) | {"vertical": "v" * 20_000})
    source = catalog(tmp_path / "shop", rows, BYTES)
    refused = prepare(run, source, configured("catalog.max_quarantined=1.0"))
    reasons = [reason.split()[0] for reason in refused.values()]
    assert sorted(reasons) == ["bad_id"] * len(odd) + ["unknown_vertical"]
    assert max(map(len, [*refused, *refused.values()])) < 600
    labels = run.artifact("labels/000001/labels", LABELS).read(["listing_id"])
    assert sorted(set(labels.column("listing_id").to_pylist())) == sorted([*names, "good"])
