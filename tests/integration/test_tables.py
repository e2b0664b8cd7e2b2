"""The same catalog in Parquet and in every table format gives the same run, and stays put."""

import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raypipe.attributes.schema import AttributeSchema
from raypipe.catalog import stage
from raypipe.catalog.distributed import SourceReader
from raypipe.catalog.sources import LISTINGS_COLUMNS, Source
from raypipe.catalog.tables import Copy, Tables
from raypipe.config import Config, resolve
from raypipe.errors import ConfigDriftError, InputError
from raypipe.runtime import progress
from raypipe.store.artifacts import Run
from raypipe.store.paths import CATALOG
from tests.fakes.catalog_files import LISTINGS, SCHEMA, CatalogFiles, photo
from tests.fakes.pickle_payloads import OBJECT, TENSOR_V2, hostile
from tests.fakes.table_formats import FORMATS, Lake

pytestmark = [pytest.mark.engine, pytest.mark.usefixtures("local_ray")]
NAMES = ("listings", "seed", "truth")


@pytest.fixture
def shop(tmp_path: Path) -> CatalogFiles:
    """Twelve listings of two verticals, with all that a column may be: null, empty, a map."""
    shop = CatalogFiles(tmp_path / "shop")
    for index in range(12):
        shop.add(
            f"L{index:02}",
            index,
            vertical="watch" if index % 3 == 2 else "shoe",
            images=[photo(index), photo(index + 100)][: 1 + index % 2],
            group_id=f"g{index}" if index % 2 else None,
            seller_values=[("color", "Red"), ("dial", "Round")][: index % 3] if index % 4 else None,
        )
    shop.seed["L00"] = [{"attribute": "color", "reasoning": None, "answer": "crimson"}]
    shop.seed["L01"] = [{"attribute": "heel", "reasoning": "It is.", "answer": "Flat"}]
    for index in (3, 4, 6, 7):
        shop.truth[f"L{index:02}"] = [{"attribute": "color", "value": "Blue"}]
        shop.stated_splits[f"L{index:02}"] = "anchor" if index == 3 else "eval"
    shop.write()
    return shop


@pytest.fixture(params=FORMATS)
def lake(request: pytest.FixtureRequest, tmp_path: Path, shop: CatalogFiles) -> Lake:
    """The shop's files as tables."""
    lake = Lake(request.param, tmp_path / request.param)
    for name, rows in shop.tables().items():
        lake.append(name, rows)
    return lake


def configured(shop: CatalogFiles, lake: Lake, pin: int | None = None) -> Config:
    places = {name: lake.location(name) for name in NAMES}
    if pin is not None:
        places["listings"] += f"@{pin}"
    return shop.config(**places, iceberg=lake.properties)


def opened(lake: Lake, run: Run, pin: int | None = None, name: str = "listings") -> Source:
    config = resolve({"catalog": {"embedded": {}, "iceberg": lake.properties}})
    location = lake.location(name) + ("" if pin is None else f"@{pin}")
    return Tables(config, run).open(location, LISTINGS_COLUMNS)


def ids(source: Source) -> set[str]:
    return set(source.listing_ids)


def another(listing_id: str, **changes: Any) -> pa.Table:
    row = {"listing_id": listing_id, "vertical": "shoe", "images": [photo(50)]}
    return pa.Table.from_pylist([row | changes], schema=LISTINGS)


def test_a_catalog_in_tables_gives_the_same_as_in_parquet(
    shop: CatalogFiles, lake: Lake, run: Run, tmp_path: Path
) -> None:
    stage.run(shop.config(), other := Run(str(tmp_path / "parquet")))
    commit = stage.run(configured(shop, lake), run)
    assert commit.rows == 12
    for name in (CATALOG.listings, CATALOG.seed, CATALOG.truth):
        assert (
            run.artifact(name).require_commit().digest
            == other.artifact(name).require_commit().digest
        )
    kind, place = lake.location("listings").split(":", 1)
    assert commit.fingerprint["inputs.listings.snapshot"].startswith(f"{kind} {place} @ ")
    assert stage.run(configured(shop, lake), run).reused


def test_the_copies_of_all_formats_hold_the_same_rows(
    shop: CatalogFiles, run: Run, tmp_path: Path
) -> None:
    digests = set()
    for kind in FORMATS:
        lake = Lake(kind, tmp_path / kind)
        lake.append("listings", shop.tables()["listings"])
        lake.append("listings", another("L99"))
        source = opened(lake, run)
        assert isinstance(source, Copy)
        digests.add(source.rows_digest)
    assert len(digests) == 1


def test_added_and_deleted_rows_are_of_their_snapshots(lake: Lake, run: Run) -> None:
    before = {f"L{index:02}" for index in range(12)}
    first = opened(lake, run)
    assert isinstance(first, Copy)
    version = int(first.snapshot.split(" @ ")[1].split(" ")[0])
    added = lake.append("listings", another("L12"))
    deleted, after = lake.delete("listings", "L05"), before - {"L05"} | {"L12"}
    assert ids(opened(lake, run)) == ids(opened(lake, run, deleted)) == after
    assert ids(opened(lake, run, added)) == before | {"L12"}
    assert ids(opened(lake, run, version)) == ids(first) == before


def test_rows_that_iceberg_deletes_on_reading_are_gone_or_refused(
    shop: CatalogFiles, run: Run, tmp_path: Path
) -> None:
    lake = Lake("iceberg", tmp_path / "iceberg")
    lake.append("listings", shop.tables()["listings"])
    lake.delete_on_reading("listings", 5, "POSITION_DELETES")
    assert ids(opened(lake, run)) == {f"L{index:02}" for index in range(12)} - {"L05"}
    lake.delete_on_reading("listings", 6, "EQUALITY_DELETES")
    with pytest.raises(InputError, match="does not yet support equality deletes"):
        opened(lake, run)


def test_what_has_not_changed_keeps_its_key_when_the_table_moves_on(lake: Lake, run: Run) -> None:
    schema = AttributeSchema.from_json(SCHEMA)

    def keys() -> dict[str, str]:
        reader = SourceReader(opened(lake, run), schema, resolve({}).catalog)
        identities.append(reader.source.identity)
        return {
            row["listing_id"]: row["source_key"]
            for shard in reader.shards()
            for piece in shard.pieces
            for table in reader.keys(piece)
            for row in table.to_pylist()
        }

    identities: list[list[list[object]]] = []
    before = keys()
    lake.delete("listings", "L05")
    lake.append("listings", another("L05"))
    after = keys()
    assert {name for name in after if after[name] != before.get(name)} == {"L05"}
    assert identities[0] != identities[1]


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What progress says, whatever the libraries of other tests have made of logging."""
    lines: list[str] = []
    monkeypatch.setattr(progress.logger, "info", lines.append)
    return lines


def test_a_prepared_run_stays_with_its_snapshot_and_says_so(
    shop: CatalogFiles, lake: Lake, run: Run, told: list[str]
) -> None:
    commit = stage.run(configured(shop, lake), run)
    held = commit.fingerprint["inputs.listings.snapshot"]
    moved = lake.delete("listings", "L11")
    assert stage.run(configured(shop, lake), run).reused
    assert [line for line in told if held in line and f"@ {moved}" in line]
    with pytest.raises(ConfigDriftError, match=f"{held.split(' (')[0]}.*@ {moved}"):
        stage.run(configured(shop, lake, moved), run)
    # A copy may be deleted: the same rows come from the table again, and without it from the copy.
    shutil.rmtree(run.path("tables"))
    assert stage.run(configured(shop, lake), run).reused
    shutil.rmtree(lake.directory)
    assert stage.run(configured(shop, lake), run).reused


def test_a_copy_that_was_killed_is_made_again(shop: CatalogFiles, lake: Lake, run: Run) -> None:
    source = opened(lake, run)
    directory = Path(source.files[0]).parents[2]
    (directory / "_COMMIT.json").unlink()
    distributed = Path(source.files[0]).read_bytes()
    (Path(source.files[0]).parent / "cut.parquet").write_bytes(distributed[: len(distributed) // 2])
    again = opened(lake, run)
    assert ids(again) == ids(source)
    assert set(again.files).isdisjoint({*source.files, str(directory / "cut.parquet")})
    assert again.identity == source.identity


@pytest.mark.parametrize(("rows", "says"), [("again", "'L03' is there twice"), (None, "is null")])
def test_ids_must_be_there_and_differ(lake: Lake, run: Run, rows: str | None, says: str) -> None:
    lake.append("listings", another("L03", images=[]) if rows else another(None))  # type: ignore[arg-type]
    with pytest.raises(InputError, match=rf"^{lake.kind} .*{says}"):
        opened(lake, run)
    assert not list(Path(run.path("tables")).glob("*/_COMMIT.json"))


def test_a_table_without_rows_is_refused(shop: CatalogFiles, lake: Lake, run: Run) -> None:
    lake.append("nothing", shop.tables()["listings"].slice(0, 0))
    with pytest.raises(InputError, match="holds no rows"):
        opened(lake, run, name="nothing")


def test_a_snapshot_whose_files_are_gone_is_one_line(lake: Lake, run: Run) -> None:
    for path in lake.data_files("listings"):
        path.unlink()
    with pytest.raises(InputError) as raised:
        opened(lake, run)
    assert "cannot be read" in str(raised.value)
    assert len(str(raised.value).splitlines()) == 1


def test_paths_of_images_are_refused_with_their_listing(
    shop: CatalogFiles, run: Run, tmp_path: Path
) -> None:
    named = pa.table({"listing_id": ["a"], "vertical": ["shoe"], "images": [["front.png"]]})
    lake = Lake("lance", tmp_path / "lance")
    lake.append("listings", named)
    (shop.directory / "front.png").write_bytes(photo(1))
    shop.seed, shop.truth = {}, {}
    shop.write()
    stage.run(shop.config(listings=lake.location("listings"), max_quarantined=1), run)
    (row,) = run.artifact(CATALOG.listings).read(kind="quarantine").to_pylist()
    assert "no scheme" in row["detail"]


@pytest.mark.parametrize("kind", [OBJECT, TENSOR_V2])
def test_a_data_file_that_would_run_code_is_no_table(lake: Lake, tmp_path: Path, kind: str) -> None:
    canary = tmp_path / "ran"
    if lake.kind == "lance":
        evil = {"listing_id": ["L90"], "vertical": ["shoe"], "images": [["a.png"]]}
        column = hostile(canary, 1, OBJECT)  # Lance itself refuses to write the other
        lake.append("evil", pa.table(evil | {"group_id": column}))
        with pytest.raises(InputError, match=r"'group_id' is of the extension type"):
            opened(lake, Run(str(tmp_path / "run")), name="evil")
        assert not canary.exists()
        return
    for path in lake.directory.rglob("*.parquet"):
        schema = pq.read_schema(path)
        if "group_id" in schema.names:
            table = pq.read_table(path, partitioning=None)
            column = hostile(canary, len(table), kind)
            index = table.schema.get_field_index("group_id")
            field = pa.field("group_id", column.type, metadata=schema.field("group_id").metadata)
            pq.write_table(table.set_column(index, field, column), path)
    with pytest.raises(InputError, match=rf"{lake.kind} .* cannot be read: ") as found:
        opened(lake, Run(str(tmp_path / "run")))
    assert "AUTOLOAD" not in str(found.value)
    assert "retry" not in str(found.value)
    assert not canary.exists()
