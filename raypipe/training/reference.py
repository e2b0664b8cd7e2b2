"""Log-probabilities of chains under DPO's reference policy: computed once per pair set, and kept.

The reference never changes while a round trains, so its pass goes over every distinct chain once,
sharing prefixes as training does. Each worker writes what it computes; one commits the files.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from raypipe.errors import ArtifactError
from raypipe.schemas import REFERENCE
from raypipe.store.artifacts import Artifact, Attempt, get_or_commit
from raypipe.store.data_files import DataFile
from raypipe.store.manifest import Commit, Fingerprint
from raypipe.store.row_index import Keys, keys_of
from raypipe.training.pack_reader import LoadedPack, PackReader
from raypipe.training.packing import Pack, assign_workers, in_order
from raypipe.training.shared_prefix import Batch, Collator, chain_logprobs
from raypipe.training.tree_index import IndexedTree, TreeIndex
from raypipe.training.tree_rows import reference_row
from raypipe.training.trees import Tree

Row = dict[str, object]
_ROWS_PER_FILE = 512


def reference_logprobs(
    model: Any, trees: Sequence[Tree], collator: Collator, max_tokens: int
) -> list[list[float]]:
    """Per tree, the log-probability (nats) of each of its chains under the model as it stands.

    Args:
        model: the conditional-generation model after ``prepare``, with the adapter set that is
            to be asked.
        max_tokens: of the trees that go through the model together.
    """
    with _asked(model):
        return [
            values
            for pack in in_order(trees, max_tokens)
            for values in _of_pack(model, pack, collator(pack))
        ]


def reference_rows(
    model: Any, packs: Iterable[LoadedPack], collator: Collator
) -> Iterator[list[Row]]:
    """The rows of the reference table, pack by pack."""
    for pack in packs:
        with _asked(model):
            values = _of_pack(model, pack.trees, collator(pack.trees, pack.images))
        yield list(map(reference_row, pack.trees, values))


@contextmanager
def _asked(model: Any) -> Iterator[None]:
    """The model as it answers, without gradients, and afterwards as before."""
    was_training = model.training
    model.eval()
    with torch.no_grad():
        yield
    model.train(was_training)


def _of_pack(model: Any, trees: Sequence[Tree], batch: Batch | None) -> list[list[float]]:
    values = iter(chain_logprobs(model, batch).tolist() if batch else ())
    return [[next(values) for _ in tree.chains] for tree in trees]


@dataclass(frozen=True)
class ReferencePass:
    """The pass of one worker over its share of some trees.

    Args:
        numbers: of the trees in the index; None takes all.
        max_tokens: of the trees that go through the model together.
    """

    index: TreeIndex
    read: PackReader
    collator: Collator
    numbers: Sequence[int] | None
    max_tokens: int
    rank: int
    workers: int

    @property
    def num_trees(self) -> int:
        return len(self.index) if self.numbers is None else len(self.numbers)

    def packs(self) -> Iterator[Pack[IndexedTree]]:
        """Of this worker; shares are balanced by tokens."""
        own = np.arange(len(self.index)) if self.numbers is None else np.asarray(self.numbers)
        assigned = assign_workers(self.index.num_tokens[own], self.workers)
        mine = np.fromiter((at for at, rank in assigned if rank == self.rank), np.int64)
        return in_order((self.index[int(own[at])] for at in mine), self.max_tokens)

    def write(self, model: Any, attempt: Attempt, done: Keys) -> list[DataFile]:
        """Compute and write the share, without the listings whose keys are in ``done``.

        Args:
            model: as :func:`reference_logprobs` takes it.
        """
        files: list[DataFile] = []
        rows: list[Row] = []
        loaded = (self.read(pack) for pack in self._without(self.packs(), done) if pack)
        for some in reference_rows(model, loaded, self.collator):
            rows += some
            if len(rows) >= _ROWS_PER_FILE:
                files.append(attempt.store(REFERENCE.from_rows(rows)))
                rows = []
        if rows:
            files.append(attempt.store(REFERENCE.from_rows(rows)))
        return files

    def _without(
        self, packs: Iterator[Pack[IndexedTree]], done: Keys
    ) -> Iterator[Pack[IndexedTree]]:
        if not len(done):
            yield from packs
            return
        for pack in packs:
            known = np.isin(keys_of(map(self.read.listing_id, pack)), done)
            yield tuple(tree for tree, is_known in zip(pack, known, strict=True) if not is_known)


def commit_files(artifact: Artifact, attempt: Attempt, files: list[DataFile], num: int) -> Commit:
    """Commit the files of all workers, which hold ``num`` listings; of two writers one wins.

    Trainings that share a reference may compute it at once, and differ in the last digits.

    Raises:
        ArtifactError: listings are lost or doubled.
    """
    rows = sum(file.entry.rows or 0 for file in files)
    if rows != num:
        raise ArtifactError(f"{artifact.name}: {rows:,} listings came out instead of {num:,}")

    def make(_: Attempt) -> Commit:
        return attempt.commit(written=files, counts={"listings": rows})

    try:
        return get_or_commit(artifact, attempt.fingerprint, make)
    except ArtifactError:
        other = artifact.find_commit(attempt.fingerprint)
        if other is None:
            raise
        return other


def keys_in(files: Sequence[DataFile]) -> Keys:
    """The keys of all listings in the files."""
    return keys_of(name for file in files for name in file.ids.to_pylist())


def is_committed(artifact: Artifact, fingerprint: Fingerprint, rank: int) -> bool:
    """Whether a reference is committed, as the first worker sees it; all workers call this."""
    import torch.distributed as dist

    known: list[Any] = [rank == 0 and artifact.find_commit(fingerprint) is not None]
    dist.broadcast_object_list(known, src=0)
    return bool(known[0])


def commit_once(
    artifact: Artifact, fingerprint: Fingerprint, own: ReferencePass, model: Any
) -> None:
    """Commit a reference, unless it is committed, by all workers of a training together.

    What an interrupted training has written is kept. Workers send each other descriptions of
    files, never rows.

    Args:
        own: this worker's pass.
        model: as :func:`reference_logprobs` takes it.
    """
    import torch.distributed as dist

    if is_committed(artifact, fingerprint, own.rank):
        return
    attempt = artifact.attempt(fingerprint)
    leftovers: list[Any] = [attempt.leftovers() if own.rank == 0 else None]
    dist.broadcast_object_list(leftovers, src=0)
    mine = [attempt.inspect(*left) for left in leftovers[0][own.rank :: own.workers]]
    inspected: list[Any] = [None] * own.workers
    dist.all_gather_object(inspected, mine)
    kept = attempt.salvage([file for part in inspected for file in part])
    written: list[Any] | None = [None] * own.workers if own.rank == 0 else None
    dist.gather_object(own.write(model, attempt, keys_in(kept)), written, dst=0)
    if written is not None:
        files = [file for part in written for file in part]
        commit_files(artifact, attempt, [*kept, *files], own.num_trees)
    dist.barrier()
