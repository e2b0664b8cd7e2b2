"""Prepares the listings of a catalog, of any size, on all nodes.

    shards → survey, compare ids → choose the pool → prepare slices → relatives of named listings
    → splits → write what changes → commit

The driver holds the named listings (of seed and truth), those of their families, and counts.
"""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pyarrow.fs as pafs

from raypipe.catalog.distributed import SourceReader
from raypipe.catalog.pool import PoolChoice
from raypipe.catalog.prepared import RefusalCounts
from raypipe.catalog.prepared_slices import (
    NamedListing,
    PreparedSlice,
    PrepareSlice,
    slices_of,
)
from raypipe.catalog.relatives import Relatives, find_relatives
from raypipe.catalog.shards import SourceShard
from raypipe.catalog.split_files import SplitFiles, check_slices, write_splits
from raypipe.catalog.splits import Assignment, Member, Role
from raypipe.catalog.survey import compare, id_hashes, make_surveys
from raypipe.errors import InputError
from raypipe.runtime.progress import reported
from raypipe.runtime.tasks import run_tasks
from raypipe.store.artifacts import Attempt, Run
from raypipe.store.id_hashes import Hashes, hash_texts, joined, order, shared
from raypipe.store.manifest import Commit
from raypipe.store.paths import ATTRIBUTE_SCHEMA

_SHARDS_PER_TASK = 16


def survey_listings(run: Run, reader: SourceReader, shards: Sequence[SourceShard]) -> None:
    """Look through all ids. Raises InputError when there are none, or one is there twice."""
    if not shards:
        raise InputError(f"{reader.source.name} holds no listings")
    make_surveys(run, reader, shards)
    compare(run, reader, shards, [])


def absent_listings(
    run: Run, shards: Sequence[SourceShard], listing_ids: Collection[str]
) -> list[str]:
    """Of some ids, sorted, those that no surveyed shard has."""
    names = {hash_texts([name.encode()]).tobytes(): name for name in listing_ids}
    wanted = joined([hash_texts(name.encode() for name in listing_ids)])
    keys = [shard.key for shard in shards]
    groups = [keys[at : at + _SHARDS_PER_TASK] for at in range(0, len(keys), _SHARDS_PER_TASK)]
    for found in run_tasks(partial(_found, run, wanted[order(wanted)]), groups):
        for digest in found:
            names.pop(digest.tobytes(), None)
    return sorted(names.values())


def _found(run: Run, wanted: Hashes, keys: Sequence[str]) -> Hashes:
    return joined(shared(wanted, id_hashes(run, key)) for key in keys)


@dataclass(frozen=True)
class Preparation:
    """Surveyed listings that are to be prepared.

    Args:
        attempt: of the listings.
        reader: of the catalog.
        shards: the catalog.
        choice: the listings to prepare.
        total: how many these are.
    """

    attempt: Attempt
    reader: SourceReader
    shards: Sequence[SourceShard]
    choice: PoolChoice
    total: int

    def prepare(self) -> "PreparedCatalog":
        """Prepare every slice, or find it prepared by an interrupted attempt.

        Raises:
            QuarantineLimitError: as soon as more listings were refused than the configured share.
            ArtifactError: a listing is lost.
        """
        task = PrepareSlice(self.attempt, self.reader, self.choice, self.total)
        slices = [part for shard in self.shards for part in slices_of(shard)]
        found = PreparedCatalog(self)
        done = 0
        with reported(lambda: f"prepared {done:,} of {self.total:,} listings" if done else None):
            for part in run_tasks(task, slices):
                found.slices.append(part)
                found.refusals.update(part.refusals)
                self.check_refused(found.refusals)
                done += part.listings + part.refusals.total
        check_slices(self.attempt, found.slices)
        return found

    def check_refused(self, refusals: RefusalCounts) -> None:
        """Raise QuarantineLimitError when too many were refused."""
        refusals.check(self.total, self.reader.config.max_quarantined)


@dataclass
class PreparedCatalog:
    """Prepared listings whose splits are to be decided."""

    preparation: Preparation
    slices: list[PreparedSlice] = field(default_factory=list)
    refusals: RefusalCounts = field(default_factory=RefusalCounts)

    @property
    def named(self) -> dict[str, NamedListing]:
        """Listings of seed and truth that could be prepared, by id."""
        return {one.listing_id: one for part in self.slices for one in part.named}

    def members(self, roles: Mapping[str, Role]) -> list[Member]:
        """The named listings as members of families."""
        return [
            Member(name, roles[name], one.group_id, one.image_hashes)
            for name, one in self.named.items()
        ]

    def relatives(self, members: Sequence[Member]) -> Relatives:
        """Pool listings of their families."""
        return find_relatives(self.preparation.attempt, self.slices, members)

    def commit(self, assignment: Assignment, relatives: Relatives, **counts: Any) -> Commit:
        """Write what the splits change, commit all, and delete what was kept for that.

        Args:
            assignment: of the named listings and their relatives; its leaks are refused.
            counts: stored in addition.
        """
        attempt, reader = self.preparation.attempt, self.preparation.reader
        split_files = write_splits(
            attempt, self.slices, assignment, relatives.files, reader.config.rows_per_file
        )
        attempt.write_json(ATTRIBUTE_SCHEMA, reader.schema.to_json())
        skipped: Counter[str] = Counter()
        for part in self.slices:
            skipped.update(part.skipped)
        found = {"images_skipped": dict(skipped), "refused": dict(self.refusals.reasons)}
        commit = attempt.commit(
            written=split_files.written(), counts=split_files.counts() | found | counts
        )
        _clean(attempt, split_files)
        return commit


def _clean(attempt: Attempt, split_files: SplitFiles) -> None:
    """Delete files that were written again, and how far the attempt was."""
    run, name = attempt.artifact.run, attempt.artifact.name
    selector = pafs.FileSelector(run.path(attempt.progress()), allow_not_found=True)
    root = f"{run.root}/"
    noted = [info.path.removeprefix(root) for info in run.look(selector) if info.is_file]
    run.delete([*noted, *(f"{name}/{path}" for path in split_files.replaced)])
