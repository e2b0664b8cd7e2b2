"""Slices of a catalog, each prepared by one task and found again after a kill.

    rows of a slice → prepared → files of pool rows, files of named rows → identities → record

Named listings are those of the seed and the truth: their final split is not known yet. The record
is written last and names everything else, so a slice that has one is done. Refused listings wait in
it: the next attempt tries again those whose images could not be used.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import TypeAdapter, ValidationError

from raypipe.catalog.distributed import SourceReader
from raypipe.catalog.identities import Identities, is_named_by
from raypipe.catalog.listings import PreparedListing, RefusedListing
from raypipe.catalog.pool import PoolChoice
from raypipe.catalog.prepared import RefusalCounts, prepare_batches
from raypipe.catalog.shards import READ_ROWS, Piece, SourceShard
from raypipe.catalog.sources import ROWS_PER_BATCH
from raypipe.catalog.splits import tie_hashes
from raypipe.errors import ArtifactError
from raypipe.schemas import LISTINGS
from raypipe.store.artifacts import Attempt
from raypipe.store.checksums import measure_file
from raypipe.store.data_files import DataFile
from raypipe.store.manifest import File
from raypipe.store.quarantine import BROKEN_IMAGE, NO_IMAGE

SLICE_ROWS = READ_ROWS
_COLUMNS = ("listing_id", "vertical", "images", "group_id", "seller_values")
_NAMED = -1
# Another try may find what these listings lacked: a host may have been away, a file be there now.
_TRIED_AGAIN = (NO_IMAGE, BROKEN_IMAGE)


@dataclass(frozen=True)
class SourceSlice:
    """About a thousand listings of a shard."""

    key: str
    shard: str
    pieces: tuple[Piece, ...]


def slices_of(shard: SourceShard) -> list[SourceSlice]:
    """The slices of a shard, in its order."""
    held: list[list[Piece]] = [[]]
    for piece in (part for whole in shard.pieces for part in whole.slices(SLICE_ROWS)):
        if held[-1] and sum(one.rows for one in held[-1]) + piece.rows > SLICE_ROWS:
            held.append([])
        held[-1].append(piece)
    slices: list[SourceSlice] = []
    first = 0
    for pieces in filter(None, held):
        rows = sum(piece.rows for piece in pieces)
        slices.append(SourceSlice(f"{shard.key}-{first}-{rows}", shard.key, tuple(pieces)))
        first += rows
    return slices


@dataclass(frozen=True)
class ListingFile:
    """A written file of listings: the digest of its rows, and what they hold.

    Args:
        listings: their number by split.
        queries: the same.
    """

    entry: File
    digest: int
    listings: dict[str, int]
    queries: dict[str, int]
    images: int

    @classmethod
    def of(cls, file: DataFile, rows: pa.Table) -> "ListingFile":
        splits = rows.column("split").to_pylist()
        asked = pc.list_value_length(rows.column("queries")).to_pylist()
        queries: Counter[str] = Counter()
        for split, number in zip(splits, asked, strict=True):
            queries[split] += number
        images = pc.sum(pc.list_value_length(rows.column("images"))).as_py()
        return cls(file.entry, file.digest, dict(Counter(splits)), dict(queries), images)


@dataclass(frozen=True)
class NamedListing:
    """A listing of the seed or the truth that could be prepared."""

    listing_id: str
    vertical: str
    group_id: str | None
    image_hashes: tuple[str, ...]


@dataclass(frozen=True)
class PreparedSlice:
    """What became of the listings of a slice.

    Args:
        identities: name of the file of their hashes.
        pool: files of pool listings.
        named_files: files of the named listings.
        named: the named listings.
        beyond: how many listings are not to be prepared.
        refusals: those that were refused.
        skipped: images that were not used, by reason.
    """

    key: str
    shard: str
    identities: str
    pool: tuple[ListingFile, ...]
    named_files: tuple[ListingFile, ...]
    named: tuple[NamedListing, ...]
    beyond: int
    refusals: RefusalCounts
    skipped: dict[str, int]

    @property
    def files(self) -> tuple[ListingFile, ...]:
        return (*self.pool, *self.named_files)

    @property
    def listings(self) -> int:
        """How many were prepared."""
        return sum(file.entry.rows or 0 for file in self.files)


@dataclass(frozen=True)
class SliceRecord:
    """A prepared slice with its refused listings, as it is kept in the run."""

    prepared: PreparedSlice
    refused: tuple[RefusedListing, ...]


@cache
def _records() -> TypeAdapter[SliceRecord]:
    return TypeAdapter(SliceRecord)


def read_record(attempt: Attempt, key: str) -> SliceRecord | None:
    """The record of a slice; None if there is none that can be read."""
    content = attempt.artifact.run.read(attempt.progress(f"{key}.json"))
    try:
        return None if content is None else _records().validate_json(content)
    except ValidationError:
        return None


def read_identities(attempt: Attempt, prepared: PreparedSlice) -> Identities:
    """The hashes of a slice. Raises ArtifactError if they are missing or not what was written."""
    path = attempt.progress(prepared.identities)
    content = attempt.artifact.run.read(path)
    if content is None or not is_named_by(prepared.identities, content):
        raise ArtifactError(f"{attempt.artifact.run.path(path)} is missing or corrupt")
    return Identities.from_bytes(content)


@dataclass(frozen=True)
class PrepareSlice:
    """A task that prepares a slice, or finds it prepared.

    Args:
        attempt: of the listings.
        reader: of the catalog.
        choice: the listings to prepare.
        total: how many these are in the whole catalog.
    """

    attempt: Attempt
    reader: SourceReader
    choice: PoolChoice
    total: int

    def __call__(self, part: SourceSlice) -> PreparedSlice:
        """
        Raises:
            QuarantineLimitError: more listings of this slice alone were refused than may be of all.
        """
        record = read_record(self.attempt, part.key)
        if record is None or not self._is_whole(record.prepared):
            return self._make(part)
        again = {one.listing_id for one in record.refused if one.reason in _TRIED_AGAIN}
        return self._try_again(part, record, again) if again else record.prepared

    def _make(self, part: SourceSlice) -> PreparedSlice:
        beyond: list[str] = []
        written = self._prepare(self._rows(part, beyond))
        refused = [one.listing_id for one in written.refused]
        return self._keep(part, written, Identities.of(written.identities, refused, beyond))

    def _try_again(self, part: SourceSlice, record: SliceRecord, again: set[str]) -> PreparedSlice:
        before = record.prepared
        known = read_identities(self.attempt, before)
        written = self._prepare(self._rows(part, only=again))
        if not written.identities:
            return before
        for one in record.refused:
            if one.listing_id not in again:
                written.refuse(one)
        refused = [one.listing_id for one in written.refused]
        found = Identities.of(written.identities, refused, ())
        skipped = Counter(before.skipped)
        for one in record.refused:
            skipped.subtract(one.skipped)
        written.skipped.update(skipped)
        written.named[:0] = before.named
        written.files[False][:0] = before.pool
        written.files[True][:0] = before.named_files
        return self._keep(part, written, known.extended(found, len(before.pool)))

    def _prepare(self, rows: Iterable[dict[str, Any]]) -> "_WrittenSlice":
        reader = self.reader
        written = _WrittenSlice(self.attempt, self.choice.named, reader.config.rows_per_file)
        for batch in prepare_batches(reader.source, reader.schema, reader.config, rows):
            for listing in batch:
                if isinstance(listing, RefusedListing):
                    written.refuse(listing)
                else:
                    written.add(listing)
            written.refusals.check(self.total, reader.config.max_quarantined)
        written.finish()
        return written

    def _rows(
        self, part: SourceSlice, beyond: list[str] | None = None, only: set[str] | None = None
    ) -> Iterator[dict[str, Any]]:
        """The rows to prepare.

        Args:
            beyond: takes up the ids of those that are not.
            only: ids to prepare; None for those that the choice holds.
        """
        is_wanted = self.choice.holds if only is None else only.__contains__
        for piece in part.pieces:
            for table in self.reader.source.read_piece(piece, _COLUMNS, ROWS_PER_BATCH):
                names = table.column("listing_id").to_pylist()
                kept = list(map(is_wanted, names))
                if beyond is not None:
                    beyond += [
                        name for name, is_kept in zip(names, kept, strict=True) if not is_kept
                    ]
                yield from (table if all(kept) else table.filter(pa.array(kept))).to_pylist()

    def _keep(
        self, part: SourceSlice, written: "_WrittenSlice", identities: Identities
    ) -> PreparedSlice:
        """Write the hashes and then the record."""
        run = self.attempt.artifact.run
        prepared = PreparedSlice(
            key=part.key,
            shard=part.shard,
            identities=identities.file_name(part.key),
            pool=tuple(written.files[False]),
            named_files=tuple(written.files[True]),
            named=tuple(written.named),
            beyond=len(identities.beyond),
            refusals=written.refusals,
            skipped=dict(+written.skipped),
        )
        run.replace(self.attempt.progress(prepared.identities), identities.to_bytes())
        record = _records().dump_json(SliceRecord(prepared, tuple(written.refused)))
        run.replace(self.attempt.progress(f"{part.key}.json"), record)
        return prepared

    def _is_whole(self, prepared: PreparedSlice) -> bool:
        """Whether all files of an interrupted attempt are there as they were written."""
        artifact = self.attempt.artifact
        for file in prepared.files:
            path = artifact.run.path(artifact.name, file.entry.path)
            found = measure_file(artifact.run.filesystem, path)
            if found != (file.entry.size, file.entry.sha256):
                return False
        try:
            read_identities(self.attempt, prepared)
        except ArtifactError:
            return False
        return True


@dataclass
class _WrittenSlice:
    """What a task has written of a slice; the keys of ``files`` say whether they are of named
    listings."""

    attempt: Attempt
    listed: frozenset[str]
    rows_per_file: int
    files: dict[bool, list[ListingFile]] = field(default_factory=lambda: {False: [], True: []})
    named: list[NamedListing] = field(default_factory=list)
    refused: list[RefusedListing] = field(default_factory=list)
    refusals: RefusalCounts = field(default_factory=RefusalCounts)
    skipped: Counter[str] = field(default_factory=Counter)
    identities: list[tuple[str, int, list[bytes]]] = field(default_factory=list)
    _waiting: dict[bool, list[dict[str, Any]]] = field(
        default_factory=lambda: {False: [], True: []}
    )

    def refuse(self, listing: RefusedListing) -> None:
        self.refused.append(listing)
        self.refusals.add(listing.listing_id, listing.reason, listing.detail)
        self.skipped.update(listing.skipped)

    def add(self, listing: PreparedListing) -> None:
        is_named = listing.listing_id in self.listed
        self.skipped.update(listing.skipped)
        if is_named:
            self.named.append(
                NamedListing(
                    listing.listing_id, listing.vertical, listing.group_id, listing.image_hashes
                )
            )
        place = _NAMED if is_named else len(self.files[False])
        ties = tie_hashes(listing.group_id, listing.image_hashes)
        self.identities.append((listing.listing_id, place, ties))
        self._waiting[is_named].append(listing.to_row() | {"split": "pool"})
        if len(self._waiting[is_named]) == self.rows_per_file:
            self._write(is_named)

    def finish(self) -> None:
        """Write what waits."""
        for is_named, rows in self._waiting.items():
            if rows:
                self._write(is_named)

    def _write(self, is_named: bool) -> None:
        rows = pa.Table.from_pylist(self._waiting[is_named], schema=LISTINGS.schema)
        self.files[is_named].append(ListingFile.of(self.attempt.store(rows), rows))
        self._waiting[is_named] = []
