"""The annotated seed as a file of the catalog's own, where ``catalog.seed`` is read from."""

import posixpath
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from raypipe.catalog.answer_files import find_answers
from raypipe.catalog.snapshots import parse
from raypipe.catalog.sources import SEED_COLUMNS
from raypipe.config import CatalogConfig
from raypipe.errors import ConfigError, StorageError

_CAMPAIGN = b"raypipe.campaign"
_ANSWER = pa.struct([(name, pa.string()) for name in ("attribute", "reasoning", "answer")])
# What a reader of the catalog does not ask for is there for people: where an answer comes from.
SCHEMA = pa.schema(
    [
        ("listing_id", pa.string()),
        ("answers", pa.list_(_ANSWER)),
        ("source", pa.string()),
        ("annotator", pa.string()),
    ]
)


@dataclass(frozen=True)
class SeedFile:
    """The file of one campaign: of listings chosen one way and answered by one model.

    Made again with more or fewer listings, a campaign replaces its own file and no other.
    """

    filesystem: pafs.FileSystem
    path: str
    campaign: str

    def write(self, rows: Sequence[dict[str, Any]], annotator: str) -> None:
        """Replace the file in one move.

        Args:
            rows: ``listing_id`` and ``answers`` (attribute, reasoning, answer).
            annotator: the model that answered.

        Raises:
            StorageError: it cannot be written.
        """
        stated = [row | {"source": "annotation", "annotator": annotator} for row in rows]
        schema = SCHEMA.with_metadata({_CAMPAIGN: self.campaign.encode()})
        table = pa.Table.from_pylist(stated, schema=schema)
        partial = f"{self.path}.{uuid.uuid4().hex[:8]}.partial"
        try:
            self.filesystem.create_dir(posixpath.dirname(self.path), recursive=True)
            pq.write_table(table, partial, filesystem=self.filesystem)
            self.filesystem.move(partial, self.path)
        except (pa.ArrowException, OSError) as error:
            raise StorageError(f"cannot write {self.path}: {error}") from error

    def others(self, location: str) -> frozenset[str]:
        """Listings that are annotated already, by anything but this campaign.

        Args:
            location: ``catalog.seed``.

        Raises:
            InputError: a file there is corrupt or not a seed.
        """
        source = find_answers(location, SEED_COLUMNS)
        if source is None:
            return frozenset()
        left = tuple(path for path in source.files if path != self.path)
        return replace(source, files=left).listing_ids


def seed_file(catalog: CatalogConfig, campaign: str) -> SeedFile:
    """Where a campaign's seed goes: into ``catalog.seed`` when that is a directory, else there.

    Raises:
        ConfigError: ``catalog.seed`` is a file that something else wrote.
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
        metadata = pq.read_schema(path, filesystem=filesystem).metadata or {}
        if metadata.get(_CAMPAIGN) != campaign.encode():
            raise ConfigError(
                f"catalog.seed: {location} holds another seed; make catalog.seed a directory, "
                "move the file into it, and what is annotated now is added beside it"
            )
    return SeedFile(filesystem, path, campaign)
