"""Hashes of listing ids: 16 bytes each, sorted, one file a shard.

Ids of many shards are compared through them: a file is searched by its first eight bytes, and what
is found there is compared whole.
"""

import hashlib
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
import pyarrow as pa

HASH = np.dtype([("high", ">u8"), ("low", ">u8")])
HASH_BYTES = HASH.itemsize
Hashes = npt.NDArray[np.void]


def hash_ids(ids: pa.Array | pa.ChunkedArray) -> Hashes:
    """The hashes of ids, in their order."""
    return hash_texts(ids.cast(pa.large_binary()).to_pylist())


def hash_texts(texts: Iterable[bytes]) -> Hashes:
    """The same of encoded texts."""
    digests = (hashlib.blake2b(text, digest_size=HASH_BYTES).digest() for text in texts)
    return np.frombuffer(b"".join(digests), HASH)


def joined(arrays: Iterable[Hashes]) -> Hashes:
    """Hashes one after the other. NumPy itself would swap their bytes."""
    found = [np.empty(0, HASH), *arrays]
    whole = np.empty(sum(map(len, found)), HASH)
    np.concatenate(found, out=whole)
    return whole


def order(hashes: Hashes) -> npt.NDArray[np.int64]:
    """The places of hashes in rising order."""
    places: npt.NDArray[np.int64] = np.lexsort((hashes["low"], hashes["high"]))
    return places


def repeated(hashes: Hashes) -> npt.NDArray[np.int64]:
    """The places of hashes that are equal to an earlier one."""
    places = order(hashes)
    same = hashes[places][1:] == hashes[places][:-1]
    return np.sort(places[1:][same])


def among(hashes: Hashes, known: Hashes) -> npt.NDArray[np.bool_]:
    """Whether each of the hashes is among sorted ones."""
    if not len(known):
        return np.zeros(len(hashes), bool)
    places = np.minimum(_first(known, hashes["high"]), len(known) - 1)
    found: npt.NDArray[np.bool_] = known[places] == hashes
    # Two ids of which only the first eight bytes agree: once in ten billion pairs of billions.
    for place in np.flatnonzero(~found & (known["high"][places] == hashes["high"])):
        found[place] = bool((known == hashes[place]).any())
    return found


def shared(one: Hashes, other: Hashes) -> Hashes:
    """Hashes that are in both of two sorted arrays."""
    small, large = (one, other) if len(one) < len(other) else (other, one)
    return small[among(small, large)]


def within(hashes: Hashes, part: int, parts: int) -> Hashes:
    """Of sorted hashes those in one of equal ranges."""
    high = hashes["high"].astype(np.uint64)
    low_end, high_end = (np.uint64(min((1 << 64) * n // parts, (1 << 64) - 1)) for n in
                         (part, part + 1))  # fmt: skip
    last = len(high) if part + 1 == parts else np.searchsorted(high, high_end)
    return hashes[np.searchsorted(high, low_end) : last]


def _first(known: Hashes, wanted: npt.NDArray[np.uint64]) -> npt.NDArray[np.int64]:
    found: npt.NDArray[np.int64] = np.searchsorted(
        known["high"].astype(np.uint64), wanted.astype(np.uint64)
    )
    return found
