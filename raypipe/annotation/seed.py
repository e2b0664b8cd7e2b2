"""The annotated seed as a Parquet file in the catalog, read through ``catalog.seed``."""

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

from raypipe.catalog.answer_files import find_answers
from raypipe.catalog.snapshots import parse_location
from raypipe.catalog.sources import SEED_COLUMNS
from raypipe.config import CatalogConfig
from raypipe.errors import ConfigError, InputError, StorageError
from raypipe.store import parquet

_ANNOTATION_ID = b"raypipe.annotation_id"
# Columns that the catalog's reader ignores record where an answer comes from.
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
SeedAnswers = dict[str, dict[str, str]]
"""Answers of a listing by attribute: ``reasoning``, ``answer``, and ``question``, its key."""


@dataclass(frozen=True)
class SeedFile:
    """The file of one annotation_id: listings chosen one way and answered by one model.

    Later calls with this annotation_id add listings to the same file and change no other.
    """

    filesystem: pafs.FileSystem
    path: str
    annotation_id: str

    @cached_property
    def answers(self) -> dict[str, SeedAnswers]:
        """The answers of the annotation_id so far, by listing.

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

    def write(self, listings: Mapping[str, SeedAnswers], annotator: str) -> None:
        """Replace the file atomically.

        Args:
            listings: all answers of the annotation_id.
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
        schema = SCHEMA.with_metadata({_ANNOTATION_ID: self.annotation_id.encode()})
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
        """Listings that other files of the seed annotate.

        Reviews are not counted: they answer single attributes, and the others are still to ask.

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


def seed_file(catalog: CatalogConfig, annotation_id: str) -> SeedFile:
    """The seed file of an annotation: in ``catalog.seed`` if that is a directory, else that file.

    Raises:
        ConfigError: ``catalog.seed`` is a table, or a file of another origin.
    """
    location = str(catalog.seed)
    if parse_location(location) is not None:
        raise ConfigError(
            f"catalog.seed: {location} is a table; name a directory, to which a file can be added"
        )
    absolute = location if "://" in location else str(Path(location).resolve())
    try:
        filesystem, path = pafs.FileSystem.from_uri(absolute)
    except (pa.ArrowException, OSError) as error:
        raise ConfigError(f"catalog.seed: cannot write to {location}: {error}") from error
    if not path.endswith(".parquet"):
        return SeedFile(
            filesystem, posixpath.join(path, f"annotated-{annotation_id}.parquet"), annotation_id
        )
    if filesystem.get_file_info(path).is_file:
        try:
            with parquet.opened(path, filesystem) as file:
                metadata = file.metadata.metadata or {}
        except (pa.ArrowException, OSError) as error:
            raise InputError(f"{location} is not a readable Parquet file: {error}") from error
        if metadata.get(_ANNOTATION_ID) != annotation_id.encode():
            raise ConfigError(
                f"catalog.seed: {location} holds another seed; make catalog.seed a directory, "
                "move the file into it, and the new annotations are added beside it"
            )
    return SeedFile(filesystem, path, annotation_id)
