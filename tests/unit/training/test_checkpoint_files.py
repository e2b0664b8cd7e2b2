"""Which checkpoint a training goes on from, whatever became of the files."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import fs as pafs

from raypipe.store.paths import TRAINING_LOG
from raypipe.training.checkpoint_files import DamagedCheckpointError, copy_whole, list_files
from raypipe.training.checkpoints import choose

LOCAL = pafs.LocalFileSystem()
OLD, NEW = "checkpoint_2026-01-01_00-00-01.000001", "checkpoint_2026-01-01_00-00-02.000001"
WORKERS = 2
SHARED = {"latest": b"global_step4", "trainer_state.json": b'{"log_history": []}'}


def made(directory: Path, name: str, *, workers: int = WORKERS, zero_stage: int = 1) -> Path:
    """A checkpoint as so many workers hand it over."""
    target = directory / name
    for rank in range(workers):
        own = directory / f"of-{rank}"
        files = {f"global_step4/rank_{rank}.pt": os.urandom(300 + rank), f"rng_{rank}.pth": b"seed"}
        for path, content in (files | (SHARED if rank == 0 else {})).items():
            (own / path).parent.mkdir(parents=True, exist_ok=True)
            (own / path).write_bytes(content)
        list_files(own, rank=rank, workers=workers, zero_stage=zero_stage)
        shutil.copytree(own, target, dirs_exist_ok=True)
        shutil.rmtree(own)
    return target


def chosen(
    storage: Path, target: Path, *, zero_stage: int = 1, rejected: dict[str, str] | None = None
) -> tuple[str | None, dict[str, str]]:
    return choose(LOCAL, str(storage), target, zero_stage, WORKERS, rejected or {})


def flip(path: Path, place: float) -> None:
    content = bytearray(path.read_bytes())
    content[int(place * (len(content) - 1))] ^= 1
    path.write_bytes(content)


def zeros(path: Path, place: float) -> None:
    """A hole that a crash left: every byte from the place on is zero, and the size is as it was."""
    content = path.read_bytes()
    kept = int(place * (len(content) - 1))
    path.write_bytes(content[:kept] + bytes(len(content) - kept))


def cut(path: Path, place: float) -> None:
    path.write_bytes(path.read_bytes()[: int(place * (path.stat().st_size - 1))])


def lengthen(path: Path, place: float) -> None:
    path.write_bytes(path.read_bytes() + b"\0")


def lose(path: Path, place: float) -> None:
    path.unlink()


def replace_by_directory(path: Path, place: float) -> None:
    path.unlink()
    path.mkdir()


def replace_by_pipe(path: Path, place: float) -> None:
    path.unlink()
    os.mkfifo(path)


DAMAGES: list[Callable[[Path, float], None]] = [
    flip,
    zeros,
    cut,
    lengthen,
    lose,
    replace_by_directory,
    replace_by_pipe,
]


@given(st.sampled_from(DAMAGES), st.integers(0, 7), st.floats(0, 1))
def test_a_damaged_checkpoint_is_passed_over_for_the_one_before_it(
    tmp_path_factory: pytest.TempPathFactory,
    damage: Callable[[Path, float], None],
    which: int,
    place: float,
) -> None:
    storage, target = tmp_path_factory.mktemp("storage"), tmp_path_factory.mktemp("local")
    made(storage, OLD)
    newest = made(storage, NEW)
    files = sorted(path for path in newest.rglob("*") if path.is_file())
    assert len(files) == 8
    damage(files[which], place)
    name, faults = chosen(storage, target)
    assert (name, list(faults)) == (OLD, [NEW])
    # A list that is changed may well accuse another file.
    assert files[which].name.startswith("files-") or files[which].name in faults[NEW]
    for path in (storage / OLD).rglob("*.pt"):
        copied = target / OLD / path.relative_to(storage / OLD)
        assert copied.read_bytes() == path.read_bytes()


def test_whole_ones_are_taken_newest_first_and_no_more_than_two_are_kept(tmp_path: Path) -> None:
    storage = tmp_path / "storage"
    for name in ("checkpoint_0", "checkpoint_1", OLD, NEW):
        made(storage, name)
    assert chosen(storage, tmp_path / "local") == (NEW, {})
    assert sorted(path.name for path in storage.iterdir()) == [OLD, NEW]


def test_one_that_does_not_load_is_passed_over(tmp_path: Path) -> None:
    storage = tmp_path / "storage"
    for name in (OLD, NEW):
        made(storage, name)
    rejected = {NEW: "training does not go on from it (KeyError)"}
    assert chosen(storage, tmp_path / "local", rejected=rejected) == (OLD, rejected)


@given(st.binary(max_size=300) | st.just(b'{"a":' * 5000) | st.just(b"[" * 100_000))
def test_no_list_of_files_ends_a_training(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    storage = tmp_path_factory.mktemp("storage")
    (made(storage, NEW) / "files-1.json").write_bytes(content)
    name, faults = chosen(storage, tmp_path_factory.mktemp("local"))
    assert name is None
    assert "files-1.json" in faults[NEW]


@pytest.mark.parametrize(
    "name", ["../outside", "/etc/passwd", "a/../../b", "a//b", ".hidden", "a\nb", "a\\..\\b", ""]
)
def test_a_list_names_files_of_its_checkpoint_alone(tmp_path: Path, name: str) -> None:
    listed = made(tmp_path, NEW) / "files-0.json"
    values = json.loads(listed.read_text())
    values["files"][name] = {"size": 0, "sha256": "0" * 64}
    listed.write_text(json.dumps(values))
    with pytest.raises(DamagedCheckpointError, match=r"files-0\.json is damaged"):
        copy_whole(LOCAL, f"{tmp_path}/{NEW}", tmp_path / "local")


def test_files_that_nobody_lists_are_left_behind(tmp_path: Path) -> None:
    (made(tmp_path, NEW) / "pytorch_model.bin").write_bytes(b"a stranger's")
    copy_whole(LOCAL, f"{tmp_path}/{NEW}", tmp_path / "local")
    assert not (tmp_path / "local" / "pytorch_model.bin").exists()
    assert (tmp_path / "local" / "latest").read_bytes() == b"global_step4"


@pytest.mark.parametrize(
    ("workers", "made_under", "zero_stage", "taken"),
    [(2, 1, 1, True), (1, 1, 1, False), (2, 2, 1, False), (4, 0, 0, True), (2, 1, 0, False)],
)
def test_an_optimizer_that_is_split_in_another_way_is_passed_over(
    tmp_path: Path, workers: int, made_under: int, zero_stage: int, taken: bool
) -> None:
    made(tmp_path / "storage", NEW, workers=workers, zero_stage=made_under)
    name, faults = chosen(tmp_path / "storage", tmp_path / "local", zero_stage=zero_stage)
    assert name == (NEW if taken else None)
    assert faults == (
        {} if taken else {NEW: f"it was made by {workers} workers under ZeRO {made_under}"}
    )


def test_a_finished_adapter_fits_any_number_of_workers(tmp_path: Path) -> None:
    directory = tmp_path / "storage" / NEW
    directory.mkdir(parents=True)
    (directory / TRAINING_LOG).write_text("{}")
    list_files(directory, rank=0, workers=1, zero_stage=0)
    assert chosen(tmp_path / "storage", tmp_path / "local") == (NEW, {})


def test_what_is_no_checkpoint_is_not_looked_at(tmp_path: Path) -> None:
    (tmp_path / "storage" / "foreign").mkdir(parents=True)
    (tmp_path / "storage" / "checkpoint_file").write_bytes(b"")
    assert chosen(tmp_path / "storage", tmp_path / "local") == (None, {})
    assert chosen(tmp_path / "never-begun", tmp_path / "local") == (None, {})
