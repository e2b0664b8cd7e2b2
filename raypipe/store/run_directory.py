"""The files of a run, in a local directory or an object store: written and read whole."""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import obstore
import pyarrow.fs as pafs
from obstore.exceptions import AlreadyExistsError, BaseError, NotFoundError
from obstore.store import ObjectStore, from_url

from raypipe import storage
from raypipe.errors import ConfigError
from raypipe.store.documents import parse_object


class RunDirectory:
    """Where a run is, and its files by their path in it.

    An object store is configured by environment variables on every node: credentials and region
    (``AWS_ACCESS_KEY_ID``, ``AWS_REGION`` …) or the machine's role, and for an S3-compatible server
    ``AWS_ENDPOINT_URL``, with ``AWS_ALLOW_HTTP=true`` for http. Arrow and obstore read the same
    variables.

    Nothing is created before the first write.

    Args:
        location: local path or object-store URI.

    Raises:
        ConfigError: an unsupported kind of location.
        StorageError: the storage cannot be reached.
    """

    def __init__(self, location: str) -> None:
        storage.refuse_credentials(location)
        self.location = location if "://" in location else str(Path(location).resolve())
        try:
            with storage.storage_errors(f"cannot open {location}"):
                self.filesystem, self.root = pafs.FileSystem.from_uri(self.location)
        except ValueError as error:
            raise ConfigError(f"{location} is no place of a run: {error}") from error
        self.is_local = isinstance(self.filesystem, pafs.LocalFileSystem)

    @cached_property
    def _store(self) -> ObjectStore:
        return from_url(self.location)

    def __reduce__(self) -> tuple[type[Self], tuple[str]]:
        return (type(self), (self.location,))

    def path(self, *parts: str) -> str:
        return "/".join((self.root, *parts))

    def create(self, path: str, content: bytes) -> bool:
        """Create a file atomically; False, without a change, if it already exists.

        Raises:
            StorageError: the file cannot be written.
        """
        if self.is_local:
            return storage.put(Path(self.path(path)), content, create=True)
        try:
            obstore.put(self._store, path, content, mode="create")
        except AlreadyExistsError:
            return False
        except (BaseError, OSError) as error:
            raise storage.failed(f"cannot write {self.path(path)}", error) from error
        return True

    def replace(self, path: str, content: bytes) -> None:
        """Replace a file atomically, for derived files (summary, report).

        Raises:
            StorageError: the file cannot be written.
        """
        if self.is_local:
            storage.put(Path(self.path(path)), content)
            return
        try:
            obstore.put(self._store, path, content)
        except (BaseError, OSError) as error:
            raise storage.failed(f"cannot write {self.path(path)}", error) from error

    def read_json(self, path: str, remedy: str = "") -> dict[str, Any] | None:
        """A JSON object outside of artifacts; None if missing. Raises ArtifactError, whose message
        ends with ``remedy``, if it is broken."""
        content = self.read(path)
        return None if content is None else parse_object(content, self.path(path), remedy)

    def read(self, path: str) -> bytes | None:
        """The bytes of a file; None if missing.

        Raises:
            ArtifactError: the path is not a regular file.
            StorageError: the storage cannot be reached, or denies access.
        """
        if not self.is_local:
            return self._read_object(path)
        storage.refuse_irregular(self.filesystem, self.path(path))
        try:
            with self.filesystem.open_input_stream(self.path(path)) as stream:
                return bytes(stream.read())
        except FileNotFoundError:
            return None
        except OSError as error:
            raise storage.failed(f"cannot read {self.path(path)}", error) from error

    def _read_object(self, path: str) -> bytes | None:
        try:
            return bytes(obstore.get(self._store, path).bytes())
        except (FileNotFoundError, NotFoundError):
            return None
        except (BaseError, OSError) as error:
            raise storage.failed(f"cannot read {self.path(path)}", error) from error

    def delete(self, paths: Sequence[str]) -> None:
        """Delete files; one that is gone already is no error.

        Raises:
            StorageError: one cannot be deleted.
        """
        if not paths:
            return
        with storage.storage_errors(f"cannot delete {self.path(paths[0])}"):
            if self.is_local:
                for path in paths:
                    Path(self.path(path)).unlink(missing_ok=True)
                return
        try:
            obstore.delete(self._store, list(paths))
        except (FileNotFoundError, NotFoundError):
            pass
        except (BaseError, OSError) as error:
            raise storage.failed(f"cannot delete {self.path(paths[0])}", error) from error

    def look(self, what: pafs.FileSelector | list[str]) -> list[pafs.FileInfo]:
        """File infos from the storage. Raises StorageError if it cannot be reached."""
        with storage.storage_errors(f"cannot look into {self.location}"):
            return list(self.filesystem.get_file_info(what))
