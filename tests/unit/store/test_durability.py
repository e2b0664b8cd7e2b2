"""What is committed is on the disk."""

import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from raypipe.schemas import QUARANTINE
from raypipe.store.artifacts import Run
from raypipe.store.manifest import COMMIT
from tests.fakes.seed_artifacts import NAME, begin, data_files, refused


@pytest.fixture
def synced(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is written to the disk and what gets its name, in order."""
    done: list[str] = []
    fsync, link, replace = os.fsync, os.link, os.replace

    def noted_fsync(descriptor: int) -> None:
        done.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        fsync(descriptor)

    def noted_link(source: str, target: str) -> None:
        done.append(f"name {target}")
        link(source, target)

    def noted_replace(source: str, target: str) -> None:
        done.append(f"name {target}")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", noted_fsync)
    monkeypatch.setattr(os, "link", noted_link)
    monkeypatch.setattr(os, "replace", noted_replace)
    return done


def test_files_and_folders_are_on_the_disk_before_the_manifest_and_it_before_its_name(
    run: Run, tmp_path: Path, synced: list[str]
) -> None:
    handed_over = tmp_path / "handed over"
    (handed_over / "deep").mkdir(parents=True)
    (handed_over / "deep" / "adapter_model.safetensors").write_bytes(b"weights")
    attempt = begin(run, ["a"], ["b"])
    attempt.write(QUARANTINE.from_rows([refused("c")]), kind="quarantine")
    attempt.write_json("metrics.json", {})
    shutil.copytree(handed_over, attempt.local_files(), dirs_exist_ok=True)
    made = attempt.commit()
    manifest = run.path(NAME, COMMIT)
    named = synced.index(f"name {manifest}")
    before, after = synced[:named], synced[named + 1 :]
    content = next(at for at, path in enumerate(before) if path.startswith(f"{manifest}#"))
    assert len(made.files) == 5
    for file in made.files:
        path = Path(run.path(NAME, file.path))
        on_disk = before.index(str(path))
        folders = [parent for parent in path.parents if parent.is_relative_to(run.root)]
        assert len(folders) >= 4
        for folder in folders:
            assert on_disk < before.index(str(folder)) < content
    assert after == [run.path(NAME)]


def test_what_replaces_a_file_is_on_the_disk_before_it_gets_its_name(
    run: Run, synced: list[str]
) -> None:
    run.replace("report/summary.json", b"{}")
    target = run.path("report/summary.json")
    written, named, *folders = synced
    assert written.startswith(f"{target}#")
    assert named == f"name {target}"
    assert folders == [run.path("report"), run.root]
    assert os.listdir(run.path("report")) == ["summary.json"]


def test_a_salvaged_file_is_on_the_disk_too(run: Run, synced: list[str]) -> None:
    begin(run, ["a"])
    synced.clear()
    begin(run).salvage()
    assert synced == [str(path) for path in data_files(run)]


def test_of_many_writers_at_once_one_creates_a_file(run: Run) -> None:
    with ThreadPoolExecutor(8) as threads:
        made = list(threads.map(lambda n: run.create("a/b.json", f"{n}".encode() * 99), range(32)))
    assert made.count(True) == 1
    assert run.read("a/b.json") == f"{made.index(True)}".encode() * 99
    assert os.listdir(run.path("a")) == ["b.json"]
