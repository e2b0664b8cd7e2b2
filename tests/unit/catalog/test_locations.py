"""Objects of buckets, and a reader of paths and addresses alike."""

import pyarrow.fs as pafs
import pytest

from raypipe.catalog import fetch
from raypipe.catalog.fetch import Fetcher, open_reader
from raypipe.catalog.sources import Source
from raypipe.config import CatalogConfig, FetchConfig
from tests.fakes.catalog_files import photo
from tests.fakes.fetching import refused


def buckets(tmp_path):
    (tmp_path / "photos" / "a").mkdir(parents=True)
    (tmp_path / "photos" / "a" / "1.png").write_bytes(photo(1))
    return lambda scheme, name: pafs.SubTreeFileSystem(str(tmp_path), pafs.LocalFileSystem())


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("s3://photos/a/2.png", "not_found"),
        ("s3://photos/a", "unreadable_file"),
        ("s3://other/a/1.png", "host_not_allowed"),
        ("s3://key:s3cr3t@photos/a/1.png", "bad_uri"),
        ("s3://photos", "bad_uri"),
        ("s3://photos/", "bad_uri"),
        ("s3:///a", "bad_uri"),
        ("s3://photos/" + "a" * 5000, "bad_uri"),
        ("s3://photos/a\0b", "bad_uri"),
        ("s3://[photos/a", "bad_uri"),
        ("gs://photos/a/1.png", "scheme_not_allowed"),
    ],
)
def test_objects_of_allowed_buckets(tmp_path, name, reason):
    config = FetchConfig(schemes=("s3",), hosts=("photos",))
    with Fetcher(config, open_bucket=buckets(tmp_path)) as fetcher:
        assert fetcher.read("S3://photos/a/1.png") == photo(1)
        refused(fetcher.read(name), reason)


def test_objects_that_are_too_large_or_refused(tmp_path):
    config = FetchConfig(schemes=("gs",), hosts=("photos",), max_bytes=10)
    with Fetcher(config, open_bucket=buckets(tmp_path)) as fetcher:
        refused(fetcher.read("gs://photos/a/1.png"), "too_many_bytes")

    def denied(scheme, name):
        raise OSError("AWS Error ACCESS_DENIED during HeadObject")

    with Fetcher(config, open_bucket=denied) as fetcher:
        refused(fetcher.read("gs://photos/a/1.png"), "refused_by_server")


@pytest.fixture
def catalog(tmp_path):
    (tmp_path / "1.png").write_bytes(photo(1))
    config = CatalogConfig(
        listings="x",
        attribute_schema="x",
        seed="x",
        truth="x",
        fetch=FetchConfig(schemes=("http",), hosts=("127.0.0.1",)),
    )
    source = Source(pafs.LocalFileSystem(), (), str(tmp_path), ())
    with open_reader(config, source) as reader:
        yield reader


def test_a_reader_reads_paths_and_uris(catalog, server, uri):
    assert catalog.read("1.png") == photo(1)
    refused(catalog.read("2.png?sig=s3cr3t"), "missing_file")
    refused(catalog.read(uri("/photo.png", "127.0.0.1")), "private_address")


def test_a_reader_keeps_what_it_read_ahead_until_the_next_batch(catalog, tmp_path):
    catalog.prefetch(["1.png", "2.png"])
    (tmp_path / "1.png").write_bytes(photo(2))
    (tmp_path / "2.png").write_bytes(photo(3))
    assert catalog.read("1.png") == photo(1)
    refused(catalog.read("2.png"), "missing_file")
    catalog.prefetch([])
    assert catalog.read("1.png") == photo(2)


def test_a_reader_reads_what_did_not_fit_ahead(catalog, monkeypatch):
    monkeypatch.setattr(fetch, "AHEAD_BYTES", 0)
    catalog.prefetch(["1.png"])
    assert catalog.read("1.png") == photo(1)
