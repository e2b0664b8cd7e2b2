"""Builds the trees of a training across the cluster, before its workers start.

A task reads a file of pairs or of the consensus, and writes a file of trees. The driver holds ids
and descriptions of files.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import numpy as np
import pyarrow as pa

from raypipe.attributes.prompts import TEMPLATE_VERSION
from raypipe.config import Config
from raypipe.errors import ArtifactError
from raypipe.models.families import family_of_checkpoint
from raypipe.models.policies import model_identity, model_path
from raypipe.models.processors import load_processor
from raypipe.runtime.progress import reported
from raypipe.runtime.tasks import run_tasks
from raypipe.schemas import CHAINS, CONSENSUS, LISTINGS, PAIRS, SEED, TREES
from raypipe.store.artifacts import Artifact, Attempt, Run, get_or_commit
from raypipe.store.data_files import DataFile
from raypipe.store.manifest import Commit, File, Fingerprint, versions
from raypipe.store.paths import CATALOG, Paths
from raypipe.store.row_index import Keys, RowIndex, RowPlace, keys_of
from raypipe.training.examples import (
    Examples,
    ExampleSource,
    IndexedRows,
    PairSource,
    PreferredSource,
    Row,
    SeedSource,
)
from raypipe.training.tree_rows import to_table
from raypipe.training.trees import build_trees

_FILES_PER_TASK = 32  # of those whose rows are located
_LISTINGS_AT_ONCE = 256
_MakeSource = Callable[[RowIndex], ExampleSource]


def pair_trees(config: Config, run: Run, scope: str) -> Commit:
    """Commit ``<scope>/trees``: the preference pairs of a scope as trees."""
    pairs = run.artifact(Paths(scope).pairs, PAIRS)

    def source(_: RowIndex) -> ExampleSource:
        return PairSource(pairs, config.model.answer_format)

    return _commit_trees(config, run, Paths(scope).trees, {"pairs": pairs}, source)


def target_trees(
    config: Config, run: Run, name: str, scope: str | None, chains_of: str | None
) -> Commit:
    """Commit ``<name>/target_trees``: what a policy is taught token by token, as trees.

    Args:
        name: of the policy.
        scope: of the consensus whose preferred chains these are; None is the annotated seed.
        chains_of: scope of the chains that the consensus was reached on.
    """
    answer_format = config.model.answer_format
    listings = run.artifact(CATALOG.listings, LISTINGS)
    seed = run.artifact(CATALOG.seed, SEED)
    chains = run.artifact(Paths(chains_of or "").chains, CHAINS)
    consensus = run.artifact(Paths(scope or "").consensus, CONSENSUS)

    def source(images: RowIndex) -> ExampleSource:
        rows = IndexedRows(listings, images)
        if scope is None:
            return SeedSource(seed, rows, answer_format)
        reached_on = IndexedRows(chains, _located(chains))
        return PreferredSource(consensus, reached_on, rows, answer_format)

    upstream = {"seed": seed} if scope is None else {"consensus": consensus, "chains": chains}
    return _commit_trees(config, run, Paths(name).target_trees, upstream, source)


def _commit_trees(
    config: Config, run: Run, name: str, upstream: Mapping[str, Artifact], source: _MakeSource
) -> Commit:
    listings = run.artifact(CATALOG.listings, LISTINGS)
    made_from = {"listings": listings, **upstream}
    fingerprint: Fingerprint = {
        **model_identity(config.model),
        **versions("raypipe", "transformers", "trl"),
        **{f"upstream.{key}": each.require_commit().digest for key, each in made_from.items()},
        "template": TEMPLATE_VERSION,
        "image_size": config.catalog.image_size,
    }

    def make(attempt: Attempt) -> Commit:
        images = _located(listings, length_of="image_hashes")
        return _build(config, attempt, source(images), images)

    return get_or_commit(run.artifact(name, TREES), fingerprint, make)


def _build(config: Config, attempt: Attempt, source: ExampleSource, images: RowIndex) -> Commit:
    leftovers = attempt.leftovers()
    kept = attempt.salvage(run_tasks(partial(_inspected, attempt), leftovers))
    done = np.sort(keys_of(name for file in kept for name in file.ids.to_pylist()))
    task = _TreeTask(attempt, source, images, done, config)
    files = source.artifact.files()
    written, asked = list(kept), [pa.array([], pa.string())]
    with reported(lambda: f"built the trees of {len(asked) - 1:,} of {len(files):,} files"):
        for made in run_tasks(task, files, fewest=1):
            written += made.files
            asked.append(made.listings)
    expected = pa.concat_arrays(asked)
    return attempt.commit(expected=expected, written=written, counts={"listings": len(expected)})


def _inspected(attempt: Attempt, leftover: tuple[str, Any]) -> DataFile | None:
    return attempt.inspect(*leftover)


@dataclass(frozen=True)
class _BuiltTrees:
    files: list[DataFile]
    listings: pa.Array  # all listings of the source's file


@dataclass(frozen=True)
class _TreeTask:
    """Builds the trees of a file of examples, on any node.

    Args:
        images: the index of the prepared listings, with the number of their images.
        done: sorted keys of the listings whose trees are there.
    """

    attempt: Attempt
    source: ExampleSource
    images: RowIndex
    done: Keys
    config: Config

    def __call__(self, file: File) -> _BuiltTrees:
        by_listing: dict[str, list[Row]] = {}
        for row in self.source.rows(file):
            by_listing.setdefault(row["listing_id"], []).append(row)
        names = sorted(by_listing)
        is_done = np.isin(keys_of(names), self.done).tolist()
        todo = [name for name, known in zip(names, is_done, strict=True) if not known]
        tables = [
            self._table({name: by_listing[name] for name in todo[at : at + _LISTINGS_AT_ONCE]})
            for at in range(0, len(todo), _LISTINGS_AT_ONCE)
        ]
        files = [self.attempt.store(pa.concat_tables(tables))] if tables else []
        return _BuiltTrees(files, pa.array(names, pa.string()))

    def _table(self, by_listing: Mapping[str, list[Row]]) -> pa.Table:
        rows = [row for name in by_listing for row in sorted(by_listing[name], key=repr)]
        places = {name: self._place(name) for name in by_listing}
        unread = {name: [b""] * place.length for name, place in places.items()}
        model = self.config.model
        processor, family = _processor(model_path(model), model.revision)
        tokens = family.tokens_per_image(self.config.catalog.image_size, lambda: processor)
        trees = build_trees(Examples(rows, unread), processor, tokens)
        return to_table(trees, [places[tree.listing_id] for tree in trees])

    def _place(self, listing_id: str) -> RowPlace:
        place = self.images.find(listing_id)
        if place is None:
            raise ArtifactError(f"{CATALOG.listings} does not hold '{listing_id}'")
        return place


@cache
def _processor(path: str, revision: str | None) -> tuple[Any, Any]:
    """The processor and the family of a checkpoint, once per process."""
    return load_processor(path, revision), family_of_checkpoint(path, revision)


def _located(artifact: Artifact, length_of: str | None = None) -> RowIndex:
    """Where the rows of an artifact are, read across the cluster."""
    numbered = list(enumerate(artifact.files()))
    groups = [
        numbered[at : at + _FILES_PER_TASK] for at in range(0, len(numbered), _FILES_PER_TASK)
    ]
    return RowIndex.merged(list(run_tasks(_Locate(artifact, length_of), groups)))


@dataclass(frozen=True)
class _Locate:
    artifact: Artifact
    length_of: str | None

    def __call__(self, numbered: Sequence[tuple[int, File]]) -> RowIndex:
        return RowIndex.of(self.artifact, numbered, self.length_of)
