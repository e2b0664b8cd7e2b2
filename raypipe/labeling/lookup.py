"""Listings of a labeled catalog by their ids, prepared again for people to look at."""

from collections.abc import Collection
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from raypipe.catalog.distributed import REFUSED, CatalogReader
from raypipe.catalog.shards import Piece
from raypipe.catalog.survey import id_hashes, surveyed
from raypipe.store.artifacts import Run
from raypipe.store.id_hashes import among, hash_ids


def find_listings(
    run: Run, reader: CatalogReader, listing_ids: Collection[str]
) -> dict[str, dict[str, Any]]:
    """The prepared rows of listings, by id. What the catalog no longer holds as it was surveyed is
    left out.

    Raises:
        InputError, StorageError: the catalog cannot be read.
    """
    found: dict[str, dict[str, Any]] = {}
    wanted = pa.array(sorted(listing_ids), pa.string())
    hashes, known = hash_ids(wanted), surveyed(run)
    for shard in reader.shards():
        if len(found) == len(wanted):
            break
        if shard.key not in known:
            continue
        inside = wanted.filter(pa.array(among(hashes, id_hashes(run, shard.key))))
        for piece in shard.pieces if len(inside) else ():
            if _holds(reader, piece, inside):
                found |= _rows(reader, piece, inside)
    return found


def _holds(reader: CatalogReader, piece: Piece, ids: pa.Array) -> bool:
    return any(
        pc.any(pc.is_in(table.column("listing_id"), ids), min_count=0).as_py()
        for table in reader.names(piece)
    )


def _rows(reader: CatalogReader, piece: Piece, ids: pa.Array) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for table in reader.read(piece):
        chosen = table.filter(pc.is_in(table.column("listing_id"), ids))
        for row in reader.prepare(chosen).to_pylist() if len(chosen) else ():
            if row[REFUSED] is None:
                found[row["listing_id"]] = row
    return found
