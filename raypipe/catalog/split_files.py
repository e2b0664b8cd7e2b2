"""What becomes of prepared listings once their splits are known.

Files of pool listings stay as they are, but for those that hold a leak. The named listings are
written again with their split, those of many slices in one file. What was refused becomes files of
the quarantine.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa

from raypipe.catalog.listings import quarantine_rows
from raypipe.catalog.prepared_slices import (
    ListingFile,
    PreparedSlice,
    read_identities,
    read_record,
)
from raypipe.catalog.splits import Assignment
from raypipe.catalog.survey import id_hashes
from raypipe.errors import ArtifactError
from raypipe.runtime.tasks import run_tasks
from raypipe.schemas import LISTINGS, QUARANTINE, Split
from raypipe.store.artifacts import Attempt
from raypipe.store.data_files import DataFile
from raypipe.store.id_hashes import among, joined, order, repeated
from raypipe.store.quarantine import LEAKAGE, quarantine_row

_REFUSED_PER_FILE = 10_000
T = TypeVar("T")


@dataclass(frozen=True)
class SplitFiles:
    """The files to commit; those in ``replaced`` were written again, and may be deleted then."""

    files: tuple[ListingFile, ...]
    quarantine: tuple[DataFile, ...]
    replaced: tuple[str, ...]

    def written(self) -> list[DataFile]:
        """All files, for :meth:`Attempt.commit`."""
        return [*(DataFile(file.entry, file.digest) for file in self.files), *self.quarantine]

    def counts(self) -> dict[str, Any]:
        """Listings and queries by split, and images."""
        listings: Counter[str] = Counter()
        queries: Counter[str] = Counter()
        for file in self.files:
            listings.update(file.listings)
            queries.update(file.queries)
        images = sum(file.images for file in self.files)
        return {"listings": dict(listings), "queries": dict(queries), "images": images}


def check_slices(attempt: Attempt, slices: Sequence[PreparedSlice]) -> None:
    """Check that every listing of the surveyed shards is in their slices once: prepared, refused
    or not to be prepared.

    Raises:
        ArtifactError: a listing is lost, unknown or there twice.
    """
    shards: dict[str, list[PreparedSlice]] = {}
    for part in slices:
        shards.setdefault(part.shard, []).append(part)
    for _ in run_tasks(partial(_check_shard, attempt), list(shards.items())):
        pass


def write_splits(
    attempt: Attempt,
    slices: Sequence[PreparedSlice],
    assignment: Assignment,
    places: Mapping[str, str],
    rows_per_file: int,
) -> SplitFiles:
    """Write what changes, in tasks.

    Args:
        attempt: of the listings.
        slices: the whole catalog.
        assignment: of the named listings and of leaks.
        places: the file of every pool listing that leaks.
        rows_per_file: listings of a file.

    Raises:
        ArtifactError: a file is missing or corrupt, or a listing is lost.
    """
    leaking: dict[str, set[str]] = {}
    for listing_id in assignment.leaks.keys() & places.keys():
        leaking.setdefault(places[listing_id], set()).add(listing_id)
    pool = [file for part in slices for file in part.pool]
    kept = [file for file in pool if file.entry.path not in leaking]
    cut = [(file, leaking[file.entry.path]) for file in pool if file.entry.path in leaking]
    named = [file for part in slices for file in part.named_files]
    groups = list(_grouped(named, lambda file: file.entry.rows or 0, rows_per_file))
    kept += [file for file in run_tasks(partial(_drop, attempt), cut) if file is not None]
    for files in run_tasks(partial(_place, attempt, assignment.splits), groups):
        kept += files
    before = sum(part.listings for part in slices)
    after = sum(file.entry.rows or 0 for file in kept)
    if before != after + len(assignment.leaks):
        lost = before - after - len(assignment.leaks)
        raise ArtifactError(f"{attempt.artifact.name}: {lost} of {before:,} listings are lost")
    return SplitFiles(
        tuple(kept),
        tuple(_quarantine(attempt, slices, assignment.leaks)),
        tuple(file.entry.path for file in (*(file for file, _ in cut), *named)),
    )


def _drop(attempt: Attempt, item: tuple[ListingFile, set[str]]) -> ListingFile | None:
    """A file of pool listings without some of them."""
    file, leaks = item
    rows = attempt.artifact.rows_of(file.entry)
    names = rows.column("listing_id").to_pylist()
    rows = rows.filter(pa.array([name not in leaks for name in names], pa.bool_()))
    return ListingFile.of(attempt.store(rows), rows) if len(rows) else None


def _place(
    attempt: Attempt, splits: Mapping[str, Split], files: Sequence[ListingFile]
) -> list[ListingFile]:
    """Files of named listings as one, with the split of each; without those that leak."""
    found = []
    column = LISTINGS.schema.get_field_index("split")
    for file in files:
        rows = attempt.artifact.rows_of(file.entry)
        names = rows.column("listing_id").to_pylist()
        chosen = pa.array([splits.get(name) for name in names], pa.string())
        rows = rows.set_column(column, "split", chosen)
        found.append(rows.filter(chosen.is_valid()))
    joined = pa.concat_tables(found)
    return [ListingFile.of(attempt.store(joined), joined)] if len(joined) else []


def _quarantine(
    attempt: Attempt, slices: Sequence[PreparedSlice], leaks: Mapping[str, str]
) -> Iterator[DataFile]:
    """Write what was refused when it was prepared, and then the leaks."""
    refusing = [part for part in slices if part.refusals.total]
    groups = _grouped(refusing, lambda part: part.refusals.total, _REFUSED_PER_FILE)
    yield from run_tasks(partial(_refuse, attempt), list(groups))
    rows = [
        quarantine_row(listing_id, "prepare", LEAKAGE, detail)
        for listing_id, detail in sorted(leaks.items())
    ]
    if rows:
        yield attempt.store(QUARANTINE.from_rows(rows), "quarantine")


def _refuse(attempt: Attempt, slices: Sequence[PreparedSlice]) -> DataFile:
    """The refused listings of some slices as a file."""
    rows: list[dict[str, object]] = []
    for part in slices:
        record = read_record(attempt, part.key)
        refused = () if record is None else record.refused
        if len(refused) != part.refusals.total:
            raise ArtifactError(f"{attempt.artifact.name}: the record of {part.key} has changed")
        rows += quarantine_rows(refused)
    file = attempt.store(QUARANTINE.from_rows(rows), "quarantine")
    return DataFile(file.entry, file.digest)


def _check_shard(attempt: Attempt, item: tuple[str, Sequence[PreparedSlice]]) -> None:
    key, slices = item
    expected = id_hashes(attempt.artifact.run, key)
    found = joined([read_identities(attempt, part).ids() for part in slices])
    found = found[order(found)]
    if not np.array_equal(found, expected):
        lost = int((~among(expected, found)).sum())
        unknown = int((~among(found, expected)).sum())
        raise ArtifactError(
            f"{attempt.artifact.name}: of {len(expected):,} listings of a shard {lost:,} are lost, "
            f"{unknown:,} unknown, {len(repeated(found)):,} there twice"
        )


def _grouped(items: Iterable[T], size: Callable[[T], int], most: int) -> Iterator[list[T]]:
    """Items in groups of at most so much together, or of one."""
    group: list[T] = []
    held = 0
    for item in items:
        if group and held + size(item) > most:
            yield group
            group, held = [], 0
        group.append(item)
        held += size(item)
    if group:
        yield group
