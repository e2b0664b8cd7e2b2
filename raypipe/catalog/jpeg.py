"""What a JPEG file asks of its decoder, counted before it is decoded.

Every scan of a progressive file passes over the whole image, so a file of a few kilobytes may ask
for hours. Every tag of its metadata may name the same bytes, which are copied for each.
"""

import re
import struct
from collections.abc import Iterator

# libjpeg's own script makes 10 scans of a photo, and the most thorough optimizers below 30.
MAX_SCANS = 100
# Scans of an image as large as may be; a smaller one may have more of them.
MAX_FULL_SCANS = 20
MAX_SEGMENTS = 10_000
# Bytes before the first scan: a profile and a depth map have room.
MAX_HEADER = 1 << 24
# Bytes that the tags of one directory may name, all together.
MAX_TAG_BYTES = 1 << 26
_SOS, _EOI = 0xDA, 0xD9
_SIZES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_ALONE = frozenset({0x01, *range(0xD0, _SOS)})
_MARKER = re.compile(rb"\xff[^\x00\xff]")
# Inside a scan, markers of restarts belong to its data.
_AFTER_SCAN = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")


def excess(content: bytes, max_pixels: int) -> str | None:
    """What of this JPEG file is more than a photo needs; None where nothing is."""
    pixels = scans = header = 0
    exif: list[bytes] = []
    for number, (marker, body) in enumerate(_segments(content)):
        if number == MAX_SEGMENTS:
            return f"more than {MAX_SEGMENTS} segments"
        header += 0 if scans else len(body)
        if header > MAX_HEADER:
            return f"more than {MAX_HEADER} bytes before its pixels"
        if marker == _SOS:
            scans += 1
            if scans > MAX_SCANS or scans * pixels > MAX_FULL_SCANS * max_pixels:
                return f"{scans} scans or more of {pixels} pixels"
        elif marker in _SIZES and len(body) >= 5:
            height, width = struct.unpack(">HH", body[1:5])
            pixels = max(pixels, width * height)
        elif marker == 0xE1 and body.startswith(b"Exif\0\0"):
            exif.append(body[6:])
        elif marker == 0xE2 and body.startswith(b"MPF\0") and has_many_tags(body[4:]):
            return "a directory of its other images with too many tags"
    return "EXIF with too many tags" if has_many_tags(b"".join(exif)) else None


def has_many_tags(metadata: bytes) -> bool:
    """Whether reading the first directory of EXIF could copy more than ``MAX_TAG_BYTES``."""
    metadata = metadata.removeprefix(b"Exif\0\0")
    order = {b"II": "<", b"MM": ">"}.get(metadata[:2])
    if order is None or len(metadata) < 8:
        return False  # nobody reads it either
    version, offset = struct.unpack(f"{order}HL", metadata[2:8])
    counted = metadata[offset : offset + 2]
    tags = struct.unpack(f"{order}H", counted)[0] if len(counted) == 2 else 0
    most = len(metadata) // 12
    return (most if version == 43 else min(tags, most)) * len(metadata) > MAX_TAG_BYTES


def _segments(content: bytes) -> Iterator[tuple[int, bytes]]:
    """Markers and what follows each, as decoders find them: junk between segments is passed over.

    What comes after the image, such as a preview or a film, is left out.
    """
    place, pattern = 2, _MARKER
    while (found := pattern.search(content, place)) is not None:
        marker, place = content[found.end() - 1], found.end()
        if marker == _EOI and pattern is _AFTER_SCAN:
            return
        if marker in _ALONE:
            continue
        length = int.from_bytes(content[place : place + 2])
        yield marker, content[place + 2 : place + length]
        place += max(2, length)
        if marker == _SOS:
            pattern = _AFTER_SCAN
