"""What an interrupted attempt left is used when it is whole."""

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raypipe.errors import ArtifactError
from raypipe.schemas import QUARANTINE, SEED
from raypipe.store.artifacts import Run
from raypipe.store.data_files import DataFile
from raypipe.store.manifest import COMMIT, encode
from tests.fakes.pickle_payloads import OBJECT, TENSOR_V2, add_column, hostile
from tests.fakes.seed_artifacts import (
    NAME,
    SETTINGS,
    begin,
    data_files,
    ids_of,
    refused,
    seed_of,
    seeded,
)


def salvaged_ids(written: Sequence[DataFile]) -> set[str]:
    return {listing_id for file in written for listing_id in file.ids.to_pylist()}


def test_an_interrupted_attempts_whole_files_are_used_and_its_cut_ones_are_not(run: Run) -> None:
    begin(run, ["a", "b"], ["c"])
    whole, cut = data_files(run)
    cut.write_bytes(cut.read_bytes()[:-20])
    attempt = begin(run)
    salvaged = attempt.salvage()
    assert [Path(file.entry.path).name for file in salvaged] == [whole.name]
    assert salvaged_ids(salvaged) == {"a", "b"}
    attempt.write(SEED.from_rows([seeded("c")]))
    attempt.commit(expected=["a", "b", "c"], written=salvaged)
    assert ids_of(seed_of(run)) == ["a", "b", "c"]


def test_quarantined_rows_of_an_interrupted_attempt_are_salvaged_too(run: Run) -> None:
    begin(run).write(QUARANTINE.from_rows([refused("a")]), kind="quarantine")
    attempt = begin(run, ["b"])
    salvaged = attempt.salvage()
    assert salvaged_ids(salvaged) == {"a"}
    made = attempt.commit(expected=["a", "b"], written=salvaged)
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
    attempt.commit(expected=["a", "b", "c", "d"], written=salvaged)
    assert ids_of(seed_of(run)) == ["a", "b", "c", "d"]


def test_what_one_attempt_refused_and_another_made_is_salvaged_once(run: Run) -> None:
    begin(run).write(QUARANTINE.from_rows([refused("a")]), kind="quarantine")
    begin(run, ["a"])
    attempt = begin(run)
    made = attempt.commit(expected=["a"], written=attempt.salvage())
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
