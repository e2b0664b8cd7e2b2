"""The commit protocol: what is seen, when, by whom, and what is refused."""

import hashlib
import json
import os
import pickle
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raypipe.artifacts import Artifact, Attempt, Run, committed
from raypipe.errors import ArtifactError, ConfigDriftError
from raypipe.manifest import COMMIT, Commit, differing_keys, encode, versions
from raypipe.receipts import Receipt
from raypipe.schemas import QUARANTINE, SEED
from tests.pickled import OBJECT, TENSOR_V2, add_column, hostile

Row = dict[str, Any]
NAME = "catalog/seed"
SETTINGS = {"lora.rank": 32, "splits": ["pool"]}


def seeded(listing_id: str, answer: str = "Red") -> Row:
    reasoning = f"{listing_id} looks {answer}"
    return {
        "listing_id": listing_id,
        "answers": [{"attribute": "colour", "reasoning": reasoning, "answer": answer}],
    }


def refused(listing_id: str, reason: str = "too_long") -> Row:
    return {"id": listing_id, "stage": "sampling", "reason": reason, "detail": ""}


def begin(run: Run, *files: Sequence[str], fingerprint: dict[str, Any] = SETTINGS) -> Attempt:
    """An attempt that has written one file for each list of ids."""
    attempt = run.artifact(NAME, SEED).attempt(fingerprint)
    for ids in files:
        attempt.write(SEED.from_rows([seeded(listing_id) for listing_id in ids]))
    return attempt


def seed_of(run: Run) -> Artifact:
    return Run(run.location).artifact(NAME, SEED)


def ids_of(artifact: Artifact) -> list[str]:
    return sorted(artifact.read(["listing_id"]).column("listing_id").to_pylist())


def salvaged_ids(receipts: Sequence[Receipt]) -> set[str]:
    return {listing_id for receipt in receipts for listing_id in receipt.ids.to_pylist()}


def data_files(run: Run) -> list[Path]:
    return sorted(Path(run.path(NAME, "data")).rglob("*.parquet"))


def test_nothing_is_seen_before_the_commit(run: Run) -> None:
    attempt = begin(run, ["a"])
    attempt.write_json("metrics.json", {"rows": 1})
    artifact = seed_of(run)
    assert artifact.commit() is None
    assert artifact.matching(SETTINGS) is None
    for read in (artifact.required, artifact.read, lambda: artifact.read_json("metrics.json")):
        with pytest.raises(ArtifactError, match=f"{NAME} is not committed"):
            read()
    attempt.commit()
    assert ids_of(artifact) == ["a"]
    assert artifact.read_json("metrics.json") == {"rows": 1}


def test_a_manifest_reads_back_as_it_was_committed(run: Run) -> None:
    attempt = begin(run, ["a", "b"], ["c"])
    attempt.write(QUARANTINE.from_rows([refused("d")]), kind="quarantine")
    made = attempt.commit(expected=["a", "b", "c", "d"], counts={"queries": 9})
    read = seed_of(run).required()
    assert read == made
    assert (made.reused, read.reused) == (False, True)
    assert (read.rows, read.quarantined, read.counts) == (3, 1, {"queries": 9})
    assert {file.kind for file in read.files} == {"data", "quarantine"}
    assert seed_of(run).read(kind="quarantine").to_pylist() == [refused("d")]


def test_a_second_writer_of_the_same_rows_gets_the_first_ones_commit(run: Run) -> None:
    first, second = begin(run, ["a"], ["b"]), begin(run, ["b", "a"])
    made = first.commit()
    assert second.commit() == made
    assert seed_of(run).required().attempt == first.name


def test_a_second_writer_of_other_rows_is_refused_and_changes_nothing(run: Run) -> None:
    first, second = begin(run, ["a"]), begin(run, ["b"])
    first.commit()
    manifest = run.read(f"{NAME}/{COMMIT}")
    with pytest.raises(ArtifactError, match="committed meanwhile"):
        second.commit()
    assert run.read(f"{NAME}/{COMMIT}") == manifest
    assert ids_of(seed_of(run)) == ["a"]


def test_create_is_create_only_and_replace_is_not(run: Run) -> None:
    assert run.create("deep/er/file", b"one")
    assert not run.create("deep/er/file", b"two")
    assert run.read("deep/er/file") == b"one"
    run.replace("deep/er/file", b"three")
    assert run.read("deep/er/file") == b"three"
    assert run.read("deep/other") is None


def digest_of(rows: Sequence[Row], cuts: Sequence[int]) -> str:
    with tempfile.TemporaryDirectory() as directory:
        attempt = Run(directory).artifact(NAME, SEED).attempt(SETTINGS)
        bounds = [0, *sorted(cuts), len(rows)]
        for start, stop in pairwise(bounds):
            attempt.write(SEED.from_rows(list(rows[start:stop])))
        return attempt.commit().digest


ROWS = [seeded(f"l{number}", answer) for number, answer in enumerate("RGBRGB")]


@settings(max_examples=25, deadline=None)
@given(
    rows=st.permutations(ROWS),
    cuts=st.lists(st.integers(0, len(ROWS)), max_size=3),
)
def test_the_digest_does_not_depend_on_row_order_or_files(rows: list[Row], cuts: list[int]) -> None:
    assert digest_of(rows, cuts) == digest_of(ROWS, [])


def test_the_digest_depends_on_every_row_value_and_file(run: Run, tmp_path: Path) -> None:
    changed = [*ROWS[:-1], seeded("l5", "Green")]
    digests = {digest_of(ROWS, []), digest_of(changed, []), digest_of(ROWS[1:], [])}
    for content in (b"one", b"two"):
        attempt = Run(str(tmp_path / content.decode())).artifact(NAME, SEED).attempt(SETTINGS)
        attempt.write(SEED.from_rows(ROWS))
        attempt.write_file("metrics.json", content)
        digests.add(attempt.commit().digest)
    assert len(digests) == 5


@pytest.mark.parametrize(
    ("rows", "dropped", "says"),
    [
        (["a"], [], "1 rows lost"),
        (["a", "b", "x"], [], "1 unknown"),
        (["a"], ["x", "b"], "1 unknown"),
        (["a", "b"], ["b"], "1 both written and refused"),
        (["a", "b", "b"], [], "1 rows came out twice"),
        ([], [], "2 rows lost"),
    ],
)
def test_lost_doubled_and_unknown_ids_are_refused(
    run: Run, rows: list[str], dropped: list[str], says: str
) -> None:
    attempt = begin(run, *([listing_id] for listing_id in rows))
    if dropped:
        attempt.write(QUARANTINE.from_rows([refused(i) for i in dropped]), kind="quarantine")
    with pytest.raises(ArtifactError, match=says):
        attempt.commit(expected=["a", "b"])
    assert seed_of(run).commit() is None


def test_a_doubled_row_is_refused_even_when_nobody_says_what_to_expect(run: Run) -> None:
    with pytest.raises(ArtifactError, match="twice"):
        begin(run, ["a"], ["a"]).commit()


def test_a_flipped_byte_never_changes_a_value_in_silence(run: Run) -> None:
    begin(run, [f"l{number}" for number in range(40)]).commit()
    artifact, path = seed_of(run), data_files(run)[0]
    good, content = artifact.read(), path.read_bytes()
    footer = len(content) - 8 - int.from_bytes(content[-8:-4], "little")
    noticed = 0
    for place in range(0, len(content), 5):
        flipped = bytearray(content)
        flipped[place] ^= 0x55
        path.write_bytes(bytes(flipped))
        try:
            read = artifact.read()
        except ArtifactError:
            noticed += 1
            continue
        # The footer has no checksum: a column may be renamed, which no reader survives unnoticed.
        assert read.equals(good) or (place >= footer and read.schema != good.schema)
    assert noticed > len(content) / 5 / 2


def test_a_missing_or_cut_file_is_an_artifact_error(run: Run) -> None:
    attempt = begin(run, ["a"], ["b"])
    attempt.write_json("metrics.json", [1])
    attempt.commit()
    first, second = data_files(run)
    second.write_bytes(second.read_bytes()[:-3])
    with pytest.raises(ArtifactError, match=r"missing or corrupt"):
        seed_of(run).read()
    first.unlink()
    with pytest.raises(ArtifactError, match=first.name):
        seed_of(run).read()
    Path(run.path(NAME, "files", attempt.name, "metrics.json")).write_bytes(b"[2]")
    with pytest.raises(ArtifactError, match=r"metrics\.json is missing or corrupt"):
        seed_of(run).read_json("metrics.json")
    with pytest.raises(ArtifactError, match="holds no file 'other'"):
        seed_of(run).read_json("other")


def test_a_corrupt_row_file_stops_the_commit(run: Run) -> None:
    attempt = begin(run, ["a"])
    data_files(run)[0].write_bytes(b"not parquet")
    with pytest.raises(ArtifactError, match="corrupt"):
        attempt.commit()
    assert seed_of(run).commit() is None


def test_an_interrupted_attempts_whole_files_are_used_and_its_cut_ones_are_not(run: Run) -> None:
    begin(run, ["a", "b"], ["c"])
    whole, cut = data_files(run)
    cut.write_bytes(cut.read_bytes()[:-20])
    attempt = begin(run)
    salvaged = attempt.salvage()
    assert [Path(receipt.file.path).name for receipt in salvaged] == [whole.name]
    assert salvaged_ids(salvaged) == {"a", "b"}
    attempt.write(SEED.from_rows([seeded("c")]))
    attempt.commit(expected=["a", "b", "c"], receipts=salvaged)
    assert ids_of(seed_of(run)) == ["a", "b", "c"]


def test_quarantined_rows_of_an_interrupted_attempt_are_salvaged_too(run: Run) -> None:
    begin(run).write(QUARANTINE.from_rows([refused("a")]), kind="quarantine")
    attempt = begin(run, ["b"])
    salvaged = attempt.salvage()
    assert salvaged_ids(salvaged) == {"a"}
    made = attempt.commit(expected=["a", "b"], receipts=salvaged)
    assert (made.rows, made.quarantined) == (1, 1)


def test_files_of_another_fingerprint_are_never_salvaged(run: Run) -> None:
    begin(run, ["a"], fingerprint={**SETTINGS, "lora.rank": 16})
    assert begin(run).salvage() == []


def test_a_row_that_two_interrupted_attempts_made_is_salvaged_once(run: Run) -> None:
    begin(run, ["a"], ["b", "c"])
    begin(run, ["c"], ["d"])
    attempt = begin(run)
    salvaged = attempt.salvage()
    missing = {"a", "b", "c", "d"} - salvaged_ids(salvaged)
    for listing_id in missing:
        attempt.write(SEED.from_rows([seeded(listing_id)]))
    attempt.commit(expected=["a", "b", "c", "d"], receipts=salvaged)
    assert ids_of(seed_of(run)) == ["a", "b", "c", "d"]


def test_what_one_attempt_refused_and_another_made_is_salvaged_once(run: Run) -> None:
    begin(run).write(QUARANTINE.from_rows([refused("a")]), kind="quarantine")
    begin(run, ["a"])
    attempt = begin(run)
    made = attempt.commit(expected=["a"], receipts=attempt.salvage())
    assert (made.rows, made.quarantined) == (1, 0)


def test_a_leftover_file_that_is_no_table_of_the_artifact_is_not_salvaged(run: Run) -> None:
    interrupted = begin(run)
    pq.write_table(pa.table({"other": [1]}), f"{interrupted.directory()}/foreign.parquet")
    assert begin(run).salvage() == []


@pytest.mark.parametrize("kind", [OBJECT, TENSOR_V2])
def test_a_runs_own_file_that_names_an_extension_type_is_not_read(
    run: Run, tmp_path: Path, kind: str
) -> None:
    attempt = begin(run, ["a", "b"])
    made = attempt.commit(expected=["a", "b"])
    (path,) = seed_of(run).paths()
    add_column(Path(path), "note", hostile(tmp_path / "ran", 2, kind))
    content = Path(path).read_bytes()  # whoever did that may have changed the manifest too
    (file,) = made.files
    file = replace(file, size=len(content), sha256=hashlib.sha256(content).hexdigest())
    run.replace(f"{NAME}/{COMMIT}", encode(replace(made, files=(file,))))
    for columns in (None, ["listing_id"]):
        with pytest.raises(ArtifactError, match=rf"'note' is of the extension type '{kind}'"):
            seed_of(run).read(columns)
    assert attempt.inspect(path, "data") is None
    assert not (tmp_path / "ran").exists()


def test_a_zombies_file_is_never_read(run: Run) -> None:
    zombie = begin(run, ["z"])
    attempt = begin(run, ["a"])
    attempt.commit(expected=["a"])
    zombie.write(SEED.from_rows([seeded("y")]))
    attempt.write(SEED.from_rows([seeded("x")]))
    assert len(data_files(run)) == 4
    assert ids_of(seed_of(run)) == ["a"]


def test_drift_names_the_keys_and_both_values(run: Run) -> None:
    begin(run, ["a"]).commit()
    asked = {"lora.rank": 16, "splits": ("pool",), "template": "v2"}
    with pytest.raises(ConfigDriftError) as raised:
        seed_of(run).matching(asked)
    message = str(raised.value)
    assert f"{NAME} was made with other settings" in message
    assert "lora.rank: 32 -> 16" in message
    assert "template: 'absent' -> 'v2'" in message
    assert "splits" not in message
    assert "run.name" in message


def test_a_tuple_in_a_fingerprint_equals_the_list_that_json_gives_back(run: Run) -> None:
    made = begin(run, ["a"], fingerprint={"targets": ("q_proj", "v_proj")}).commit()
    assert seed_of(run).matching({"targets": ("q_proj", "v_proj")}) == made


def test_committed_makes_an_artifact_once(run: Run) -> None:
    made: list[str] = []

    def make(attempt: Attempt) -> Commit:
        made.append(attempt.name)
        attempt.write(SEED.from_rows([seeded("a")]))
        return attempt.commit()

    first = committed(run.artifact(NAME, SEED), SETTINGS, make)
    again = committed(run.artifact(NAME, SEED), SETTINGS, make)
    assert first == again
    assert (again.reused, len(made)) == (True, 1)
    with pytest.raises(ConfigDriftError):
        committed(run.artifact(NAME, SEED), {}, make)


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"3", b"{}", b'{"files": [3]}', b'{"files": [{"path": 1}]}', b"\xff"],
)
def test_an_unreadable_manifest_is_an_artifact_error(run: Run, content: bytes) -> None:
    run.create(f"{NAME}/{COMMIT}", content)
    with pytest.raises(ArtifactError, match=f"{NAME}/{COMMIT} is unreadable"):
        seed_of(run).commit()


def test_a_manifest_of_a_newer_layout_is_an_artifact_error(run: Run) -> None:
    begin(run, ["a"]).commit()
    values = json.loads(run.read(f"{NAME}/{COMMIT}") or b"")
    run.replace(f"{NAME}/{COMMIT}", json.dumps({**values, "new_key": 1}).encode())
    with pytest.raises(ArtifactError, match="is unreadable"):
        seed_of(run).commit()


@pytest.mark.parametrize("name", ["a b", "ünïcode – 名前", "per%20cent", "hash#query?", "a+b&c=d"])
def test_a_run_may_have_any_path(tmp_path: Path, name: str) -> None:
    run = Run(str(tmp_path / name))
    attempt = begin(run, ["a"])
    attempt.write_json("metrics.json", {})
    attempt.commit(expected=["a"])
    assert (tmp_path / name / NAME / COMMIT).is_file()
    assert ids_of(seed_of(run)) == ["a"]
    assert not Run(run.location).create(f"{NAME}/{COMMIT}", b"")


def test_a_run_travels_to_another_process(run: Run) -> None:
    begin(run, ["a"]).commit()
    run.create("warm", b"")  # the store behind a run is made on first use and must not travel
    travelled = pickle.loads(pickle.dumps(run))
    assert travelled.location == run.location
    assert ids_of(travelled.artifact(NAME, SEED)) == ["a"]


def test_a_relative_location_means_the_same_directory_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run = Run("runs/own")
    monkeypatch.chdir("/")
    run.create("file", b"here")
    assert (tmp_path / "runs/own/file").read_bytes() == b"here"


def test_an_empty_artifact_reads_as_no_rows_of_its_table(run: Run) -> None:
    begin(run).commit(expected=[])
    assert seed_of(run).read().schema == SEED.schema
    assert seed_of(run).read(["listing_id"]).column_names == ["listing_id"]
    assert seed_of(run).read(kind="quarantine").schema == QUARANTINE.schema


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


def folder(path: Path) -> None:
    path.mkdir()


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
