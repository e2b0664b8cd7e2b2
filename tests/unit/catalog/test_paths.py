"""Image files by path: nothing outside what is allowed, nothing but files, and never an error."""

import os
import threading

import pyarrow as pa
import pyarrow.fs as pafs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raypipe.catalog import paths
from raypipe.catalog.images import MAX_BYTES, Refusal
from raypipe.catalog.keys import image_identities
from raypipe.catalog.locations import read_path
from raypipe.errors import StorageError
from tests.fakes.catalog_files import photo

LOCAL = pafs.LocalFileSystem()


@pytest.fixture
def shop(tmp_path):
    """A catalog with a photo, beside a folder of photos and a private one."""
    for name in ("catalog/sub", "photos", "private"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "a.png").write_bytes(photo(1))
    return tmp_path


@pytest.fixture
def read(shop):
    def read(name, *roots):
        content = read_path(str(name), LOCAL, str(shop / "catalog"), tuple(map(str, roots)))
        return content.reason if isinstance(content, Refusal) else content

    return read


def test_what_lies_beside_the_catalog_is_read(shop, read):
    (shop / "catalog/inside.png").symlink_to("sub/a.png")
    (shop / "catalog/round").symlink_to(shop / "catalog/sub")
    (shop / "catalog/ö %2e.png").write_bytes(photo(1))
    for name in (
        "sub/a.png",
        "./sub//a.png",
        "sub/../sub/a.png",
        shop / "catalog/sub/a.png",
        "inside.png",
        "round/a.png",
        "ö %2e.png",
    ):
        assert read(name) == photo(1)


@pytest.mark.parametrize(
    "name",
    [
        "../private/a.png",
        "sub/../../private/a.png",
        "/etc/passwd",
        "/proc/self/environ",
        "/dev/zero",
        "/dev/stdin",
        "{shop}/private/a.png",
        "{shop}/catalog-2/a.png",
        "out.png",
        "folder/a.png",
        "folder/../private/a.png",
        "chain/a.png",
        "..",
        ".",
    ],
)
def test_what_lies_elsewhere_is_refused(shop, read, name):
    (shop / "catalog-2").mkdir()
    (shop / "catalog-2/a.png").write_bytes(photo(1))
    (shop / "catalog/out.png").symlink_to(shop / "private/a.png")
    (shop / "catalog/folder").symlink_to("../private")
    (shop / "catalog/chain").symlink_to("folder")
    name = name.format(shop=shop)
    assert read(name) == "outside_roots"
    assert image_identities([name], LOCAL, str(shop / "catalog")) == [name]


def test_roots_allow_what_lies_below_them(shop, read):
    (shop / "link").symlink_to("photos")
    (shop / "catalog/out.png").symlink_to(shop / "photos/a.png")
    for root in ("photos", "photos/", "link"):
        for name in ("../photos/a.png", shop / "photos/a.png", "out.png", "../link/a.png"):
            assert read(name, shop / root) == photo(1)
        assert read("../private/a.png", shop / root) == "outside_roots"


def test_roots_are_relative_to_where_the_command_is_started(shop, monkeypatch):
    monkeypatch.chdir(shop)
    uri = (shop / "private").as_uri()
    given = ("photos", "../x", "/data", uri, "s3://bucket/photos/", "gs://other/x")
    expected = tuple(map(str, (shop / "photos", shop.parent / "x", "/data", shop / "private")))
    assert paths.roots_on(LOCAL, given) == expected
    assert paths.roots_on(pafs.S3FileSystem(anonymous=True, region="eu-west-1"), given) == (
        "bucket/photos",
    )


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("", "bad_path"),
        ("a\0.png", "bad_path"),
        ("a" * 256, "bad_path"),
        ("ö" * 128, "bad_path"),
        ("data:image/png;base64," + "iVBORw0KGgo" * 1000, "bad_path"),
        ("a/" * 2100, "bad_path"),
        ("\ud800.png", "bad_path"),
        ("none.png", "missing_file"),
        ("sub/a.png/b.png", "missing_file"),
        ("sub", "unreadable_file"),
        ("loop", "unreadable_file"),
        ("pipe", "unreadable_file"),
        ("socket", "unreadable_file"),
        ("huge", "too_many_bytes"),
    ],
)
def test_every_other_name_has_its_reason(shop, read, name, reason, monkeypatch):
    import socket

    monkeypatch.chdir(shop / "catalog")
    os.mkfifo("pipe")
    with socket.socket(socket.AF_UNIX) as unix, open("huge", "wb") as huge:
        unix.bind("socket")
        huge.truncate(1 << 40)
    (shop / "catalog/loop").symlink_to("loop")
    assert read(name) == reason
    assert image_identities([name], LOCAL, str(shop / "catalog"))[0].startswith(name)


def test_a_folder_that_is_forbidden(shop, read, monkeypatch):
    def forbidden(path, *args, **options):
        raise PermissionError(13, "Permission denied", str(path))

    with monkeypatch.context() as patch:
        patch.setattr(os.path, "realpath", forbidden)
        assert read("sub/a.png") == "unreadable_file"
        assert image_identities(["sub/a.png"], LOCAL, str(shop / "catalog")) == ["sub/a.png"]
    monkeypatch.setattr(os, "open", forbidden)
    assert read("sub/a.png") == "unreadable_file"


def test_a_file_is_read_to_its_limit_and_no_further(shop, read, monkeypatch):
    (shop / "catalog/large").write_bytes(b"")
    os.truncate(shop / "catalog/large", MAX_BYTES)
    assert len(read("large")) == MAX_BYTES
    os.truncate(shop / "catalog/large", MAX_BYTES + 1)
    assert read("large") == "too_many_bytes"


def test_a_link_that_comes_between_the_look_and_the_opening_is_not_followed(
    shop, read, monkeypatch
):
    place_of = paths.place_of

    def swapped(*args):
        place = place_of(*args)
        (shop / "catalog/sub").rename(shop / "catalog/old")
        (shop / "catalog/sub").symlink_to(shop / "private")
        return place

    monkeypatch.setattr(paths, "place_of", swapped)
    assert read("sub/a.png") in ("missing_file", "unreadable_file")


def test_links_that_move_all_the_time_never_lead_out(shop, read):
    (shop / "private/a.png").write_bytes(b"private")
    link, spare = shop / "catalog/link", shop / "catalog/spare"
    link.symlink_to("sub")
    done = threading.Event()

    def move():
        while not done.is_set():
            for target in (shop / "private", "sub"):
                spare.symlink_to(target)
                spare.rename(link)

    mover = threading.Thread(target=move)
    mover.start()
    try:
        found = {read("link/a.png") for _ in range(2000)}
    finally:
        done.set()
        mover.join()
    assert b"private" not in found
    assert photo(1) in found


def test_a_refusal_quotes_a_name_briefly_and_on_one_line(shop):
    for name in (
        "x" * 5000,
        "\x1b[31m\n\u2028" * 9 + ".png",
        "a.png?sig=s3cr3t",
        "../" + "y" * 250,
    ):
        content = read_path(name, LOCAL, str(shop / "catalog"))
        assert isinstance(content, Refusal)
        assert len(content.detail) < 320
        assert content.detail.isprintable()
        assert "s3cr3t" not in content.detail


PIECES = st.sampled_from(["..", ".", "/", "sub", "a.png", "out", "pipe", "", "\0", "a" * 300, "~"])


@given(st.one_of(st.text(), st.lists(PIECES | st.text(max_size=3), max_size=8).map("/".join)))
@settings(max_examples=500, deadline=None)
def test_any_text_as_a_path_ends_as_the_photo_or_a_refusal(made_shop, name):
    directory = str(made_shop / "catalog")
    content = read_path(name, LOCAL, directory)
    assert content == photo(1) or isinstance(content, Refusal)
    (identity,) = image_identities([name], LOCAL, directory)
    assert identity.startswith(name)


@pytest.fixture(scope="module")
def made_shop(tmp_path_factory):
    directory = tmp_path_factory.mktemp("shop")
    for name in ("catalog/sub", "private"):
        (directory / name).mkdir(parents=True)
        (directory / name / "a.png").write_bytes(photo(1 if "catalog" in name else 2))
    (directory / "catalog/out").symlink_to("../private")
    os.mkfifo(directory / "catalog/pipe")
    return directory


# Object stores.


@pytest.fixture
def bucket(shop):
    """A store whose bucket is the directory ``catalog``, and which counts what it is asked."""
    return pafs.SubTreeFileSystem(str(shop), LOCAL)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("../private/a.png", "outside_roots"),
        ("sub/../../private/a.png", "outside_roots"),
        ("/private/a.png", "outside_roots"),
        ("/catalog/sub/a.png", "outside_roots"),
        ("//catalog/sub/a.png", "outside_roots"),
        ("a" * 1100, "bad_path"),
        ("a\0", "bad_path"),
        ("none.png", "missing_file"),
        ("sub", "unreadable_file"),
    ],
)
def test_a_key_does_not_leave_the_catalogs_prefix(bucket, name, reason):
    assert read_path("sub/a.png", bucket, "catalog") == photo(1)
    assert read_path("../photos/a.png", bucket, "catalog", ("photos",)) == photo(1)
    content = read_path(name, bucket, "catalog", ("photos",))
    assert isinstance(content, Refusal)
    assert content.reason == reason


class Store:
    """A file system of which some files cannot be looked at."""

    type_name = "s3"

    def __init__(self, error):
        self.error = error

    def get_file_info(self, places):
        if isinstance(places, list):
            return [self.get_file_info(place) for place in places]
        if "bad" in places:
            raise self.error
        return pafs.FileInfo(places, pafs.FileType.File, mtime_ns=1, size=2)


@pytest.mark.parametrize(
    "error",
    [
        OSError("AWS Error ACCESS_DENIED during HeadObject operation"),
        OSError("AWS Error UNKNOWN (HTTP status 400) during HeadObject operation"),
        pa.ArrowInvalid("Empty path component"),
    ],
)
def test_a_name_that_a_store_refuses_costs_its_listing_alone(error):
    identities = image_identities(["bad.png", "a.png"], Store(error), "catalog")
    assert identities == ["bad.png", "a.png 2 1"]


def test_a_store_that_is_away_is_no_fault_of_a_name():
    store = Store(OSError("AWS Error NETWORK_CONNECTION during HeadObject operation"))
    with pytest.raises(StorageError, match="cannot look at"):
        image_identities(["bad.png"], store, "catalog")
