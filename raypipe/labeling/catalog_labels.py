"""Labels a catalog shard by shard.

    cut into shards → survey those that are open → compare their ids with all others' → open them:
    what is done already, what still holds → read, prepare, ask → commit each shard → commit all

Only open shards are read: others are committed, by this label version or an earlier one.
"""

import hashlib
import json
import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

from raypipe.attributes.schema import AttributeSchema
from raypipe.catalog.distributed import CatalogReader
from raypipe.catalog.shards import SourceShard
from raypipe.catalog.survey import ShardSurvey, compare, make_surveys, read_surveys, surveyed
from raypipe.config import Config
from raypipe.labeling.label_shards import (
    CommitShard,
    LabelShard,
    Opened,
    OpenShard,
    read_dataset,
    stored_shards,
)
from raypipe.runtime import parts, stream
from raypipe.runtime.parts import PartStore, RemainingWork
from raypipe.runtime.tasks import run_tasks
from raypipe.sampling.stage import EnginePool
from raypipe.store.artifacts import Artifact, Attempt, Run
from raypipe.store.manifest import Commit, CommittedPart
from raypipe.store.paths import Paths
from raypipe.store.read_ahead import read_ahead

logger = logging.getLogger("raypipe.runtime.progress")


@dataclass(frozen=True)
class OpenLabels:
    """How far the labels of a catalog are.

    Args:
        committed: shards whose labels are there.
        opened: all others, and what is known of them.
        surveys: of all others, by the key of their source.
    """

    committed: tuple[CommittedPart, ...]
    opened: tuple[tuple[LabelShard, Opened], ...]
    surveys: Mapping[str, ShardSurvey]

    @property
    def left(self) -> RemainingWork:
        """What is left to do."""
        before = sum(part.counts["listings"] for part in self.committed)
        refused = sum(part.quarantined for part in self.committed)
        sizes = {shard.key: shard.source.rows for shard, _ in self.opened}
        return RemainingWork(
            {one.key: sizes[one.key] - one.done for _, one in self.opened},
            before + sum(sizes.values()),
            before + sum(one.done for _, one in self.opened),
            refused + sum(one.refused for _, one in self.opened),
        )

    def queries(self, schema: AttributeSchema) -> int:
        """How many are left to ask, were all listings of a shard alike."""
        attributes = {name: len(schema.attributes(name)) for name in schema.verticals}
        return sum(
            round(
                self.surveys[shard.source.key].queries(attributes)
                * (1 - one.done / shard.source.rows)
            )
            for shard, one in self.opened
        )


@dataclass(frozen=True)
class CatalogLabels:
    """The labels of a catalog under a recipe.

    Args:
        reader: of the catalog.
        store: where the shards lie.
        schema: the attribute schema.
        outcome_fingerprint: digest of what chains are drawn by.
        recipe: digest of all that labels depend on beside the catalog.
    """

    config: Config
    run: Run
    reader: CatalogReader
    store: PartStore
    schema: AttributeSchema
    outcome_fingerprint: str
    recipe: str

    @cached_property
    def sources(self) -> list[SourceShard]:
        """The shards of the catalog."""
        return self.reader.shards()

    @cached_property
    def image_files(self) -> tuple[str, ...]:
        """Of every shard the digest of its image files; empty for a catalog that has none, or whose
        files are not looked at."""
        if not (self.config.labeling.check_image_files and self.reader.has_image_files()):
            return ()
        return tuple(run_tasks(partial(_image_files, self.reader), self.sources))

    @cached_property
    def shards(self) -> list[LabelShard]:
        """The shards to label."""
        images = self.image_files or ("",) * len(self.sources)
        return [
            LabelShard.of(source, self.recipe, digest)
            for source, digest in zip(self.sources, images, strict=True)
        ]

    def open(self, scope: str | None, previous: Artifact | None) -> OpenLabels:
        """Look how far the labels are, and gather what is known of those that are open.

        Args:
            scope: of the label version; None for a plan, which writes nothing but surveys.
            previous: labels of the version before.

        Raises:
            InputError: an id is there twice, or a corrupt file.
        """
        before = () if previous is None else previous.require_commit().parts
        stored = stored_shards(self.run)
        held = [shard for shard in self.shards if shard.key in stored.committed]
        committed = tuple(self._parts(held, before))
        still_open = [shard for shard in self.shards if shard.key not in stored.committed]
        make_surveys(self.run, self.reader, [shard.source for shard in still_open])
        keys = [shard.source.key for shard in still_open]
        surveys = read_surveys(self.run, keys, self.schema.verticals)
        usable = {
            part.counts["source"]: part
            for part in before
            if part.counts["fingerprint"] == self.outcome_fingerprint
        }
        moved = self._compared(scope, [part.counts["source"] for part in before], usable)
        work = [(shard, _candidates(shard.source.key, usable, moved)) for shard in still_open]
        opening = OpenShard(
            self.store, self.reader, self.schema, self.outcome_fingerprint, is_plan=scope is None
        )
        known = [item for item in work if item[1] or item[0].key in stored.begun]
        found = {one.key: one for one in run_tasks(opening, known, fewest=1)}
        opened = tuple((shard, found.get(shard.key, Opened(shard.key))) for shard, _ in work)
        return OpenLabels(committed, opened, surveys)

    def commit(
        self,
        attempt: Attempt,
        labels: OpenLabels,
        pool: EnginePool,
        resources: stream.ActorResources,
        counts: Mapping[str, Any],
    ) -> Commit:
        """Label what is left, commit every shard, and then all of them.

        Args:
            attempt: of the label version's labels.
            pool: the engines.
            counts: stored in addition to the summed ones.
        """
        committing = CommitShard(
            self.store,
            {shard.key: shard.source.key for shard, _ in labels.opened},
            {one.key: one.carried for _, one in labels.opened if one.carried},
            self.outcome_fingerprint,
        )
        left = labels.left
        whole = [key for key, count in left.listings.items() if not count]
        made = list(run_tasks(committing, whole, fewest=1))
        asked = [item for item in labels.opened if left.listings[item[0].key]]
        summed: dict[str, float] = {}
        if asked:  # do not start an engine without work
            open_parts = {shard.key: left.listings[shard.key] for shard, _ in asked}
            write = partial(self.store.write, attempt.artifact)
            dataset = pool.map(read_dataset(self.reader, self.run, asked), write)
            try:
                rest, summed = parts.run(
                    dataset,
                    RemainingWork(open_parts, left.total, left.done, left.refused),
                    committing,
                    resources=resources,
                    max_refused=self.config.catalog.max_quarantined,
                    name=attempt.artifact.name,
                    trouble=pool.failed_starts,
                )
            finally:
                pool.finish()
            made += rest
        kept = sum(part.counts["listings"] for part in labels.committed)
        carried = sum(part.counts["carried"] for part in made)
        done_before = sum(one.done for _, one in labels.opened)
        return attempt.commit_parts(
            [*labels.committed, *made],
            {
                "listings": left.total,
                "carried": kept + carried,
                "salvaged": done_before - carried,
                "shards": len(self.shards),
                **counts,
                **summed,
            },
        )

    def _parts(
        self, shards: Sequence[LabelShard], before: Sequence[CommittedPart]
    ) -> Sequence[CommittedPart]:
        """The entries of committed shards, from the version before or from their own manifests."""
        known = {part.name: part for part in before}
        names = [self.store.artifact(shard.key).name for shard in shards]
        read = [name for name in names if name not in known]
        commits = read_ahead((0, self.run.artifact(name).require_commit) for name in read)
        known |= {
            name: CommittedPart.of(commit) for name, commit in zip(read, commits, strict=True)
        }
        return [known[name] for name in names]

    def _compared(
        self, scope: str | None, before: Sequence[str], usable: Mapping[str, CommittedPart]
    ) -> Mapping[str, Sequence[str]]:
        """Compare the ids of what has changed, once for a label version; returns which shards of
        the version before hold ids of which changed one."""
        digest = hashlib.sha256("\n".join(sorted(one.key for one in self.sources)).encode())
        document = None if scope is None else self.run.read_json(Paths(scope).compared)
        if document is not None and document.get("shards") == digest.hexdigest():
            return dict(document["moved"])
        now = {source.key for source in self.sources}
        known = set(before)
        changed = [source for source in self.sources if source.key not in known]
        others = [source for source in self.sources if source.key in known]
        gone: list[str] = []
        if changed:
            there = surveyed(self.run)
            gone = [key for key in usable if key not in now and key in there]
            make_surveys(self.run, self.reader, self.sources)
            logger.info("comparing the ids of %s listings", f"{sum(s.rows for s in changed):,}")
        moved = compare(self.run, self.reader, changed, others, gone)
        if scope is not None:
            values = {"shards": digest.hexdigest(), "moved": moved}
            self.run.replace(Paths(scope).compared, json.dumps(values).encode())
        return moved


def tell_outdated(labels: OpenLabels, versions: str, note: Callable[[str], None]) -> None:
    """Say how many labels are kept that other versions made, and how to have them anew."""
    made: Counter[str] = Counter()
    for part in labels.committed:
        made.update(part.counts["versions"])
    for _, opened in labels.opened:
        made.update(opened.versions)
    del made[versions]
    if made:
        note(
            f"{made.total():,} labels are kept that were made with other versions than {versions} "
            f"({'; '.join(sorted(made))}); labeling.relabel_versions=true makes all labels again"
        )


def _candidates(
    source: str, usable: Mapping[str, CommittedPart], moved: Mapping[str, Sequence[str]]
) -> list[CommittedPart]:
    """Shards of the version before that may hold labels of the listings of one."""
    keys = dict.fromkeys([source, *moved.get(source, ())])
    return [usable[key] for key in keys if key in usable]


def _image_files(reader: CatalogReader, shard: SourceShard) -> str:
    """Digest of what tells the listings of a shard apart, their image files among it."""
    content = hashlib.blake2b(digest_size=16)
    for piece in shard.pieces:
        for table in reader.keys(piece):
            for key in table.column("source_key").to_pylist():
                content.update(f"{key}\n".encode())
    return content.hexdigest()
