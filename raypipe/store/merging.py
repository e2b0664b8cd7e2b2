"""The files that attempts have written for an artifact, merged into one and committed.

Each of them holds the rows of a few ids; a task that ran twice, or an interrupted attempt, may have
written those of an id twice.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raypipe.errors import ArtifactError
from raypipe.schemas import QUARANTINE
from raypipe.store.artifacts import Attempt
from raypipe.store.data_files import DataFile, read_written
from raypipe.store.id_hashes import Hashes, hash_ids, order
from raypipe.store.manifest import Commit
from raypipe.store.read_ahead import read_ahead


@dataclass(frozen=True)
class MergedRows:
    """The rows of an artifact and those refused, of every id once, and the files they lie in."""

    rows: pa.Table
    refused: pa.Table
    files: tuple[str, ...]

    def ids(self) -> pa.Array:
        """Each once."""
        own = pc.unique(self.rows.column(0))
        return pa.concat_arrays([own, pc.unique(self.refused.column("id"))])


def read_merged(
    attempt: Attempt, counts: Callable[[pa.Table], pa.Array] | None = None
) -> MergedRows:
    """Read what attempts with this fingerprint have written. Of two files with rows of an id the
    first counts, and rows before refusals; files that are cut short or changed do not.

    Args:
        counts: which quarantine rows do; None for all.

    Raises:
        StorageError: the storage cannot be reached.
    """
    artifact = attempt.artifact
    contracts = {"data": artifact.table, "quarantine": QUARANTINE}
    held = {kind: [table.schema.empty_table()] for kind, table in contracts.items() if table}
    files = attempt.leftovers()
    seen: set[str] = set()

    def reads() -> Any:
        for path, kind in files:
            contract = contracts[kind]
            assert contract is not None
            yield 0, lambda path=path, contract=contract: read_written(artifact.run, contract, path)

    for (_, kind), rows in zip(files, read_ahead(reads()), strict=True):
        if rows is None:
            continue
        if kind == "quarantine" and counts is not None:
            rows = rows.filter(counts(rows))
        ids = rows.column(0).to_pylist()
        new = set(ids) - seen
        if len(new) < len(set(ids)):
            rows = rows.filter(pa.array([name in new for name in ids], pa.bool_()))
        held[kind].append(rows)
        seen |= new
    root = f"{artifact.run.root}/"
    return MergedRows(
        pa.concat_tables(held["data"]),
        pa.concat_tables(held["quarantine"]),
        tuple(path.removeprefix(root) for path, _ in files),
    )


def rewrite(attempt: Attempt, merged: MergedRows) -> list[DataFile]:
    """Write merged rows as one file of each kind and delete the files they lay in; returns those
    written."""
    written = _stored(attempt, merged)
    attempt.artifact.run.delete(merged.files)
    return written


def commit_merged(
    attempt: Attempt, expected: Hashes, counts: Callable[[pa.Table], Mapping[str, Any]]
) -> Commit:
    """Merge what was written and commit it; the existing commit of a task that runs again.

    Args:
        attempt: of the artifact.
        expected: sorted hashes of the ids that went in; each must have come out once.
        counts: stored in the manifest, from the rows.

    Raises:
        ArtifactError: ids are lost or unknown.
    """
    artifact = attempt.artifact
    commit = artifact.commit()
    if commit is not None:
        return commit
    merged = read_merged(attempt)
    check_hashes(artifact.name, merged.ids(), expected)
    commit = attempt.commit(written=_stored(attempt, merged), counts=counts(merged.rows))
    # Of two tasks that commit at once one has lost, and the files of the other may be among those.
    named = {f"{artifact.name}/{file.path}" for file in commit.files}
    artifact.run.delete([path for path in merged.files if path not in named])
    return commit


def _stored(attempt: Attempt, merged: MergedRows) -> list[DataFile]:
    written = []
    if len(merged.rows):
        written.append(attempt.store(merged.rows))
    if len(merged.refused):
        written.append(attempt.store(merged.refused, "quarantine"))
    return written


def check_hashes(name: str, ids: pa.Array, expected: Hashes) -> None:
    """Check that ids are those expected, by their sorted hashes. Raises ArtifactError."""
    found = hash_ids(ids)
    places = order(found)
    if np.array_equal(found[places], expected):
        return
    known = np.isin(found.view("S16"), expected.view("S16"))
    strangers = ids.filter(pa.array(~known))
    lost = len(expected) - int(known.sum())
    first = f" (first: {pc.min(strangers)})" if len(strangers) else ""
    raise ArtifactError(f"{name}: {lost} listings lost, {len(strangers)} unknown{first}")
