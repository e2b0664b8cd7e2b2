"""A sheet and its images as the Parquet file that ``catalog.listings`` names."""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from raypipe.catalog.images import MAX_BYTES
from raypipe.errors import ConfigError, InputError
from raypipe.ingest.columns import Columns
from raypipe.ingest.photos import Photos, is_address, split_names
from raypipe.ingest.refused import Refusals
from raypipe.ingest.sheets import Sheet, SheetRow
from raypipe.ingest.survey import Survey
from raypipe.security.identifiers import LISTING_ID

ROWS_PER_GROUP = 1000
# Images in the file are what memory holds of a group.
ROWS_PER_EMBEDDED_GROUP = 32
# Ten times what prepare looks at.
MAX_NAMES = 1000
_PAIRS = pa.list_(pa.struct({"attribute": pa.string(), "value": pa.string()}))


@dataclass
class ImportResult:
    """What came out of a sheet: what the written listings hold, the image files that belong to no
    row, and the directories outside the target directory below which some lie."""

    survey: Survey = field(default_factory=Survey)
    strangers: list[Path] = field(default_factory=list)
    image_roots: tuple[str, ...] = ()


class ListingImporter:
    """Turns rows into listings, or refuses them."""

    def __init__(
        self, sheet: Sheet, columns: Columns, photos: Photos | None, target: Path, *, embed: bool
    ) -> None:
        """
        Args:
            photos: the user's folder of images; None when there is none.
            target: the directory of the file to be written, where relative paths begin.
            embed: put the bytes of images into the file instead of their paths.
        """
        self._sheet = sheet
        self._columns = columns
        self._target = target.resolve()
        self._embed = embed
        folders = [*((photos.directory,) if photos else ()), sheet.path.parent]
        self._bases = [folder.absolute() for folder in folders]
        self._photos = photos.directory.resolve() if photos else None
        self._outside: set[Path] = set()
        self._result = ImportResult()
        self._files: Mapping[str, list[Path]] = {}
        if photos is not None:
            self._files, self._result.strangers = photos.by_listing(self._ids())
        self._named: set[Path] = set()

    def write(self, path: Path, refusals: Refusals) -> ImportResult:
        """Write the listings; what cannot be used goes to the refusals.

        Reasons: ``unreadable_row``, ``no_id``, ``bad_id``, ``doubled_id``, ``no_vertical``,
        ``too_many_images``, ``no_image``.

        Raises:
            InputError: no row can be used.
            ConfigError: images named by address cannot be embedded.
        """
        image = pa.binary() if self._embed else pa.string()
        schema = pa.schema(
            {
                "listing_id": pa.string(),
                "vertical": pa.string(),
                "images": pa.list_(image),
                "group_id": pa.string(),
                "seller_values": _PAIRS,
            }
        )
        partial = path.with_name(f".{path.name}.partial")
        try:
            with pq.ParquetWriter(partial, schema) as writer:
                for rows in self._groups(refusals):
                    writer.write_table(pa.Table.from_pylist(rows, schema=schema))
            if not self._result.survey.verticals:
                reasons = "; ".join(refusals.described()) or "it has none"
                raise InputError(f"no row of {self._sheet.path} can be used: {reasons}")
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
        result = self._result
        result.image_roots = self._image_roots()
        result.strangers = [file for file in result.strangers if file.absolute() not in self._named]
        return result

    def _ids(self) -> set[str]:
        rows = self._sheet.rows(lambda detail, lines: None)
        return {_text(row[self._columns.identifier]) for row in rows} - {""}

    def _groups(self, refusals: Refusals) -> Iterator[list[dict[str, Any]]]:
        size = ROWS_PER_EMBEDDED_GROUP if self._embed else ROWS_PER_GROUP
        group: list[dict[str, Any]] = []
        seen: set[str] = set()
        for row in self._sheet.rows(refusals.unreadable):
            listing = self._listing(row, seen, refusals)
            if listing is not None:
                group.append(listing)
            if len(group) == size:
                yield group
                group = []
        if group:
            yield group

    def _listing(self, row: SheetRow, seen: set[str], refusals: Refusals) -> dict[str, Any] | None:
        columns = self._columns
        listing_id = _text(row[columns.identifier])
        vertical = _text(row[columns.vertical]) if columns.vertical else columns.one_vertical
        given = [name for column in columns.images for name in split_names(row[column])]
        fault = self._fault(listing_id, vertical, seen)
        if fault is None and len(given) > MAX_NAMES:
            detail = f"{listing_id}: it names {len(given):,} images, at most {MAX_NAMES:,} are read"
            fault = ("too_many_images", detail)
        if fault is None:
            names, absent = self._images(given, listing_id)
            self._result.survey.missing += absent
            if not names:
                places = "beside the sheet or in --images"
                named = f"there is no {', '.join(absent)} {places}"
                detail = named if absent else "no image is named, and no file after it"
                fault = ("no_image", f"{listing_id}: {detail}"[:500])
        if fault is not None:
            refusals.add(*fault, row)
            return None
        seen.add(listing_id)
        sellers = {name.strip(): _text(row[name]) for name in columns.sellers}
        sellers = {name: text for name, text in sellers.items() if text}
        self._result.survey.add(vertical or "", sellers, names)
        return {
            "listing_id": listing_id,
            "vertical": vertical,
            "images": [_bytes_of(name) for name in names] if self._embed else names,
            "group_id": (_text(row[columns.group]) if columns.group else "") or None,
            "seller_values": [{"attribute": name, "value": sellers[name]} for name in sellers],
        }

    def _fault(
        self, listing_id: str, vertical: str | None, seen: set[str]
    ) -> tuple[str, str] | None:
        if not listing_id:
            return "no_id", f"the column '{self._columns.identifier}' is empty"
        if not LISTING_ID.fullmatch(listing_id):
            return "bad_id", f"'{listing_id[:130]}' does not match {LISTING_ID.pattern}"
        if listing_id in seen:
            return "doubled_id", f"'{listing_id}' is there already; the first row was taken"
        if not vertical:
            return "no_vertical", f"{listing_id}: the column '{self._columns.vertical}' is empty"
        return None

    def _images(self, given: list[str], listing_id: str) -> tuple[list[str], list[str]]:
        """What the listings file will name, and names in the row of which there is no file."""
        found: list[str] = []
        absent: list[str] = []
        for name in given:
            if is_address(name):
                self._refuse_embedding(name)
                found.append(name)
                continue
            file = self._file(name)
            if file is None:
                absent.append(name)
            else:
                self._named.add(file)
                found.append(self._name_of(file))
        if not found:
            found = [self._name_of(file) for file in self._files.get(listing_id, ())]
        return list(dict.fromkeys(found)), absent

    def _refuse_embedding(self, address: str) -> None:
        if self._embed:
            raise ConfigError(
                f"--embed needs image files, and '{address[:100]}' is an address; leave --embed "
                "away: raypipe prepare fetches it"
            )

    def _name_of(self, file: Path) -> str:
        """A path as the listings file names it: relative below its directory, absolute outside."""
        absolute = file.absolute()
        if self._embed:
            return str(absolute)
        resolved = absolute.resolve()
        if not resolved.is_relative_to(self._target):
            self._outside.add(resolved)
        if absolute.is_relative_to(self._target):
            return absolute.relative_to(self._target).as_posix()
        if resolved.is_relative_to(self._target):
            return resolved.relative_to(self._target).as_posix()
        return absolute.as_posix()

    def _file(self, name: str) -> Path | None:
        """The readable file of this name, which sellers may have chosen: only below the folder of
        images or of the sheet, wherever links lead."""
        for base in self._bases:
            file = Path(os.path.normpath(base / name))
            try:
                inside = file.is_relative_to(os.path.normpath(base)) and self._is_ours(file)
                if inside and file.is_file() and os.access(file, os.R_OK):
                    return file
            except (OSError, ValueError):  # too long for a name, or a null in it
                continue
        return None

    def _is_ours(self, file: Path) -> bool:
        place = file.resolve()
        return any(place.is_relative_to(base.resolve()) for base in self._bases)

    def _image_roots(self) -> tuple[str, ...]:
        """The folder of images, if some of it are outside the target directory, and the narrowest
        folder of the others that are."""
        photos = self._photos
        others = [f for f in self._outside if photos is None or not f.is_relative_to(photos)]
        roots = [str(photos)] if len(others) < len(self._outside) else []
        if others:
            roots.append(os.path.commonpath([file.parent for file in others]))
        return tuple(roots)


def _bytes_of(name: str) -> bytes:
    with open(name, "rb") as stream:
        return stream.read(MAX_BYTES + 1)


def _text(cell: str | list[str]) -> str:
    return cell if isinstance(cell, str) else ", ".join(cell)
