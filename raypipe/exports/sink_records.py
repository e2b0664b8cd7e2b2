"""Which parts of the labels a table holds: a file beside the table, which the table names.

The table keeps the file's name in the same commit as the rows, so that rows and record change
together. A file that is missing, or another one than the table names, is an empty record: parts are
then merged again, with the same values.
"""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

from raypipe import storage
from raypipe.store.run_directory import RunDirectory

FOLDER = "_raypipe"
"""Delta's VACUUM and Spark's removal of orphan files leave folders of such a name alone."""
_MARK_BYTES = 12


def part_mark(name: str, digest: str) -> str:
    """The digest of a part's name and content, 24 hexadecimal digits."""
    content = f"{len(name)}:{name}{digest}".encode()
    return hashlib.blake2b(content, digest_size=_MARK_BYTES).hexdigest()


def record_number(content: bytes) -> int:
    """What a table names a record by: 63 bits of its digest, which are a number of Delta's."""
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest()) >> 1


class PartRecords(ABC):
    """Records by their number."""

    def read(self, number: int | None) -> frozenset[str]:
        """The marks of a record; empty without a number or without its file.

        Raises:
            StorageError: the storage cannot be reached.
        """
        content = None if number is None else self._load(_file(number))
        if content is None or record_number(content) != number:
            return frozenset()
        return frozenset(content.decode().split())

    def write(self, marks: Iterable[str]) -> int:
        """Write a record, and return its number.

        Raises:
            StorageError: it cannot be written.
        """
        content = "\n".join(sorted(marks)).encode()
        number = record_number(content)
        self._save(_file(number), content)
        return number

    def remove(self, number: int | None) -> None:
        """Delete a record that no table names any more; one that stays does no harm."""
        if number is not None:
            with suppress(OSError):
                self._remove(_file(number))

    @abstractmethod
    def _load(self, path: str) -> bytes | None: ...

    @abstractmethod
    def _save(self, path: str, content: bytes) -> None: ...

    @abstractmethod
    def _remove(self, path: str) -> None: ...


class DirectoryRecords(PartRecords):
    """Below a table's directory."""

    def __init__(self, directory: RunDirectory) -> None:
        self._directory = directory

    def _load(self, path: str) -> bytes | None:
        return self._directory.read(path)

    def _save(self, path: str, content: bytes) -> None:
        self._directory.replace(path, content)

    def _remove(self, path: str) -> None:
        self._directory.filesystem.delete_file(self._directory.path(path))


class IcebergRecords(PartRecords):
    """Below an Iceberg table's location, by the file access that the table's catalog grants."""

    def __init__(self, table: Any) -> None:
        self._io, self._location = table.io, table.location().rstrip("/")

    def _load(self, path: str) -> bytes | None:
        place = f"{self._location}/{path}"
        with storage.storage_errors(f"cannot read {place}"):
            try:
                with self._io.new_input(place).open() as stream:
                    return bytes(stream.read())
            except FileNotFoundError:
                return None

    def _save(self, path: str, content: bytes) -> None:
        place = f"{self._location}/{path}"
        with (
            storage.storage_errors(f"cannot write {place}"),
            self._io.new_output(place).create(overwrite=True) as stream,
        ):
            stream.write(content)

    def _remove(self, path: str) -> None:
        self._io.delete(f"{self._location}/{path}")


def _file(number: int) -> str:
    return f"{FOLDER}/{number:016x}.parts"
