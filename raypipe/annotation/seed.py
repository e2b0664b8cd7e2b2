"""The annotated seed as a file of the catalog's own, where ``catalog.seed`` is read from."""

import posixpath
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from raypipe import parquet
from raypipe.catalog.answer_files import find_answers
from raypipe.catalog.snapshots import parse
from raypipe.catalog.sources import SEED_COLUMNS
from raypipe.config import CatalogConfig
from raypipe.errors import ConfigError, InputError, StorageError

_CAMPAIGN = b"raypipe.campaign"
# What a reader of the catalog does not ask for says where an answer comes from.
_ANSWER = pa.struct(
    [(name, pa.string()) for name in ("attribute", "reasoning", "answer", "question")]
)
SCHEMA = pa.schema(
    [
        ("listing_id", pa.string()),
        ("answers", pa.list_(_ANSWER)),
        ("source", pa.string()),
        ("annotator", pa.string()),
    ]
)
Answers = dict[str, dict[str, str]]
"""Answers of a listing by attribute: ``reasoning``, ``answer``, and ``question``, its key."""


@dataclass(frozen=True)
class SeedFile:
    """The file of one campaign: of listings chosen one way and answered by one model.

    A later call of the campaign adds listings to its own file and touches no other.
    """

    filesystem: pafs.FileSystem
    path: str
    campaign: str

    @cached_property
    def answers(self) -> dict[str, Answers]:
        """What the campaign has so far, by listing.

        Raises:
            InputError: the file is corrupt.
        """
        if not self.filesystem.get_file_info(self.path).is_file:
            return {}
        try:
            with parquet.opened(self.path, self.filesystem) as file:
                fields = [field.name for field in _ANSWER]
                chosen = parquet.leaves(file, {"listing_id": (), "answers": fields})
                rows = file.read(chosen).to_pylist()
        except (pa.ArrowException, OSError) as error:
            raise InputError(f"{self.path} is truncated or corrupt: {error}") from error
        return {
            row["listing_id"]: {answer.pop("attribute"): answer for answer in row["answers"]}
            for row in rows
        }

    def write(self, listings: Mapping[str, Answers], annotator: str) -> None:
        """Replace the file in one move.

        Args:
            listings: everything that the campaign has.
            annotator: the model that answered.

        Raises:
            StorageError: it cannot be written.
        """
        rows: Sequence[dict[str, Any]] = [
            {
                "listing_id": listing_id,
                "answers": [{"attribute": name} | answer for name, answer in answers.items()],
                "source": "annotation",
                "annotator": annotator,
            }
            for listing_id, answers in sorted(listings.items())
        ]
        schema = SCHEMA.with_metadata({_CAMPAIGN: self.campaign.encode()})
        directory, name = posixpath.split(self.path)
        hidden = posixpath.join(directory, f".{name}.{uuid.uuid4().hex[:8]}")
        try:
            self.filesystem.create_dir(directory, recursive=True)
            table = pa.Table.from_pylist(rows, schema=schema)
            pq.write_table(table, hidden, filesystem=self.filesystem)
            self.filesystem.move(hidden, self.path)
        except (pa.ArrowException, OSError) as error:
            raise StorageError(f"cannot write {self.path}: {error}") from error

    def others(self, location: str) -> frozenset[str]:
        """Listings that are annotated already, by anything but this campaign.

        A review answers single attributes and leaves the others to be asked.

        Args:
            location: ``catalog.seed``.

        Raises:
            InputError: a file there is corrupt or not a seed.
        """
        source = find_answers(location, SEED_COLUMNS)
        if source is None:
            return frozenset()
        left = tuple(
            path for path in source.files if path != self.path and not self._is_review(path)
        )
        return replace(source, files=left).listing_ids

    def _is_review(self, path: str) -> bool:
        with parquet.opened(path, self.filesystem) as file:
            answers = file.schema_arrow.field("answers").type
        return "reviewed_at" in {field.name for field in answers.value_type}


def seed_file(catalog: CatalogConfig, campaign: str) -> SeedFile:
    """Where a campaign's seed goes: into ``catalog.seed`` when that is a directory, else there.

    Raises:
        ConfigError: ``catalog.seed`` is a table, or a file that something else wrote.
    """
    location = str(catalog.seed)
    if parse(location) is not None:
        raise ConfigError(
            f"catalog.seed: {location} is a table; name a directory, to which a file can be added"
        )
    absolute = location if "://" in location else str(Path(location).resolve())
    try:
        filesystem, path = pafs.FileSystem.from_uri(absolute)
    except (pa.ArrowException, OSError) as error:
        raise ConfigError(f"catalog.seed: cannot write to {location}: {error}") from error
    if not path.endswith(".parquet"):
        return SeedFile(filesystem, posixpath.join(path, f"annotated-{campaign}.parquet"), campaign)
    if filesystem.get_file_info(path).is_file:
        try:
            with parquet.opened(path, filesystem) as file:
                metadata = file.metadata.metadata or {}
        except (pa.ArrowException, OSError) as error:
            raise InputError(f"{location} is not a readable Parquet file: {error}") from error
        if metadata.get(_CAMPAIGN) != campaign.encode():
            raise ConfigError(
                f"catalog.seed: {location} holds another seed; make catalog.seed a directory, "
                "move the file into it, and what is annotated now is added beside it"
            )
    return SeedFile(filesystem, path, campaign)
