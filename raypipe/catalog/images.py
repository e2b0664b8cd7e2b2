"""One image: from the bytes of a stranger to the pixels that the model sees.

What cannot be used comes back as a :class:`Refusal`; nothing is raised for bad bytes.
"""

import hashlib
import io
from dataclasses import dataclass

from PIL import Image, ImageOps, UnidentifiedImageError

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP")
MAX_BYTES = 1 << 26
JPEG_QUALITY = 95
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
    """Why an image cannot be used.

    Of its content: ``empty``, ``too_many_bytes``, ``unknown_format``, ``too_many_pixels``,
    ``broken``.

    Of a path: ``missing_file``, ``unreadable_file``.

    Of a URI, before anyone is asked: ``bad_uri`` (not valid, or with credentials),
    ``scheme_not_allowed``, ``host_not_allowed``, ``private_address`` (the host is not on the public
    internet). Each may also be the end of a redirect.

    Of an answer: ``not_found`` (404, 410), ``refused_by_server`` (any other 4xx), ``server_error``
    (429, 5xx) and ``unreachable`` (no connection, silent, too slow) after all attempts,
    ``too_many_redirects``, ``too_many_bytes``.
    """

    reason: str
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
        return Refusal("empty", "no bytes")
    if len(content) > MAX_BYTES:
        return Refusal("too_many_bytes", f"{len(content)} bytes, at most {MAX_BYTES} are read")
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            width, height = image.size
            if width * height > max_pixels:
                return Refusal("too_many_pixels", f"{width} x {height} pixels")
            flat = _flatten(ImageOps.exif_transpose(image))
    except UnidentifiedImageError:
        return Refusal("unknown_format", f"{_kind(content)}, not one of {', '.join(FORMATS)}")
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        return Refusal("too_many_pixels", str(error))
    except Exception as error:  # noqa: BLE001 - on hostile bytes Pillow's decoders raise anything
        return Refusal("broken", f"{type(error).__name__}: {error}")
    return _encode(flat.resize((size, size), Image.Resampling.BICUBIC))


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
    image.save(encoded, "JPEG", quality=JPEG_QUALITY, subsampling=0)
    return Picture(encoded.getvalue(), pixel_hash)
