"""One image: from the bytes of a stranger to the pixels that the model sees.

What cannot be used comes back as a :class:`Refusal`; nothing is raised for bad bytes.
"""

import hashlib
import io
from dataclasses import dataclass

from PIL import Image, ImageOps, UnidentifiedImageError

from raypipe.catalog import jpeg
from raypipe.store.quarantine import (
    BROKEN,
    EMPTY,
    TOO_COMPLEX,
    TOO_MANY_BYTES,
    TOO_MANY_PIXELS,
    UNKNOWN_FORMAT,
    ImageReason,
)

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP")
MAX_BYTES = 1 << 26
JPEG_QUALITY = 95
# Pillow reads what is not pixels piece by piece, at up to 20 microseconds each. A photo's header
# takes some hundred pieces; 64 MB of PNG in chunks of 4 KB take 70,000.
MAX_HEADER_READS = 10_000
MAX_READS = 200_000
# Each of these chunks of a PNG file is unpacked to at most a megabyte, needed or not.
MAX_PACKED_CHUNKS = 256
_PACKED_CHUNKS = (b"iCCP", b"zTXt", b"iTXt")
_PNG = b"\x89PNG"
_JPEG = b"\xff\xd8\xff"
_DETAIL = 300
_DRAFT = 2
"""An image is decoded at no fewer pixels a side than this many times the result's."""
# How what is often sent instead of an image begins, in lower case.
_OTHER_KINDS = (
    (b"<svg", "image/svg+xml"),
    (b"<?xml", "text/xml"),
    (b"%pdf", "application/pdf"),
    (b"{", "application/json"),
    (b"\x1f\x8b", "application/gzip"),
    (b"ii*\0", "image/tiff"),
    (b"mm\0*", "image/tiff"),
)


@dataclass(frozen=True)
class Picture:
    """A squashed image: its JPEG bytes and the hash of its pixels before they were encoded."""

    encoded: bytes
    pixel_hash: str


@dataclass(frozen=True)
class Refusal:
    """Why an image cannot be used."""

    reason: ImageReason
    detail: str


def squash(content: bytes, size: int, max_pixels: int) -> Picture | Refusal:
    """Decode an image and squash it to ``size`` x ``size`` RGB pixels.

    Upright by its EXIF orientation, first frame, transparency on white. The result is encoded once,
    as JPEG without chroma subsampling: a third of PNG's bytes, and every later reader decodes the
    same pixels from the same bytes. The hash is of the squashed pixels, so that copies of a photo
    with other metadata, or losslessly stored in another format, count as one.

    Args:
        content: an encoded file, of one of ``FORMATS``.
        size: side of the result in pixels.
        max_pixels: an image that declares more is refused before it is decoded.
    """
    if not content:
        return Refusal(EMPTY, "no bytes")
    if len(content) > MAX_BYTES:
        return Refusal(TOO_MANY_BYTES, f"{len(content)} bytes, at most {MAX_BYTES} are read")
    excess = _excess(content, max_pixels)
    if excess is not None:
        return Refusal(TOO_COMPLEX, excess)
    stream = _CountedReads(content)
    try:
        with Image.open(stream, formats=FORMATS) as image:
            width, height = image.size
            if width * height > max_pixels:
                return Refusal(TOO_MANY_PIXELS, f"{width} x {height} pixels")
            stream.left = MAX_READS
            # A JPEG file decodes at a half, quarter or eighth for less; what is left is still large
            # enough for the resizing to choose its pixels.
            image.draft(None, (_DRAFT * size, _DRAFT * size))
            flat = _flatten(_upright(image))
        return _encode(flat.resize((size, size), Image.Resampling.BICUBIC))
    except UnidentifiedImageError:
        return Refusal(UNKNOWN_FORMAT, f"{_kind(content)}, not one of {', '.join(FORMATS)}")
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        return Refusal(TOO_MANY_PIXELS, str(error))
    except _TooComplexError as error:
        return Refusal(TOO_COMPLEX, str(error))
    except Exception as error:  # noqa: BLE001 - on hostile bytes Pillow's decoders raise anything
        return Refusal(BROKEN, f"{type(error).__name__}: {error}"[:_DETAIL])


class _TooComplexError(Exception):
    pass


class _CountedReads(io.BytesIO):
    """The bytes of an image, which may be read so many times."""

    left = MAX_HEADER_READS

    def read(self, size: int | None = -1, /) -> bytes:
        self.left -= 1
        if self.left < 0:
            raise _TooComplexError("it is in too many pieces")
        return super().read(size)


def _excess(content: bytes, max_pixels: int) -> str | None:
    """What of an image file would take minutes; None where nothing would."""
    if content.startswith(_JPEG):
        return jpeg.excess(content, max_pixels)
    if content.startswith(_PNG) and sum(map(content.count, _PACKED_CHUNKS)) > MAX_PACKED_CHUNKS:
        return f"more than {MAX_PACKED_CHUNKS} packed texts and profiles"
    return None


def _upright(image: Image.Image) -> Image.Image:
    """Turned by its EXIF orientation."""
    image.load()  # a PNG may hold EXIF behind its pixels, or as a text
    text = image.info.get("Raw profile type exif")
    if text is not None and "exif" not in image.info:
        image.info["exif"] = bytes.fromhex("".join(text.split("\n")[3:]))
    if jpeg.has_many_tags(image.info.get("exif", b"")):
        raise _TooComplexError("EXIF with too many tags")
    return ImageOps.exif_transpose(image)


def _kind(content: bytes) -> str:
    """What bytes of another format are, as far as their beginning tells."""
    head = content[:1024].removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if head.startswith((b"<!doctype html", b"<!--")) or b"<html" in head:
        return "text/html"
    if head[4:12] in (b"ftypavif", b"ftypheic"):
        return f"image/{head[8:12].decode()}"
    kinds = (kind for sign, kind in _OTHER_KINDS if head.startswith(sign))
    return next(kinds, "unknown content")


def _flatten(image: Image.Image) -> Image.Image:
    """Any mode as RGB: transparency on white, 16-bit greys by their high byte."""
    if image.mode.startswith("I"):
        image = image.point(lambda level: level / 256).convert("L")
    if not image.has_transparency_data:
        return image.convert("RGB")
    layer = image.convert("RGBA")
    white = Image.new("RGBA", layer.size, "white")
    return Image.alpha_composite(white, layer).convert("RGB")


def _encode(image: Image.Image) -> Picture:
    pixel_hash = hashlib.blake2b(image.tobytes(), digest_size=16).hexdigest()
    encoded = io.BytesIO()
    # Pillow would write the comment of a stranger, and fail on a long one.
    image.save(encoded, "JPEG", quality=JPEG_QUALITY, subsampling=0, comment=b"")
    return Picture(encoded.getvalue(), pixel_hash)
