"""What tells whether a listing has changed since it was labeled."""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pyarrow.fs as pafs

from raypipe.catalog import paths
from raypipe.catalog.queries import Query


def source_key(images: Sequence[str], queries: Iterable[Query]) -> str:
    """Digest of what a listing's labels depend on beside the policy.

    Args:
        images: what tells its images apart: hashes of their bytes, or their names or addresses.
        queries: what it is asked, with the seller's values.
    """
    asked = [
        [query.attribute, query.prompt, list(query.options), query.seller_value]
        for query in queries
    ]
    canonical = json.dumps([list(images), asked])
    return hashlib.blake2b(canonical.encode(), digest_size=16).hexdigest()


def prepared_key(listing: Mapping[str, Any]) -> str:
    """The source key of a LISTINGS row; a training catalog's is made of its prepared images."""
    if listing.get("source_key"):
        return str(listing["source_key"])
    return source_key(listing["image_hashes"], (Query(**query) for query in listing["queries"]))


def image_identities(
    images: Iterable[bytes | str | None],
    filesystem: pafs.FileSystem,
    directory: str | None,
    roots: Sequence[str] = (),
) -> list[str]:
    """What tells the images of a row apart without fetching them.

    Bytes by their hash; a path beside the catalog by its name, size and time, or by its name alone
    where it may not be read; an address by itself: another photo behind it is not noticed.

    Raises:
        StorageError: the catalog's storage is out of reach.
    """
    names = [image or "" for image in images]
    known = {} if directory is None else _files(names, filesystem, directory, roots)
    return [
        known.get(name, name)
        if isinstance(name, str)
        else hashlib.blake2b(name, digest_size=16).hexdigest()
        for name in names
    ]


def _files(
    names: Iterable[bytes | str], filesystem: pafs.FileSystem, directory: str, roots: Sequence[str]
) -> dict[str, str]:
    """Name, size and time of those that are paths and may be read."""
    places: dict[str, str] = {}
    for name in names:
        if isinstance(name, str) and "://" not in name:
            place = paths.place_of(name, filesystem, directory, roots)
            if isinstance(place, str):
                places[name] = place
    infos = paths.look_at(filesystem, list(places.values()))
    return {
        name: f"{name} {info.size} {info.mtime_ns}"
        for name, info in zip(places, infos, strict=True)
        if info is not None
    }
