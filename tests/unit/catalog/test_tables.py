"""A table in a configuration: how it is named, what is refused before a row is read."""

import sys
from pathlib import Path

import pyarrow as pa
import pytest

from raypipe.catalog.fetch import open_reader
from raypipe.catalog.images import Refusal
from raypipe.catalog.keys import image_identities
from raypipe.catalog.snapshots import Location, parse_location, resolve_snapshot
from raypipe.catalog.sources import LISTINGS_COLUMNS, SEED_COLUMNS, Source
from raypipe.catalog.tables import Tables
from raypipe.config import Config, load
from raypipe.config import resolve as configured
from raypipe.errors import ConfigDriftError, ConfigError, InputError
from raypipe.store.artifacts import Run
from tests.fakes.catalog_files import LISTINGS, CatalogFiles
from tests.fakes.table_formats import FORMATS, Lake, protocol_asks


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("delta:/shop/listings", ("delta", "/shop/listings", None)),
        ("delta:s3://shop/listings@12", ("delta", "s3://shop/listings", 12)),
        ("lance:shop.lance@3", ("lance", "shop.lance", 3)),
        ("iceberg:shop.listings", ("iceberg", "shop.listings", None)),
        ("iceberg:a.b.c@4025963987643811552", ("iceberg", "a.b.c", 4025963987643811552)),
        ("delta:abfss://shop@host.net/listings", ("delta", "abfss://shop@host.net/listings", None)),
        ("delta:abfss://shop@host.net/listings@7", ("delta", "abfss://shop@host.net/listings", 7)),
    ],
)
def test_a_table_is_named_by_its_kind_its_place_and_perhaps_a_snapshot(
    text: str, expected: tuple[str, str, int | None]
) -> None:
    found = parse_location(text)
    assert found is not None
    assert (found.kind, found.place, found.pin) == expected
    assert str(found) == text


@pytest.mark.parametrize("text", ["shop/listings", "s3://shop/a@3", "/delta/x.parquet", "deltas:x"])
def test_anything_else_is_a_path(text: str) -> None:
    assert parse_location(text) is None


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("delta:/shop@newest", "number of a snapshot"),
        ("lance:/shop@", "number of a snapshot"),
        ("lance:/shop@²", "number of a snapshot"),
        ("delta:", "reads delta:<path or uri>"),
        ("delta:@3", "reads delta:<path or uri>"),
        ("iceberg:listings", "reads iceberg:<namespace>.<table>"),
        ("iceberg:s3://shop/listings", "reads iceberg:<namespace>.<table>"),
        ("delta:s3://me:hunter2@shop/listings", "environment variables"),
        ("delta:https://host/listings?sig=hunter2", "environment variables"),
    ],
)
def test_a_name_that_cannot_be_is_refused_without_telling_secrets(text: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says) as raised:
        parse_location(text)
    assert "hunter2" not in str(raised.value)


def test_a_location_is_pinned_by_what_an_earlier_call_wrote_down() -> None:
    written = "delta s3://shop/a @ 3 (table 6f0c12ab)"
    newest, same, other = (Location("delta", "s3://shop/a", pin) for pin in (None, 3, 4))
    assert newest.pinned_by(written) == same.pinned_by(written) == same
    assert other.pinned_by(written) is None
    assert Location("lance", "s3://shop/a", None).pinned_by(written) is None
    assert Location("delta", "s3://shop/b", 3).pinned_by(written) is None


@pytest.mark.parametrize(
    ("name", "variable"),
    [
        ("s3.secret-access-key", "PYICEBERG_CATALOG__DEFAULT__S3__SECRET_ACCESS_KEY"),
        ("s3.access-key-id", "PYICEBERG_CATALOG__DEFAULT__S3__ACCESS_KEY_ID"),
        ("credential", "PYICEBERG_CATALOG__DEFAULT__CREDENTIAL"),
        ("Token", "PYICEBERG_CATALOG__DEFAULT__TOKEN"),
        ("adls.connection-string", "PYICEBERG_CATALOG__DEFAULT__ADLS__CONNECTION_STRING"),
        ("gcs.oauth2.token", "PYICEBERG_CATALOG__DEFAULT__GCS__OAUTH2__TOKEN"),
    ],
)
def test_secrets_belong_in_the_environment_where_pyiceberg_finds_them(
    name: str, variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pyiceberg.utils.config import Config as Pyiceberg

    with pytest.raises(ConfigError, match=rf"catalog\.iceberg\..*{variable}") as raised:
        load(None, [f"catalog.iceberg={{{name}: hunter2}}"])
    assert "hunter2" not in str(raised.value)
    monkeypatch.setenv(variable, "hunter2")
    assert Pyiceberg().get_catalog_config("default") == {name.lower(): "hunter2"}


def test_a_password_in_an_address_is_a_secret_too() -> None:
    address = "postgresql+psycopg2://me:hunter2@host/catalog"
    with pytest.raises(ConfigError, match="PYICEBERG_CATALOG__LAKE__URI") as raised:
        load(None, [f"catalog.iceberg={{name: lake, uri: '{address}'}}"])
    assert "hunter2" not in str(raised.value)
    plain = {"type": "rest", "uri": "https://host/v1", "oauth2-server-uri": "https://host/token"}
    assert configured({"catalog": {"embedded": {}, "iceberg": plain}}).catalog.iceberg == plain


@pytest.fixture
def rows(shop: CatalogFiles) -> pa.Table:
    return pa.Table.from_pylist(shop.listings, schema=LISTINGS)


@pytest.fixture(params=FORMATS)
def lake(request: pytest.FixtureRequest, tmp_path: Path) -> Lake:
    return Lake(request.param, tmp_path / request.param)


def in_config(lake: Lake) -> Config:
    return configured({"catalog": {"embedded": {}, "iceberg": lake.properties}})


def test_the_newest_snapshot_or_the_pinned_one_is_found(lake: Lake, rows: pa.Table) -> None:
    first = lake.append("listings", rows)
    second = lake.append("listings", rows)
    for text, version in (("", second), (f"@{first}", first), (f"@{second}", second)):
        location = parse_location(lake.location("listings") + text)
        assert location is not None
        assert resolve_snapshot(location, lake.properties).version == version


def test_a_table_made_again_at_its_place_is_another_one(lake: Lake, rows: pa.Table) -> None:
    names = set()
    for number in range(2):
        place = Lake(lake.kind, lake.directory / str(number))
        place.append("listings", rows)
        location = parse_location(place.location("listings"))
        assert location is not None
        names.add(str(resolve_snapshot(location, place.properties)).replace(f"/{number}/", "/"))
    assert len(names) == 2


@pytest.mark.parametrize("missing", ["table", "snapshot"])
def test_a_table_or_snapshot_that_is_not_there_is_one_line(
    lake: Lake, rows: pa.Table, run: Run, missing: str
) -> None:
    lake.append("listings", rows)
    location = lake.location("others" if missing == "table" else "listings")
    location += "@99" if missing == "snapshot" else ""
    with pytest.raises(InputError) as raised:
        Tables(in_config(lake), run).open(location, LISTINGS_COLUMNS)
    assert location in str(raised.value)
    assert len(str(raised.value).splitlines()) == 1
    assert ".rs:" not in str(raised.value)


def test_columns_are_checked_before_a_row_is_copied(lake: Lake, rows: pa.Table, run: Run) -> None:
    lake.append("listings", rows)
    tables, location = Tables(in_config(lake), run), lake.location("listings")
    with pytest.raises(InputError, match=rf"{lake.kind} .*'answers' .* is missing"):
        tables.open(location, SEED_COLUMNS)
    numbers = rows.set_column(0, "listing_id", pa.array(range(len(rows))))
    lake.append("numbers", numbers)
    with pytest.raises(InputError, match=r"'listing_id' is int64, expected string"):
        tables.open(lake.location("numbers"), LISTINGS_COLUMNS)
    assert not Path(run.path("tables")).exists()


@pytest.mark.parametrize(
    ("kind", "module"), [("delta", "deltalake"), ("iceberg", "pyiceberg"), ("lance", "lance")]
)
def test_a_missing_package_is_named_with_its_remedy(
    kind: str, module: str, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == module]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ConfigError, match=r"pip install 'raypipe\[tables\]'"):
        Tables(load(), run).open(f"{kind}:shop.listings", LISTINGS_COLUMNS)


def test_a_catalog_that_is_not_configured_is_a_fault_of_the_configuration(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PYICEBERG_HOME", str(tmp_path))
    with pytest.raises(ConfigError, match=r"catalog\.iceberg names no catalog"):
        Tables(load(), run).open("iceberg:shop.listings", LISTINGS_COLUMNS)
    nowhere = load(None, ["catalog.iceberg={type: sql, uri: 'sqlite:////no/such/place.db'}"])
    with pytest.raises(InputError, match="unable to open database file"):
        Tables(nowhere, run).open("iceberg:shop.listings", LISTINGS_COLUMNS)


@pytest.mark.parametrize(
    ("protocol", "configuration", "says"),
    [
        (
            {"minReaderVersion": 3, "minWriterVersion": 7, "readerFeatures": ["deletionVectors"],
             "writerFeatures": ["deletionVectors"]},
            {}, "has deletion vectors",
        ),
        (
            {"minReaderVersion": 2, "minWriterVersion": 5},
            {"delta.columnMapping.mode": "name"}, "maps its columns",
        ),
    ],
)  # fmt: skip
def test_what_the_reader_of_delta_would_pass_over_is_refused(
    rows: pa.Table,
    run: Run,
    tmp_path: Path,
    protocol: dict[str, object],
    configuration: dict[str, str],
    says: str,
) -> None:
    lake = Lake("delta", tmp_path / "delta")
    lake.append("listings", rows.drop_columns(["vertical"]))
    protocol_asks(tmp_path / "delta" / "listings", protocol, **configuration)
    with pytest.raises(InputError, match=says):
        Tables(load(), run).open(lake.location("listings"), LISTINGS_COLUMNS)


def test_a_pin_beside_what_the_run_was_made_from_is_drift(
    lake: Lake, rows: pa.Table, run: Run
) -> None:
    first, second = (lake.append("listings", rows) for _ in range(2))
    location = parse_location(f"{lake.location('listings')}@{first}")
    assert location is not None
    held = {"inputs.listings.snapshot": str(resolve_snapshot(location, lake.properties))}
    tables = Tables(in_config(lake), run, held)
    with pytest.raises(ConfigDriftError, match=rf"@ {first}.* not from .*@ {second}"):
        tables.open(f"{lake.location('listings')}@{second}", LISTINGS_COLUMNS, "inputs.listings")


def test_a_table_has_no_directory_that_paths_of_images_could_start_in(run: Run) -> None:
    config = load().catalog
    with open_reader(config, Source(run.filesystem, (), None, ())) as reader:
        refused = reader.read("shoe.png"), reader.read("/shop/shoe.png")
    assert all(isinstance(found, Refusal) and found.reason == "bad_uri" for found in refused)
    names = ["shoe.png", "https://a.example/x"]
    assert image_identities(names, run.filesystem, None) == names
