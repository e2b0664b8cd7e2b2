"""The gallery of flips, like the paper's Table 7: what training changed, for better and worse."""

import base64
import hashlib
import io
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image

from raypipe.report.run_data import read_evaluation
from raypipe.schemas import LISTINGS
from raypipe.store.artifacts import Artifact, Run
from raypipe.store.paths import CATALOG

THUMBNAIL_SIDE = 200
JPEG_QUALITY = 82
_REASONING = re.compile(r"<reasoning>(.*?)</reasoning>", re.DOTALL)
_TAG = re.compile(r"</?(?:reasoning|answer)>")


@dataclass(frozen=True)
class ShownReply:
    """What one policy said about a query, taken apart for reading."""

    answer: str | None
    reason: str
    reasoning: str
    correct: bool


@dataclass(frozen=True)
class Flip:
    """A query that one policy got right and the other wrong."""

    listing_id: str
    vertical: str
    attribute: str
    truth: str
    before: ShownReply
    after: ShownReply


@dataclass(frozen=True)
class GalleryEntry:
    """A flip with the listing it is about."""

    flip: Flip
    images: tuple[str, ...]
    options: tuple[str, ...]
    seller_value: str | None


@dataclass(frozen=True)
class Gallery:
    mended: tuple[GalleryEntry, ...]
    broken: tuple[GalleryEntry, ...]
    num_mended: int
    num_broken: int


def build_gallery(run: Run, before: str, after: str, size: int = 6) -> Gallery:
    """Choose up to ``size`` flips each way between two scopes and fetch their listings."""
    flips = find_flips(read_evaluation(run, before), read_evaluation(run, after))
    mended = [flip for flip in flips if flip.after.correct]
    broken = [flip for flip in flips if flip.before.correct]
    shown = choose(mended, size), choose(broken, size)
    listings = _read_listings(
        run.artifact(CATALOG.listings, LISTINGS),
        {flip.listing_id for flips in shown for flip in flips},
    )
    exhibits = [tuple(_exhibit(flip, listings) for flip in flips) for flips in shown]
    return Gallery(exhibits[0], exhibits[1], len(mended), len(broken))


def find_flips(before: pa.Table, after: pa.Table) -> list[Flip]:
    """Queries of the eval split on which exactly one of two policies is right."""
    earlier = {(row["listing_id"], row["attribute"]): row for row in _eval_rows(before)}
    flips = []
    for row in _eval_rows(after):
        other = earlier.get((row["listing_id"], row["attribute"]))
        if other is not None and other["correct"] != row["correct"]:
            place = (row["listing_id"], row["vertical"], row["attribute"], row["truth"])
            flips.append(Flip(*place, _reply(other), _reply(row)))
    return flips


def choose(flips: Iterable[Flip], size: int) -> list[Flip]:
    """Up to ``size`` flips, one vertical after another, drawn by hash of their ids.

    Neither the order of rows nor how telling an example is has a say in it.
    """
    by_vertical: dict[str, list[Flip]] = {}
    for flip in sorted(flips, key=_lot):
        by_vertical.setdefault(flip.vertical, []).append(flip)
    ranked = [
        (rank, _lot(flip), flip)
        for members in by_vertical.values()
        for rank, flip in enumerate(members)
    ]
    ranked.sort(key=lambda entry: entry[:2])
    return [flip for _, _, flip in ranked[:size]]


def _lot(flip: Flip) -> bytes:
    name = f"{flip.listing_id}\0{flip.attribute}".encode()
    return hashlib.blake2b(name, digest_size=8).digest()


def _eval_rows(table: pa.Table) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = table.filter(pc.equal(table.column("split"), "eval")).to_pylist()
    return rows


def _reply(row: dict[str, Any]) -> ShownReply:
    found = _REASONING.search(row["text"])
    if found:
        reasoning = found.group(1)
    else:
        # Without a closed reasoning there is nothing to take out: show all that was said.
        reasoning = row["text"] if row["answer"] is None else _TAG.sub(" ", row["text"])
    return ShownReply(row["answer"], row["reason"], reasoning.strip(), row["correct"])


def _exhibit(flip: Flip, listings: dict[str, dict[str, Any]]) -> GalleryEntry:
    listing = listings.get(flip.listing_id)
    if listing is None:
        return GalleryEntry(flip, (), (flip.truth,), None)
    asked = [query for query in listing["queries"] if query["attribute"] == flip.attribute]
    options = tuple(asked[0]["options"]) if asked else (flip.truth,)
    seller_value = asked[0]["seller_value"] if asked else None
    return GalleryEntry(flip, _thumbnails(listing["images"]), options, seller_value)


def _read_listings(artifact: Artifact, ids: set[str]) -> dict[str, dict[str, Any]]:
    """The listings with these ids; files that hold none of them are not read for images."""
    if not ids or artifact.commit() is None:
        return {}
    wanted = pa.array(sorted(ids))
    found: dict[str, dict[str, Any]] = {}
    for file in artifact.files():
        names = artifact.rows_of(file, ["listing_id"]).column("listing_id")
        if not pc.any(pc.is_in(names, wanted)).as_py():
            continue
        table = artifact.rows_of(file, ["listing_id", "images", "queries"])
        rows = table.filter(pc.is_in(table.column("listing_id"), wanted)).to_pylist()
        found |= {row["listing_id"]: row for row in rows}
    return found


def _thumbnails(images: Sequence[bytes]) -> tuple[str, ...]:
    return tuple(data for image in images[:5] if (data := _thumbnail(image)) is not None)


def _thumbnail(image: bytes) -> str | None:
    """A small JPEG as a data URI; encoded anew, so that only pixels reach the page."""
    try:
        with Image.open(io.BytesIO(image)) as picture:
            small = picture.convert("RGB")
    except (OSError, ValueError, Image.DecompressionBombError):
        return None
    small.thumbnail((THUMBNAIL_SIDE, THUMBNAIL_SIDE), Image.Resampling.LANCZOS)
    encoded = io.BytesIO()
    small.save(encoded, "JPEG", quality=JPEG_QUALITY, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(encoded.getvalue()).decode()
