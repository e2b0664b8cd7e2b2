"""A directory of Parquet files as a sink: a file for each part, and a manifest that lists them.

    <directory>/_raypipe.json          the files of the newest labels, replaced atomically
    <directory>/part-<mark>.parquet    a part's rows; never changed

The manifest is replaced once all files are there, and then the files are deleted that it no longer
lists. A table is upserted; this is the view itself, so that listings which left the catalog are
gone from it.
"""

import json
import re
from collections.abc import Callable, Mapping
from typing import Any

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from raypipe import storage
from raypipe.config.sinks import SinkLocation
from raypipe.errors import InputError
from raypipe.store.run_directory import RunDirectory

MANIFEST = "_raypipe.json"
_FILE = re.compile(r"part-[0-9a-f]{24}\.parquet")
# What storage.put leaves of a write that was killed.
_PARTIAL = re.compile(rf"({_FILE.pattern}|{re.escape(MANIFEST)})#\d+")
_REMEDY = "delete it, and the same command writes all parts again"


class ParquetSink:
    """Writes parts as files.

    Raises:
        ConfigError: an unsupported kind of location.
    """

    def __init__(self, location: SinkLocation) -> None:
        self._location = location
        self._directory = RunDirectory(location.place)

    def write(
        self, parts: Mapping[str, tuple[str, Callable[[], pa.Table]]], note: str
    ) -> list[int]:
        """Make the directory hold these parts and no others.

        Args:
            parts: name and reader of each, by its mark.
            note: a text for people, in the manifest.

        Returns:
            The rows of each part that was written; parts that are there already are not read.

        Raises:
            InputError: the directory holds other things, or parts of other columns.
            StorageError: it cannot be read or written.
        """
        manifest = self._manifest()
        listed = {file["file"]: file for file in manifest["files"]}
        names = self._names()
        there = {name for name in names if _FILE.fullmatch(name)}
        written = []
        files = []
        for mark, (name, read) in parts.items():
            file = f"part-{mark}.parquet"
            if file in listed and file in there:
                files.append(listed[file])
                continue
            rows = read()
            columns = {field.name: str(field.type) for field in rows.schema}
            if manifest["columns"] not in ({}, columns):
                raise InputError(
                    f"{self._location} holds labels of other columns; name a new directory in "
                    "labeling.sink"
                )
            manifest["columns"] = columns
            if file not in there:  # what an interrupted call wrote is whole
                self._write(file, rows)
                written.append(len(rows))
            files.append({"file": file, "part": name, "rows": len(rows)})
        if [*map(_name, files)] != [*map(_name, manifest["files"])]:
            self._replace(manifest | {"labels": note, "files": files})
        partial = {name for name in names if _PARTIAL.fullmatch(name)}
        for file in (there | partial) - set(map(_name, files)):
            self._delete(file)
        return written

    def _manifest(self) -> dict[str, Any]:
        """The manifest; an empty one for a directory that holds no other files than parts."""
        found = self._directory.read_json(MANIFEST, _REMEDY)
        if found is not None:
            return found
        if not all(_FILE.fullmatch(name) or _PARTIAL.fullmatch(name) for name in self._names()):
            raise InputError(
                f"{self._location} holds files and no {MANIFEST}: labels are written to a "
                "directory of their own"
            )
        return {"labels": "", "columns": {}, "files": []}

    def _names(self) -> set[str]:
        """What is in the directory."""
        directory = self._directory
        selector = pafs.FileSelector(directory.root, allow_not_found=True)
        return {info.base_name for info in directory.look(selector)}

    def _write(self, file: str, rows: pa.Table) -> None:
        content = pa.BufferOutputStream()
        pq.write_table(rows, content, write_page_checksum=True, compression="zstd")
        self._directory.replace(file, content.getvalue().to_pybytes())

    def _replace(self, manifest: Mapping[str, Any]) -> None:
        self._directory.replace(MANIFEST, json.dumps(manifest, indent=1).encode())

    def _delete(self, file: str) -> None:
        place = self._directory.path(file)
        with storage.storage_errors(f"cannot delete {place}"):
            self._directory.filesystem.delete_file(place)


def _name(file: Mapping[str, Any]) -> str:
    return str(file["file"])
