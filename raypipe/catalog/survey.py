"""What the shards of a catalog hold: their listings by vertical, and the hashes of their ids.

A survey lies in two files beside each other, named by the key of its shard, and is made once:

    surveys/<key>.ids     sorted hashes of the ids, 16 bytes each
    surveys/<key>.json    how many listings there are of which vertical

No id may be in two shards. What has changed since that was last looked at is compared with all
others, range by range, on the cluster.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pyarrow.fs as pafs

from raypipe.catalog.distributed import CatalogReader
from raypipe.catalog.shards import SourceShard
from raypipe.errors import ArtifactError, InputError
from raypipe.runtime.progress import reported
from raypipe.runtime.tasks import run_tasks
from raypipe.security.identifiers import bounded
from raypipe.store.artifacts import Run
from raypipe.store.id_hashes import (
    HASH,
    HASH_BYTES,
    Hashes,
    hash_ids,
    joined,
    order,
    repeated,
    shared,
    within,
)
from raypipe.store.paths import SURVEYS
from raypipe.store.read_ahead import read_ahead

_MOST_VERTICALS = 1024
_RANGE_BYTES = 64 << 20
_FILES_PER_TASK = 256


@dataclass(frozen=True)
class ShardSurvey:
    """Of one shard: how many listings it has, and how many of verticals that are known."""

    listings: int
    verticals: Mapping[str, int]

    def queries(self, attributes: Mapping[str, int]) -> int:
        """How many queries its listings have.

        Args:
            attributes: their number by vertical.
        """
        return sum(attributes.get(name, 0) * count for name, count in self.verticals.items())


def make_surveys(run: Run, reader: CatalogReader, shards: Sequence[SourceShard]) -> None:
    """Make the surveys of shards that are not there yet, on the cluster.

    Raises:
        InputError: an id is twice in a shard, or a corrupt file.
    """
    known = surveyed(run)
    missing = [shard for shard in shards if shard.key not in known]
    done = 0
    with reported(lambda: f"looked through {done:,} of {len(missing):,} shards"):
        for _ in run_tasks(partial(_survey, run, reader), missing, fewest=1):
            done += 1


def read_surveys(
    run: Run, keys: Sequence[str], verticals: Collection[str]
) -> dict[str, ShardSurvey]:
    """The surveys of shards, by key. Raises ArtifactError for one that is missing or corrupt.

    Args:
        verticals: those to count; strangers' files may have any number of others.
    """
    reads = [(0, partial(_read_survey, run, key, frozenset(verticals))) for key in keys]
    return dict(zip(keys, read_ahead(reads), strict=True))


def surveyed(run: Run) -> frozenset[str]:
    """The keys of shards of which there is a survey, from one listing."""
    infos = run.look(pafs.FileSelector(run.path(SURVEYS), allow_not_found=True))
    names = (info.base_name for info in infos)
    return frozenset(name.removesuffix(".json") for name in names if name.endswith(".json"))


def id_hashes(run: Run, key: str) -> Hashes:
    """The sorted hashes of the ids of a shard. Raises ArtifactError if they are missing or not
    what was written."""
    path, values = f"{SURVEYS}/{key}.ids", _read_document(run, key)
    content = run.read(path)
    if content is None or hashlib.sha256(content).hexdigest() != values["sha256"]:
        raise _damaged(run, key)
    return np.frombuffer(content, HASH)


def compare(
    run: Run,
    reader: CatalogReader,
    changed: Sequence[SourceShard],
    others: Sequence[SourceShard],
    gone: Sequence[str] = (),
) -> dict[str, list[str]]:
    """Check that no id of a changed shard is in another one.

    Args:
        changed: surveyed shards that were compared with no other one yet.
        others: those that were compared with each other.
        gone: keys of shards that the catalog had before.

    Returns:
        Which of the shards that are gone hold ids of which changed one.

    Raises:
        InputError: an id is in two shards.
    """
    if not changed:
        return {}
    ranges = max(1, -(-sum(shard.rows for shard in changed) * HASH_BYTES // _RANGE_BYTES))
    names = [shard.key for shard in changed]
    compared: list[tuple[str, bool]] = [(shard.key, False) for shard in others]
    compared += [(key, True) for key in gone]
    groups = [
        compared[at : at + _FILES_PER_TASK] for at in range(0, len(compared), _FILES_PER_TASK)
    ]
    work = [(number, group) for number in range(ranges) for group in ([], *groups)]
    held: dict[str, dict[str, None]] = {}
    for found in run_tasks(partial(_compare, run, names, ranges), work):
        if found.doubled:
            _name_doubled(reader, [*changed, *others], found.doubled)
        for one, other in found.moved:
            held.setdefault(one, {})[other] = None
    return {key: list(others) for key, others in held.items()}


@dataclass(frozen=True)
class _Compared:
    """A hash that two shards share, and pairs of a changed shard and one that is gone."""

    doubled: tuple[bytes, str, str] | None
    moved: tuple[tuple[str, str], ...]


def _compare(
    run: Run, changed: Sequence[str], ranges: int, work: tuple[int, Sequence[tuple[str, bool]]]
) -> _Compared:
    """One range of the hashes of changed shards against each other, or against those of others."""
    number, others = work
    own = list(_ranges(run, changed, number, ranges))
    owners = np.repeat(np.arange(len(own)), [len(one) for one in own])
    hashes = joined(own)
    places = order(hashes)
    hashes, owners = hashes[places], owners[places]
    if not others:
        same = np.flatnonzero(hashes[1:] == hashes[:-1])
        if not len(same):
            return _Compared(None, ())
        one, other = (changed[owners[place]] for place in (same[0], same[0] + 1))
        return _Compared((hashes[same[0]].tobytes(), one, other), ())
    moved: list[tuple[str, str]] = []
    high = hashes["high"].astype(np.uint64)
    read = _ranges(run, [key for key, _ in others], number, ranges)
    for (key, is_gone), theirs in zip(others, read, strict=True):
        both = shared(theirs, hashes)
        if not len(both):
            continue
        at = np.searchsorted(high, both["high"].astype(np.uint64))
        found = [changed[index] for index in np.unique(owners[at])]
        if not is_gone:
            return _Compared((both[0].tobytes(), found[0], key), ())
        moved += [(one, key) for one in found]
    return _Compared(None, tuple(moved))


def _ranges(run: Run, keys: Sequence[str], number: int, ranges: int) -> Iterator[Hashes]:
    return read_ahead((0, partial(_range, run, key, number, ranges)) for key in keys)


def _range(run: Run, key: str, number: int, ranges: int) -> Hashes:
    """Of the hashes of a shard those in one of equal ranges."""
    path = f"{SURVEYS}/{key}.ids"
    if run.is_local:
        try:
            return within(np.memmap(run.path(path), HASH, "r"), number, ranges)
        except (OSError, ValueError) as error:  # empty, cut, or gone
            raise _damaged(run, key) from error
    return within(id_hashes(run, key), number, ranges)


def _survey(run: Run, reader: CatalogReader, shard: SourceShard) -> None:
    """Make the survey of a shard."""
    verticals: Counter[str] = Counter()
    hashes: list[Hashes] = []
    for piece in shard.pieces:
        for table in reader.names(piece):
            verticals.update(name for name in table.column("vertical").to_pylist() if name)
            hashes.append(hash_ids(table.column("listing_id")))
    found = joined(hashes)
    if len(repeated(found)):
        _name_doubled(reader, [shard], (found[repeated(found)[0]].tobytes(), shard.key, shard.key))
    content = found[order(found)].tobytes()
    values = {
        "listings": len(found),
        "verticals": dict(verticals.most_common(_MOST_VERTICALS)),
        "sha256": hashlib.sha256(content).hexdigest(),
    }
    run.replace(f"{SURVEYS}/{shard.key}.ids", content)
    run.replace(f"{SURVEYS}/{shard.key}.json", json.dumps(values, sort_keys=True).encode())


def _read_survey(run: Run, key: str, verticals: frozenset[str]) -> ShardSurvey:
    values = _read_document(run, key)
    counted = {name: values["verticals"][name] for name in verticals & values["verticals"].keys()}
    return ShardSurvey(values["listings"], counted)


def _read_document(run: Run, key: str) -> dict[str, Any]:
    values = run.read_json(f"{SURVEYS}/{key}.json", "delete it, and the same command writes it")
    if values is None or not {"listings", "verticals", "sha256"} <= set(values):
        raise _damaged(run, key)
    return values


def _damaged(run: Run, key: str) -> ArtifactError:
    return ArtifactError(
        f"{run.path(SURVEYS, key)} (.ids, .json) is missing or corrupt; delete both files, and the "
        "same command writes them again"
    )


def _name_doubled(
    reader: CatalogReader, shards: Sequence[SourceShard], doubled: tuple[bytes, str, str]
) -> None:
    """Raises InputError that names an id and where it is."""
    wanted, *keys = doubled
    places: list[str] = []
    name = ""
    for shard in shards:
        if shard.key not in keys:
            continue
        for piece in shard.pieces:
            for table in reader.names(piece):
                ids = table.column("listing_id").combine_chunks()
                for place in np.flatnonzero(hash_ids(ids).view("S16") == np.bytes_(wanted)):
                    name = str(ids[int(place)])
                    places.append(piece.path)
    if not places:
        raise InputError(
            "the catalog has changed while it was read; the same command reads it again"
        )
    files = sorted(set(places))[:2]
    where = f" ({', '.join(files)})" if len(files) > 1 else ""
    raise InputError(f"{files[-1]}: the listing_id '{bounded(name)}' is there twice{where}")
