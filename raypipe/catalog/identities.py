"""What a slice of the catalog holds, as hashes of 16 bytes: ids, and what makes relatives of
listings. Beside the prepared rows it is small, and the whole catalog is searched through it."""

import hashlib
import io
from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from raypipe.store.id_hashes import HASH, Hashes, among, hash_texts, joined, order

Places = npt.NDArray[np.int32]


@dataclass(frozen=True)
class Identities:
    """Hashes of the listings of a slice.

    Args:
        prepared: ids of prepared listings.
        files: of each the place of its file among those of the pool; -1 for a named one.
        owners: of each tie the place of its listing in ``prepared``.
        ties: hashes of groups and images.
        refused: ids of refused listings.
        beyond: ids of listings that are not to be prepared.
    """

    prepared: Hashes
    files: Places
    owners: Places
    ties: Hashes
    refused: Hashes
    beyond: Hashes

    @classmethod
    def of(
        cls,
        prepared: Iterable[tuple[str, int, list[bytes]]],
        refused: Iterable[str],
        beyond: Iterable[str],
    ) -> Self:
        """Hash the ids.

        Args:
            prepared: id, file and ties of each listing.
        """
        listings = list(prepared)
        lengths = [len(ties) for _, _, ties in listings]
        return cls(
            _hashed(name for name, _, _ in listings),
            np.array([place for _, place, _ in listings], np.int32),
            np.repeat(np.arange(len(listings), dtype=np.int32), lengths),
            np.frombuffer(b"".join(tie for _, _, ties in listings for tie in ties), HASH),
            _hashed(refused),
            _hashed(beyond),
        )

    def extended(self, other: "Identities", num_files: int) -> "Identities":
        """With the prepared listings of another, whose files come after ``num_files`` of these, and
        refused ones of that other alone."""
        moved = np.where(other.files < 0, -1, other.files + num_files).astype(np.int32)
        return Identities(
            joined([self.prepared, other.prepared]),
            np.concatenate([self.files, moved]),
            np.concatenate([self.owners, other.owners + np.int32(len(self.prepared))]),
            joined([self.ties, other.ties]),
            other.refused,
            self.beyond,
        )

    def ids(self) -> Hashes:
        """Of all listings, in no order."""
        return joined([self.prepared, self.refused, self.beyond])

    def sharing(self, ties: Hashes) -> tuple[Hashes, set[int]]:
        """The pool listings that have one of some sorted ties, sorted, and their files."""
        places = np.unique(self.owners[among(self.ties, ties)])
        places = places[self.files[places] >= 0]
        found = self.prepared[places]
        return found[order(found)], set(self.files[places].tolist())

    def file_name(self, key: str) -> str:
        """What a file of these hashes is called, its sha256 included."""
        return f"{key}-{_sha256(self.to_bytes())}.npz"

    def to_bytes(self) -> bytes:
        content = io.BytesIO()
        arrays: dict[str, Any] = {one.name: getattr(self, one.name) for one in fields(self)}
        np.savez(content, **arrays)
        return content.getvalue()

    @classmethod
    def from_bytes(cls, content: bytes) -> Self:
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            return cls(**{one.name: arrays[one.name] for one in fields(cls)})


def is_named_by(name: str, content: bytes) -> bool:
    """Whether a file holds what its name says."""
    return name.endswith(f"-{_sha256(content)}.npz")


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def _hashed(names: Iterable[str]) -> Hashes:
    return hash_texts(name.encode() for name in names)
