"""The relatives of annotated and verified listings, found among all prepared ones.

Only their families can hold a leak. They are few: what they share is looked for in the hashes of
every slice, then what those found there share, until nothing is added.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import pyarrow as pa

from raypipe.catalog.prepared_slices import PreparedSlice, read_identities
from raypipe.catalog.splits import Member, tie_hashes
from raypipe.runtime.tasks import run_tasks
from raypipe.store.artifacts import Attempt
from raypipe.store.id_hashes import HASH, Hashes, among, hash_ids

_SLICES_PER_TASK = 32
_COLUMNS = ["listing_id", "group_id", "image_hashes"]


@dataclass(frozen=True)
class Relatives:
    """Pool listings of the families of named ones, by id, and the file that each is in."""

    members: Mapping[str, Member]
    files: Mapping[str, str]


def find_relatives(
    attempt: Attempt, slices: Sequence[PreparedSlice], named: Iterable[Member]
) -> Relatives:
    """Find them, in tasks over some slices each.

    Args:
        attempt: of the listings.
        slices: the whole catalog.
        named: the annotated and the verified listings.

    Raises:
        ArtifactError: what a slice holds is missing or corrupt.
    """
    members: dict[str, Member] = {}
    files: dict[str, str] = {}
    groups = [slices[at : at + _SLICES_PER_TASK] for at in range(0, len(slices), _SLICES_PER_TASK)]
    new = _ties(named)
    seen = set(new)
    while new:
        found: dict[str, Member] = {}
        for relatives in run_tasks(partial(_sharing, attempt, _sorted(new)), groups):
            for member, path in relatives:
                if member.listing_id not in members:
                    found[member.listing_id] = member
                    files[member.listing_id] = path
        members |= found
        new = _ties(found.values()) - seen
        seen |= new
    return Relatives(members, files)


def _ties(members: Iterable[Member]) -> set[bytes]:
    return {tie for one in members for tie in tie_hashes(one.group_id, one.image_hashes)}


def _sorted(ties: Iterable[bytes]) -> Hashes:
    return np.frombuffer(b"".join(sorted(ties)), HASH)


def _sharing(
    attempt: Attempt, ties: Hashes, slices: Sequence[PreparedSlice]
) -> list[tuple[Member, str]]:
    """The pool listings of some slices that have one of the ties, and their files."""
    return [found for part in slices for found in _sharing_in(attempt, ties, part)]


def _sharing_in(
    attempt: Attempt, ties: Hashes, part: PreparedSlice
) -> Iterator[tuple[Member, str]]:
    wanted, places = read_identities(attempt, part).sharing(ties)
    for place in sorted(places):
        file = part.pool[place].entry
        rows = attempt.artifact.rows_of(file, _COLUMNS)
        is_wanted = among(hash_ids(rows.column("listing_id")), wanted)
        for row in rows.filter(pa.array(is_wanted)).to_pylist():
            images = tuple(row["image_hashes"])
            yield Member(row["listing_id"], "pool", row["group_id"], images), file.path
