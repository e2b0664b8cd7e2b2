"""Training examples out of committed artifacts: one row per target or pair, images by listing.

The rows are what TRL calls prompt-completion and preference data, conversational and with images.
:class:`Examples` holds all of a training, for TRL's own trainers: images once per listing, joined
when a row is looked up. A source gives them file by file.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from statistics import fmean
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.compute as pc

from raypipe.attributes.prompts import (
    answer_turn,
    completion,
    conversation,
    without_control_tokens,
)
from raypipe.attributes.vote import KEPT
from raypipe.config import PairWeight
from raypipe.config.models import AnswerFormat
from raypipe.errors import ArtifactError
from raypipe.schemas import CHAINS, CONSENSUS, LISTINGS, PAIRS, SEED
from raypipe.store.artifacts import Artifact, Run
from raypipe.store.manifest import File
from raypipe.store.paths import CATALOG, Paths
from raypipe.store.row_index import RowIndex
from raypipe.store.row_reader import RowReader

Row = dict[str, Any]
_Prompts = dict[str, str]  # by attribute
_Preferred = dict[str, list[int]]  # by attribute
_READER_BYTES = 64 << 20


@dataclass(frozen=True)
class Examples:
    """Rows without images, and the images (encoded) of every listing that they name."""

    rows: list[Row]
    images: dict[str, list[bytes]]

    def dataset(self) -> Any:
        """A ``datasets.Dataset`` whose rows carry their listing's decoded images."""
        import io

        from datasets import Dataset
        from PIL import Image

        def with_images(batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
            listings = batch.pop("listing_id")
            for name in ("attribute", "weight"):
                batch.pop(name, None)
            decoded = [
                [Image.open(io.BytesIO(content)) for content in self.images[listing]]
                for listing in listings
            ]
            return {**batch, "images": decoded}

        return Dataset.from_list(self.rows).with_transform(with_images)


def seed_targets(run: Run, answer_format: AnswerFormat) -> Examples:
    """Every annotated answer of the seed split as a target (paper §3.1)."""
    prompts = _prompts(run, "seed")
    seeded = run.artifact(CATALOG.seed, SEED).read().to_pylist()
    rows = [
        row
        for listing in seeded
        for row in _seed_rows(listing, prompts[listing["listing_id"]], answer_format)
    ]
    return _with_images(run, rows)


def preferred_targets(
    run: Run, scope: str, chains_of: str, answer_format: AnswerFormat
) -> Examples:
    """Every preferred chain of a kept query as a target (paper §5), unanimous ones included;
    ``scope`` is of the consensus, ``chains_of`` of the chains that it was reached on."""
    preferred: dict[str, _Preferred] = {}
    for table in run.artifact(Paths(scope).consensus, CONSENSUS).read_files():
        preferred |= _preferred(table)
    prompts = _prompts(run, "pool")
    rows: list[Row] = []
    for table in run.artifact(Paths(chains_of).chains, CHAINS).read_files():
        for listing in table.to_pylist():
            name = listing["listing_id"]
            if name in preferred:
                rows += _target_rows(listing, preferred[name], prompts[name], answer_format)
    return _with_images(run, rows)


def preference_pairs(
    run: Run, scope: str, answer_format: AnswerFormat, pair_weight: PairWeight = "uniform"
) -> Examples:
    """Every preference pair that a policy's chains gave (paper §4.1), with its ``weight``.

    Weights have mean 1 over all pairs, so that a learning rate means the same with any of them.
    """
    rows: list[Row] = []
    for table in run.artifact(Paths(scope).pairs, PAIRS).read_files():
        rows += _pair_rows(table, answer_format)
    if pair_weight == "uniform":
        rows = [row | {"weight": 1.0} for row in rows]
    elif rows:
        mean = fmean(row["weight"] for row in rows)
        rows = [row | {"weight": row["weight"] / mean} for row in rows]
    return _with_images(run, rows)


class ExampleSource(Protocol):
    """Examples file by file: all of a listing are in one file."""

    @property
    def artifact(self) -> Artifact:
        """Whose files these are."""

    def rows(self, file: File) -> list[Row]:
        """The examples of a file; a pair's ``weight`` is the margin of its vote."""


@dataclass(frozen=True)
class PairSource:
    """The examples of :func:`preference_pairs`."""

    artifact: Artifact
    answer_format: AnswerFormat

    def rows(self, file: File) -> list[Row]:
        return _pair_rows(self.artifact.rows_of(file), self.answer_format)


@dataclass(frozen=True)
class SeedSource:
    """The examples of :func:`seed_targets`.

    Args:
        artifact: the seed.
        listings: the prepared listings, with the index of their rows.
    """

    artifact: Artifact
    listings: "IndexedRows"
    answer_format: AnswerFormat

    def rows(self, file: File) -> list[Row]:
        found: list[Row] = []
        for listing in self.artifact.rows_of(file).to_pylist():
            prompts = _prompts_of(self.listings.row(listing["listing_id"]))
            found += _seed_rows(listing, prompts, self.answer_format)
        return found


@dataclass(frozen=True)
class PreferredSource:
    """The examples of :func:`preferred_targets`.

    Args:
        artifact: the consensus.
        chains: that it was reached on, with the index of their rows.
        listings: the prepared listings, with theirs.
    """

    artifact: Artifact
    chains: "IndexedRows"
    listings: "IndexedRows"
    answer_format: AnswerFormat

    def rows(self, file: File) -> list[Row]:
        found: list[Row] = []
        for name, preferred in _preferred(self.artifact.rows_of(file)).items():
            prompts = _prompts_of(self.listings.row(name))
            found += _target_rows(self.chains.row(name), preferred, prompts, self.answer_format)
        return found


class IndexedRows:
    """The rows of an artifact by listing: its ids and its queries."""

    def __init__(self, artifact: Artifact, index: RowIndex) -> None:
        self._artifact = artifact
        self._index = index

    @cached_property
    def _reader(self) -> RowReader:
        return RowReader(self._artifact, ["listing_id", "queries"], _READER_BYTES)

    def __reduce__(self) -> tuple[type["IndexedRows"], tuple[Artifact, RowIndex]]:
        return (type(self), (self._artifact, self._index))

    def row(self, listing_id: str) -> Row:
        """Raises ArtifactError when there is none."""
        place = self._index.find(listing_id)
        if place is None:
            raise ArtifactError(f"{self._artifact.name} does not hold '{listing_id}'")
        [row] = self._reader.row(place.file, place.row, listing_id).to_pylist()
        return dict(row)


def _pair_rows(table: pa.Table, answer_format: AnswerFormat) -> list[Row]:
    return [
        {
            "listing_id": query["listing_id"],
            "attribute": query["attribute"],
            "prompt": conversation(query["prompt"], answer_format),
            "chosen": [answer_turn(pair["chosen"])],
            "rejected": [answer_turn(pair["rejected"])],
            "weight": query["margin"],
        }
        for query in table.to_pylist()
        for pair in query["pairs"]
    ]


def _seed_rows(seeded: Row, prompts: _Prompts, answer_format: AnswerFormat) -> Iterator[Row]:
    for answer in seeded["answers"]:
        key = (seeded["listing_id"], answer["attribute"])
        text = completion(answer["answer"], answer["reasoning"], answer_format)
        yield _target(key, prompts[answer["attribute"]], text, answer_format)


def _preferred(consensus: pa.Table) -> dict[str, _Preferred]:
    """By listing, the preferred chains of the kept queries of the pool."""
    found: dict[str, _Preferred] = {}
    pool = consensus.filter(pc.equal(consensus.column("split"), "pool"))
    for row in pool.filter(pc.equal(pool.column("gate"), KEPT)).to_pylist():
        found.setdefault(row["listing_id"], {})[row["attribute"]] = row["preferred"]
    return found


def _target_rows(
    chains: Row, preferred: _Preferred, prompts: _Prompts, answer_format: AnswerFormat
) -> Iterator[Row]:
    for query in chains["queries"]:
        key = (chains["listing_id"], query["attribute"])
        for index in preferred.get(query["attribute"], ()):
            text = without_control_tokens(query["chains"][index]["text"])
            yield _target(key, prompts[query["attribute"]], text, answer_format)


def _target(key: tuple[str, str], prompt: str, text: str, answer_format: AnswerFormat) -> Row:
    return {
        "listing_id": key[0],
        "attribute": key[1],
        "prompt": conversation(prompt, answer_format),
        "completion": [answer_turn(text)],
    }


def _listings(run: Run, columns: list[str]) -> Iterator[pa.Table]:
    return run.artifact(CATALOG.listings, LISTINGS).read_files(columns)


def _prompts(run: Run, split: str) -> dict[str, _Prompts]:
    return {
        row["listing_id"]: _prompts_of(row)
        for table in _listings(run, ["listing_id", "split", "queries"])
        for row in table.filter(pc.equal(table.column("split"), split)).to_pylist()
    }


def _prompts_of(listing: Row) -> _Prompts:
    return {query["attribute"]: query["prompt"] for query in listing["queries"]}


def _with_images(run: Run, rows: list[Row]) -> Examples:
    """Sort rows, so that their order says nothing of files, and fetch the images they need."""
    rows.sort(key=repr)
    needed = pa.array(sorted({row["listing_id"] for row in rows}), pa.string())
    images: dict[str, list[bytes]] = {}
    for table in _listings(run, ["listing_id", "images"]):
        for row in table.filter(pc.is_in(table.column("listing_id"), needed)).to_pylist():
            images[row["listing_id"]] = row["images"]
    return Examples(rows, images)
