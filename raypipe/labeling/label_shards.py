"""The labels of one shard of a catalog: an artifact of its own, shared by label versions.

    labels/shards/<key>     the key is a digest of the shard's source and of all that labels it

A shard with the same source and the same recipe is the same artifact, so a later label version
takes it without reading a row. In a changed one, listings whose label key has not changed keep the
labels that they had in the version before.
"""

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, partial
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.fs as pafs

from raypipe.attributes.schema import AttributeSchema
from raypipe.catalog.distributed import CatalogReader
from raypipe.catalog.shards import Piece, SourceShard
from raypipe.catalog.survey import id_hashes
from raypipe.labeling.labels import label_key
from raypipe.runtime.parts import PART, PartStore
from raypipe.schemas import LABELS
from raypipe.store import parquet
from raypipe.store.artifacts import Artifact, Run
from raypipe.store.id_hashes import Hashes, among, hash_ids, joined, order
from raypipe.store.manifest import COMMIT, CommittedPart
from raypipe.store.merging import MergedRows, commit_merged, read_merged, rewrite
from raypipe.store.paths import LABEL_SHARDS

_READS_PER_BLOCK = 4
_LEAST_BLOCKS = 512
_PREPARE = "prepare"


@dataclass(frozen=True)
class LabelShard:
    """A shard to label: its key, and where its listings come from."""

    key: str
    source: SourceShard

    @classmethod
    def of(cls, source: SourceShard, recipe: str, images: str = "") -> "LabelShard":
        """The shard under a recipe.

        Args:
            recipe: digest of all that labels depend on beside the catalog.
            images: digest of its image files; empty where it names none.
        """
        parts = "\0".join((source.key, recipe, images))
        return cls(hashlib.blake2b(parts.encode(), digest_size=16).hexdigest(), source)


@dataclass(frozen=True)
class StoredShards:
    """The keys of shards whose labels are committed, and of those with files of interrupted
    attempts."""

    committed: frozenset[str]
    begun: frozenset[str]


def stored_shards(run: Run) -> StoredShards:
    """What there is of shards, from one listing."""
    selector = pafs.FileSelector(run.path(LABEL_SHARDS), recursive=True, allow_not_found=True)
    committed, files = set[str](), set[str]()
    root = f"{run.path(LABEL_SHARDS)}/"
    for info in run.look(selector):
        key, _, place = info.path.removeprefix(root).partition("/")
        if place == COMMIT:
            committed.add(key)
        elif info.is_file:
            files.add(key)
    return StoredShards(frozenset(committed), frozenset(files - committed))


@dataclass(frozen=True)
class Opened:
    """An open shard: how many of its listings are done, of these refused, and labeled before; the
    files in which their rows lie; and by what versions how many labels were made before."""

    key: str
    done: int = 0
    refused: int = 0
    carried: int = 0
    files: tuple[str, ...] = ()
    versions: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class OpenShard:
    """A task that gathers what is known of a shard already: what interrupted attempts have
    written, and labels of the version before that still hold.

    Args:
        store: where the labels lie.
        reader: of the catalog.
        schema: the attributes that label keys are made with.
        outcome_fingerprint: the same.
        is_plan: count only.
    """

    store: PartStore
    reader: CatalogReader
    schema: AttributeSchema
    outcome_fingerprint: str
    is_plan: bool = False

    def __call__(self, item: tuple[LabelShard, Sequence[CommittedPart]]) -> Opened:
        """
        Args:
            item: the shard, and shards of the version before that may hold its listings.
        """
        shard, previous = item
        attempt = self.store.attempt(shard.key)
        merged = read_merged(attempt, _is_final)
        known = {key: part for part in previous for key in self._label_keys(part)}
        kept = self._unchanged(shard, known.keys()) if known else set()
        old = self._labels(previous, kept - set(merged.ids().to_pylist()))
        rows = pa.concat_tables([merged.rows, *old])
        merged = MergedRows(rows, merged.refused, merged.files)
        ids = merged.ids().to_pylist()
        carried = pa.array(sorted(kept.intersection(ids)), pa.string())
        before = rows.filter(pc.is_in(rows.column("listing_id"), carried))
        files: list[str] = []
        if not self.is_plan and (old or merged.files):
            written = rewrite(attempt, merged)
            files = [f"{attempt.artifact.name}/{file.entry.path}" for file in written]
        return Opened(
            shard.key,
            done=len(ids),
            refused=len(pc.unique(merged.refused.column("id"))),
            carried=len(carried),
            files=tuple(files),
            versions=_counted(before, "versions"),
        )

    def _label_keys(self, part: CommittedPart) -> Iterator[tuple[str, str]]:
        for table in _tables(self.store, part, ["listing_id", "label_key"]):
            found = table.group_by(["listing_id", "label_key"]).aggregate([])
            yield from zip(*(found.column(n).to_pylist() for n in range(2)), strict=True)

    def _unchanged(self, shard: LabelShard, known: Any) -> set[str]:
        """Listings whose label key is known."""
        names = self.schema.verticals
        attributes = {name: self.schema.attributes(name) for name in names}
        kept: set[str] = set()
        for piece in shard.source.pieces:
            for table in self.reader.keys(piece):
                for name, vertical, source in zip(*table.to_pydict().values(), strict=True):
                    own = attributes.get(vertical, ())
                    if (name, label_key(source, self.outcome_fingerprint, own)) in known:
                        kept.add(name)
        return kept

    def _labels(self, previous: Sequence[CommittedPart], ids: set[str]) -> list[pa.Table]:
        if not ids:
            return []
        wanted = pa.array(sorted(ids), pa.string())
        tables = (table for part in previous for table in _tables(self.store, part, None))
        found = (table.filter(pc.is_in(table.column("listing_id"), wanted)) for table in tables)
        return [table for table in found if len(table)]


@dataclass(frozen=True)
class CommitShard:
    """A task that merges and commits the labels of a whole shard.

    Args:
        store: where they lie.
        sources: the key of the source of every open shard.
        carried: how many listings of a shard were labeled before; none where it is missing.
        outcome_fingerprint: what labels are made by, for later versions.
    """

    store: PartStore
    sources: Mapping[str, str]
    carried: Mapping[str, int]
    outcome_fingerprint: str

    def __call__(self, key: str) -> CommittedPart:
        expected = id_hashes(self.store.run, self.sources[key])
        count = partial(self._counts, key, len(expected))
        return CommittedPart.of(commit_merged(self.store.attempt(key), expected, count))

    def _counts(self, key: str, listings: int, rows: pa.Table) -> dict[str, Any]:
        return {
            "listings": listings,
            "queries": len(rows),
            "carried": self.carried.get(key, 0),
            "source": self.sources[key],
            "fingerprint": self.outcome_fingerprint,
            **{f"{name}s": _counted(rows, name) for name in ("reason", "split")},
            "versions": _counted(rows, "versions"),
        }


def read_dataset(
    reader: CatalogReader, run: Run, shards: Sequence[tuple[LabelShard, Opened]]
) -> Any:
    """A Ray Dataset of the prepared listings of open shards that are not done yet, each with the
    ``part`` that it belongs to. Reads are short: what a lost node had read comes again when its
    task ends."""
    import ray.data

    items = [
        vars(piece) | {PART: shard.key, "done": list(opened.files)}
        for shard, opened in shards
        for whole in shard.source.pieces
        for piece in whole.slices()
    ]
    blocks = max(min(len(items), _LEAST_BLOCKS), len(items) // _READS_PER_BLOCK)
    return (
        ray.data.from_items(items, override_num_blocks=max(1, blocks))
        .map_batches(partial(_read, reader, run), batch_format="pyarrow", batch_size=1)
        .map_batches(partial(_prepare, reader), batch_format="pyarrow", batch_size=None)
    )


def _read(reader: CatalogReader, run: Run, batch: pa.Table) -> Iterator[pa.Table]:
    for item in batch.to_pylist():
        part, done = item.pop(PART), tuple(item.pop("done") or ())
        for table in reader.read(Piece(**item)):
            if done:
                is_done = among(hash_ids(table.column("listing_id")), _done(run.location, done))
                table = table.filter(pa.array(~is_done))
            if len(table):
                yield table.append_column(PART, pa.array([part] * len(table), pa.string()))


def _prepare(reader: CatalogReader, block: pa.Table) -> pa.Table:
    parts = block.column(PART)
    return reader.prepare(block.drop_columns([PART])).append_column(PART, parts)


@lru_cache(maxsize=4)
def _done(location: str, files: tuple[str, ...]) -> Hashes:
    """Sorted hashes of the ids in some files of a run."""
    found = []
    for path in files:
        column = "id" if "/quarantine/" in path else "listing_id"
        content = Run(location).read(path)
        rows = parquet.read(pa.py_buffer(content or b""), None, [column])
        found.append(hash_ids(pc.unique(rows.column(column))))
    hashes = joined(found)
    return hashes[order(hashes)]


def _tables(store: PartStore, part: CommittedPart, columns: list[str] | None) -> Iterator[pa.Table]:
    artifact = Artifact(store.run, part.name, LABELS)
    for file in part.files:
        if file.kind == "data":
            yield artifact.rows_of(file, columns)


def _is_final(refused: pa.Table) -> pa.Array:
    """Refusals that another try would not change: a host may have been away."""
    return pc.not_equal(refused.column("stage"), _PREPARE)


def _counted(rows: pa.Table, column: str) -> dict[str, int]:
    counts: Counter[str] = Counter()
    for entry in pc.value_counts(rows.column(column)).to_pylist():
        counts[str(entry["values"])] += entry["counts"]
    return dict(sorted(counts.items()))
