"""Small files merged into one and committed, whatever was written twice."""

from collections.abc import Sequence

import pyarrow as pa
import pytest

from raypipe.errors import ArtifactError
from raypipe.schemas import QUARANTINE, SEED
from raypipe.store.artifacts import Attempt, Run
from raypipe.store.id_hashes import Hashes, hash_ids, order
from raypipe.store.merging import commit_merged, read_merged, rewrite
from raypipe.store.quarantine import NO_IMAGE, quarantine_row

NAME = "labels/shards/key"


def begin(run: Run) -> Attempt:
    return run.artifact(NAME, SEED).attempt({"part": "key"})


def rows(names: Sequence[str]) -> pa.Table:
    return SEED.from_rows([{"listing_id": name, "answers": []} for name in names])


def refuse(attempt: Attempt, *names: str) -> None:
    refused = [quarantine_row(name, "prepare", NO_IMAGE, "none") for name in names]
    attempt.store_piece(QUARANTINE.from_rows(refused), "quarantine")


def expected(names: Sequence[str]) -> Hashes:
    hashes = hash_ids(pa.array(names))
    return hashes[order(hashes)]


def ids(run: Run) -> list[str]:
    return sorted(run.artifact(NAME, SEED).read(["listing_id"]).column(0).to_pylist())


def test_a_commit_that_runs_again_keeps_the_files_of_the_first(run: Run) -> None:
    begin(run).store_piece(rows(["a", "b"]))
    begin(run).store_piece(rows(["c"]))
    first = commit_merged(begin(run), expected("abc"), lambda table: {"rows": len(table)})
    again = commit_merged(begin(run), expected("abc"), lambda table: {"rows": len(table)})
    assert again.digest == first.digest
    assert ids(run) == ["a", "b", "c"]
    assert len(first.files) == 1


def test_two_commits_at_once_leave_the_files_of_the_one_that_won(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin(run).store_piece(rows(["a", "b"]))
    committed = commit_merged(begin(run), expected("ab"), lambda _: {})
    late = begin(run)
    calls = iter([None])
    look = late.artifact.commit
    monkeypatch.setattr(late.artifact, "commit", lambda: next(calls, look()))
    assert commit_merged(late, expected("ab"), lambda _: {}).digest == committed.digest
    assert ids(run) == ["a", "b"]


def test_what_was_written_twice_counts_once_and_rows_before_refusals(run: Run) -> None:
    begin(run).store_piece(rows(["a", "b"]))
    begin(run).store_piece(rows(["b", "c"]))
    refuse(begin(run), "c", "d")
    commit = commit_merged(begin(run), expected("abcd"), lambda _: {})
    assert (ids(run), commit.rows, commit.quarantined) == (["a", "b", "c"], 3, 1)


def test_what_is_not_to_count_is_left_out_and_the_rest_stays_readable(run: Run) -> None:
    begin(run).store_piece(rows(["a"]))
    refuse(begin(run), "b")
    attempt = begin(run)
    merged = read_merged(attempt, lambda refused: pa.array([False] * len(refused)))
    rewrite(attempt, merged)
    assert read_merged(begin(run)).ids().to_pylist() == ["a"]


@pytest.mark.parametrize(("asked", "fault"), [("ab", "1 listings lost, 0"), ("", "0 .*1 unknown")])
def test_lost_and_unknown_ids_are_refused(run: Run, asked: str, fault: str) -> None:
    begin(run).store_piece(rows(["a"]))
    with pytest.raises(ArtifactError, match=fault):
        commit_merged(
            begin(run),
            expected(list(asked)) if asked else hash_ids(pa.array([], pa.string())),
            lambda _: {},
        )
    assert run.artifact(NAME).commit() is None
