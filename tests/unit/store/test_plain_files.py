"""Files beside the rows of an artifact, on a disk and on an object store."""

import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from raypipe.errors import ArtifactError
from raypipe.store.artifacts import Run
from raypipe.store.manifest import COMMIT, differing_keys, encode, versions
from tests.fakes.seed_artifacts import NAME, begin, folder, seed_of


def test_plain_files_lie_in_one_local_directory(run: Run) -> None:
    attempt = run.artifact("sft/adapter").attempt({})
    (attempt.local_files() / "adapter_model.safetensors").write_bytes(b"weights")
    attempt.commit()
    directory = run.artifact("sft/adapter").local_directory()
    assert (directory / "adapter_model.safetensors").read_bytes() == b"weights"


@pytest.fixture
def remote_run(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    """A run that takes the ways of an object store, on a local file system."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    remote = Run(f"file://{run.root}")
    remote.is_local = False
    return remote


def test_plain_files_of_an_object_store_are_copied_once_per_machine(
    remote_run: Run, tmp_path: Path
) -> None:
    attempt = remote_run.artifact("sft/adapter").attempt({})
    (attempt.local_files() / "adapter_model.safetensors").write_bytes(b"weights")
    attempt.commit()
    artifact = remote_run.artifact("sft/adapter")
    directory = artifact.local_directory()
    assert directory.is_relative_to(tmp_path / "home")
    assert (directory / "adapter_model.safetensors").read_bytes() == b"weights"
    remote_run.filesystem.delete_dir(remote_run.path("sft/adapter/files"))
    assert artifact.local_directory() == directory


@pytest.mark.parametrize("harm", ["cut", "changed", "deleted"])
def test_a_copy_that_is_no_longer_what_was_committed_is_made_again(
    remote_run: Run, harm: str
) -> None:
    attempt = remote_run.artifact("sft/adapter").attempt({})
    (attempt.local_files() / "adapter_model.safetensors").write_bytes(b"weights")
    attempt.commit()
    directory = remote_run.artifact("sft/adapter").local_directory()
    weights = directory / "adapter_model.safetensors"
    harmed = {"cut": b"wei", "changed": b"weighty", "deleted": b""}[harm]
    weights.write_bytes(harmed) if harm != "deleted" else weights.unlink()
    assert remote_run.artifact("sft/adapter").local_directory() == directory
    assert weights.read_bytes() == b"weights"


LEADS_ELSEWHERE = [
    "files/../../../elsewhere",
    "files/a/../../../elsewhere",
    "/files/a/b",
    "files/a//b",
    "files/a/./b",
    "files/a/b\0",
    "data/a/b",
    "files/b",
    "b",
    "",
    "..",
]


@pytest.mark.parametrize("place", LEADS_ELSEWHERE)
def test_a_manifest_that_leads_elsewhere_is_none(
    remote_run: Run, tmp_path: Path, place: str
) -> None:
    attempt = remote_run.artifact("sft/adapter").attempt({})
    (attempt.local_files() / "adapter_config.json").write_bytes(b"{}")
    made = attempt.commit()
    (file,) = made.files
    hostile_one = replace(made, files=(replace(file, path=place),))
    remote_run.replace(f"sft/adapter/{COMMIT}", encode(hostile_one))
    with pytest.raises(ArtifactError, match="is no place of a file"):
        remote_run.artifact("sft/adapter").local_directory()


@pytest.mark.parametrize("key", ["digest", "attempt"])
@pytest.mark.parametrize("name", ["..", "../../x", "/x", "", "a/b", "."])
def test_a_manifest_whose_directory_is_elsewhere_is_none(run: Run, key: str, name: str) -> None:
    made = begin(run, ["a"]).commit()
    run.replace(f"{NAME}/{COMMIT}", encode(replace(made, **{key: name})))
    with pytest.raises(ArtifactError, match="is no name"):
        seed_of(run).commit()


def pipe(path: Path) -> None:
    os.mkfifo(path)


def endless(path: Path) -> None:
    path.symlink_to("/dev/zero")


def error_of(read: Callable[[], object]) -> str:
    try:
        read()
    except ArtifactError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("put", [pipe, folder, endless])
def test_what_is_no_file_is_neither_waited_for_nor_read(
    run: Run, put: Callable[[Path], None]
) -> None:
    attempt = begin(run, ["a"])
    attempt.write_json("metrics.json", {})
    made = attempt.commit()
    places = [Path(run.path(NAME, file.path)) for file in made.files]
    for place in [*places, Path(run.path(NAME, COMMIT))]:
        place.unlink()
        put(place)
        readers: list[Callable[[], object]] = [
            seed_of(run).read,
            lambda: seed_of(run).read(["listing_id"]),
            lambda: seed_of(run).read_json("metrics.json"),
            seed_of(run).local_directory,
        ]
        said = [error_of(read) for read in readers]
        assert any(said)
        assert all("no regular file" in words for words in said if words)
    assert begin(run).inspect(str(places[0]), "data") is None


def test_a_file_written_by_name_is_committed_on_an_object_store_too(remote_run: Run) -> None:
    attempt = remote_run.artifact("sft/evaluation").attempt({})
    attempt.write_json("metrics.json", {"accuracy": 0.5})
    (attempt.local_files() / "figure.svg").write_bytes(b"<svg/>")
    attempt.commit()
    artifact = remote_run.artifact("sft/evaluation")
    assert artifact.read_json("metrics.json") == {"accuracy": 0.5}
    assert artifact.read_file("figure.svg") == b"<svg/>"


def test_differing_keys_are_sorted_and_tell_absent_from_none() -> None:
    assert differing_keys({"b": 1, "a": None}, {"a": None, "c": 2}) == [
        "b: 1 -> 'absent'",
        "c: 'absent' -> 2",
    ]


def test_versions_take_the_cpu_build_for_the_package_and_skip_what_is_not_installed() -> None:
    found = versions("vllm", "pyarrow", "no-such-package")
    assert found.keys() == {"versions.vllm", "versions.pyarrow"}
