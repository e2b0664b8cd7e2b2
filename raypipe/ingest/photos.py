"""Image files of a user's folder, and the cells that name images."""

import os
import re
from collections import defaultdict
from collections.abc import Collection, Iterator
from pathlib import Path

from raypipe.errors import InputError

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp")
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_ENDS_IN_ADDRESS = re.compile(r"[A-Za-z0-9+.-]://\S*\Z")
_NUMBER = re.compile(r"(\d+)")


def is_address(name: str) -> bool:
    """Whether an image is named by a URI, which raypipe fetches, and not by a path."""
    return _SCHEME.match(name) is not None


def split_names(cell: str | list[str]) -> list[str]:
    """The images that a cell names.

    Several are separated by ``|`` or line breaks; by ``;``, commas or spaces too, where what is
    between them all looks like images. An address runs to white space, ``|`` or the next address:
    it may hold semicolons and commas of its own.
    """
    if isinstance(cell, list):
        return cell
    pieces = (piece.strip(" \t\r;,") for piece in re.split(r"[|\n]", cell))
    return [name for piece in pieces if piece for name in _several(piece, ";,")]


def _several(piece: str, separators: str) -> list[str]:
    """The images of a piece that is separated by these, the first before the others, or spaces."""
    parts = _cut(piece, separators[0]) if separators else piece.split()
    if len(parts) > 1 and all(is_address(part) or _is_image(part) for part in parts):
        return [name for part in parts for name in _several(part, separators[1:])]
    return _several(piece, separators[1:]) if separators else [piece]


def _cut(piece: str, separator: str) -> list[str]:
    """The parts between separators that are not inside an address."""
    parts: list[list[str]] = []
    in_address = False
    for part in piece.split(separator):
        if in_address and part[:1].strip() and not is_address(part):
            parts[-1].append(part)
            in_address = len(part.split()) == 1 or _ends_in_address(part)
        else:
            parts.append([part])
            in_address = _ends_in_address(part)
    joined = (separator.join(part).strip() for part in parts)
    return [part for part in joined if part]


def _ends_in_address(text: str) -> bool:
    return _ENDS_IN_ADDRESS.search(text) is not None


def _is_image(name: str) -> bool:
    return name.lower().endswith(SUFFIXES)


class Photos:
    """The image files below a directory, in an order in which 2 comes before 10."""

    def __init__(self, directory: Path) -> None:
        """Raises InputError when there is no such directory."""
        if not directory.is_dir():
            raise InputError(f"there is no directory {directory}; --images names a folder")
        self.directory = directory
        self.files = tuple(sorted(_below(directory), key=_natural))

    def by_listing(self, ids: Collection[str]) -> tuple[dict[str, list[Path]], list[Path]]:
        """The files of each listing, and those of none.

        A file belongs to the listing that is called as one of its folders is, as it is itself
        without its ending (``<id>.jpg``), or as it begins before a separator (``<id>_1.jpg``,
        ``<id>-back.png``); the longest such id wins.
        """
        found: dict[str, list[Path]] = defaultdict(list)
        strangers: list[Path] = []
        for file in self.files:
            owner = next((name for name in _owners(file) if name in ids), None)
            if owner is None:
                strangers.append(self.directory / file)
            else:
                found[owner].append(self.directory / file)
        return dict(found), strangers


def _below(directory: Path) -> Iterator[Path]:
    for folder, folders, names in os.walk(directory):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            if _is_image(name) and not name.startswith("."):
                yield (Path(folder) / name).relative_to(directory)


def _owners(file: Path) -> Iterator[str]:
    yield from reversed(file.parent.parts)
    stem = file.stem
    while stem:
        yield stem
        cut = max(stem.rfind(separator) for separator in "_- .(")
        stem = stem[: max(cut, 0)]


def _natural(file: Path) -> list[tuple[bool, int, str]]:
    """``a.jpg`` before ``a_2.jpg`` before ``a_10.jpg``, folder by folder."""
    parts = (*file.parent.parts, file.stem, file.suffix)
    pieces = (piece for part in parts for piece in (*_NUMBER.split(part), ""))
    return [(piece.isdecimal(), int(piece) if piece.isdecimal() else 0, piece) for piece in pieces]
