"""A whole catalog, for labeling, read shard by shard on any node, whatever its size.

A reader tells the shards of a catalog and reads the listings of one: first their ids, then what
tells whether they have changed, then prepared. There are no splits and no leaks to look for.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import pyarrow as pa

from raypipe.attributes.schema import AttributeSchema
from raypipe.catalog.keys import image_identities, prepared_key, source_key
from raypipe.catalog.listings import (
    MAX_LOOKED_AT,
    RefusedListing,
    image_names,
    prepare_listing,
    quarantine_rows,
    seller_values,
)
from raypipe.catalog.queries import queries_of
from raypipe.catalog.shards import Piece, RowGroup, SourceFile, SourceShard, cut
from raypipe.catalog.sources import Source
from raypipe.config import CatalogConfig
from raypipe.schemas import LISTINGS, QUARANTINE
from raypipe.store.artifacts import Artifact
from raypipe.store.manifest import File

NAMES = ("listing_id", "vertical")
_KEYED = (*NAMES, "images", "seller_values")
_RAW = (*_KEYED, "group_id")
_PREPARED = ["listing_id", "vertical", "split", "images", "image_hashes", "queries"]
ROWS_PER_BLOCK = 1024
REFUSED = "refused"
"""The column of prepared rows that holds a quarantine row where the listing cannot be asked."""
KEYS = pa.schema([(name, pa.string()) for name in (*NAMES, "source_key")])
"""What tells whether a listing has changed since it was labeled."""


def _rows_schema() -> pa.Schema:
    """Prepared listings and, with nothing but an id, refused ones."""
    kept = [*_PREPARED, "source_key"]
    fields = [LISTINGS.schema.field(name).with_nullable(True) for name in kept]
    refusal = pa.struct([(name, pa.string()) for name in QUARANTINE.schema.names])
    return pa.schema([*fields, (REFUSED, refusal), ("images_skipped", pa.int32())])


ROWS = _rows_schema()


class CatalogReader(Protocol):
    """Reads a catalog; goes with tasks to other nodes."""

    def shards(self) -> list[SourceShard]:
        """In the order of the files."""

    def names(self, piece: Piece) -> Iterator[pa.Table]:
        """``listing_id`` and ``vertical`` of every listing."""

    def keys(self, piece: Piece) -> Iterator[pa.Table]:
        """KEYS of every listing; no image is fetched."""

    def read(self, piece: Piece) -> Iterator[pa.Table]:
        """What :meth:`prepare` takes, in blocks."""

    def prepare(self, block: pa.Table) -> pa.Table:
        """ROWS of listings."""

    def has_image_files(self) -> bool:
        """Whether listings may name images by path: they change without the catalog's files."""


@dataclass(frozen=True)
class SourceReader:
    """Reads the user's files."""

    source: Source
    schema: AttributeSchema
    config: CatalogConfig

    def shards(self) -> list[SourceShard]:
        return self.source.shards()

    def names(self, piece: Piece) -> Iterator[pa.Table]:
        return self.source.read_piece(piece, NAMES, ROWS_PER_BLOCK)

    def keys(self, piece: Piece) -> Iterator[pa.Table]:
        for table in self.source.read_piece(piece, _KEYED, ROWS_PER_BLOCK):
            yield _keys(
                (row["listing_id"], row["vertical"], self._source_key(row))
                for row in table.to_pylist()
            )

    def read(self, piece: Piece) -> Iterator[pa.Table]:
        return self.source.read_piece(piece, _RAW, self.config.rows_per_file)

    def prepare(self, block: pa.Table) -> pa.Table:
        from raypipe.catalog.fetch import open_reader

        rows: list[dict[str, Any]] = []
        asked: list[dict[str, Any]] = block.to_pylist()
        with open_reader(self.config, self.source) as reader:
            reader.prefetch(image_names(asked, self.config.max_images))
            for row in asked:
                listing = prepare_listing(row, self.schema, self.config, reader.read)
                skipped = {"images_skipped": sum(listing.skipped.values())}
                if isinstance(listing, RefusedListing):
                    (refusal,) = quarantine_rows([listing])
                    rows.append({"listing_id": row["listing_id"], REFUSED: refusal} | skipped)
                else:
                    key = source_key(self._image_identities(row), listing.queries)
                    own = {"split": "pool", "source_key": key}
                    rows.append(listing.to_row() | own | skipped)
        return pa.Table.from_pylist(rows, schema=ROWS)

    def has_image_files(self) -> bool:
        source = self.source
        return source.directory is not None and any(one.names_images for one in source.footers)

    def _source_key(self, row: dict[str, Any]) -> str:
        known = row["vertical"] in self.schema.verticals
        attributes = self.schema.attributes(row["vertical"]) if known else ()
        queries = queries_of(attributes, seller_values(row["seller_values"]))
        return source_key(self._image_identities(row), queries)

    def _image_identities(self, row: dict[str, Any]) -> list[str]:
        source = self.source
        return image_identities(
            (row["images"] or ())[:MAX_LOOKED_AT],
            source.filesystem,
            source.directory,
            source.image_roots,
        )


@dataclass(frozen=True)
class PreparedReader:
    """Reads listings that a run has prepared already."""

    listings: Artifact

    def shards(self) -> list[SourceShard]:
        files = sorted(self._files.values(), key=lambda file: file.sha256)
        return cut(
            SourceFile(file.path, file.sha256, (RowGroup(file.rows or 0, file.size),))
            for file in files
        )

    def names(self, piece: Piece) -> Iterator[pa.Table]:
        yield self._rows(piece, list(NAMES))

    def keys(self, piece: Piece) -> Iterator[pa.Table]:
        rows = self._rows(piece, [*NAMES, "image_hashes", "queries"]).to_pylist()
        yield _keys((row["listing_id"], row["vertical"], prepared_key(row)) for row in rows)

    def read(self, piece: Piece) -> Iterator[pa.Table]:
        yield self._rows(piece, _PREPARED)

    def prepare(self, block: pa.Table) -> pa.Table:
        held = set(block.column_names)
        columns = [
            block.column(field.name).cast(field.type)
            if field.name in held
            else pa.nulls(len(block), field.type)
            for field in ROWS
        ]
        return pa.table(columns, schema=ROWS)

    def has_image_files(self) -> bool:
        return False

    @cached_property
    def _files(self) -> dict[str, File]:
        return {file.path: file for file in self.listings.files()}

    def _rows(self, piece: Piece, columns: list[str]) -> pa.Table:
        rows = self.listings.rows_of(self._files[piece.path], columns)
        return rows.slice(piece.first, piece.rows)


def _keys(rows: Iterable[tuple[str, str | None, str]]) -> pa.Table:
    columns = list(zip(*rows, strict=True)) or [()] * len(KEYS)
    return pa.table([pa.array(column, pa.string()) for column in columns], schema=KEYS)
