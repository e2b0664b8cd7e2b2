"""Input files are hashed once, and again when they may have changed."""

import hashlib
import os

import pyarrow.fs as pafs
import pytest

from raypipe.catalog import hashed_files
from raypipe.catalog.hashed_files import HashedFiles

LOCAL = pafs.LocalFileSystem()


@pytest.fixture
def read(monkeypatch):
    """Paths that were read."""
    paths: list[str] = []
    hash_file = hashed_files._hash

    def note(filesystem, path):
        paths.append(path)
        return hash_file(filesystem, path)

    monkeypatch.setattr(hashed_files, "_hash", note)
    return paths


@pytest.fixture
def files(tmp_path):
    """Two files that were written long ago."""
    paths = [str(tmp_path / name) for name in ("a", "b")]
    for path in paths:
        write(path, path.encode())
    return paths


def write(path, content, written_at=1e9):
    with open(path, "wb") as file:
        file.write(content)
    if written_at is not None:
        os.utime(path, (written_at, written_at))


def test_a_later_call_reads_nothing(files, read, run):
    found = HashedFiles(run).of(LOCAL, files)
    assert [(file.size, file.sha256) for file in found] == [
        (len(path), hashlib.sha256(path.encode()).hexdigest()) for path in files
    ]
    assert sorted(read) == files
    assert HashedFiles(run).of(LOCAL, files[::-1]) == found[::-1]
    assert len(read) == 2


@pytest.mark.parametrize("written_at", [1e9, 1e9 + 1])
def test_what_has_changed_is_read_again(files, read, run, written_at):
    HashedFiles(run).of(LOCAL, files)
    content = files[0].encode()[::-1] if written_at > 1e9 else b"of another size"
    write(files[0], content, written_at)
    found = HashedFiles(run).of(LOCAL, files)
    assert found[0].sha256 == hashlib.sha256(content).hexdigest()
    assert read[2:] == files[:1]


def test_a_file_that_was_just_written_is_read_by_the_next_call_too(files, read, run):
    write(files[0], b"new", None)
    HashedFiles(run).of(LOCAL, files)
    HashedFiles(run).of(LOCAL, files)
    assert read.count(files[0]) == 2
    assert read.count(files[1]) == 1


def test_without_a_run_nothing_is_kept(files, read):
    hashed = HashedFiles()
    assert hashed.of(LOCAL, files) == hashed.of(LOCAL, files)
    assert len(read) == 2
