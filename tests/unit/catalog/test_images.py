"""Images of strangers: every format that sellers send becomes the same kind of pixels."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from raypipe.catalog.images import MAX_BYTES, Picture, Refusal, squash

SIZE = 28
LIMIT = 1_000_000


def encoded(image, form="PNG", **options):
    stream = io.BytesIO()
    image.save(stream, form, **options)
    return stream.getvalue()


def pixels(picture):
    assert isinstance(picture, Picture)
    image = Image.open(io.BytesIO(picture.encoded))
    assert (image.format, image.mode, image.size) == ("JPEG", "RGB", (SIZE, SIZE))
    return np.asarray(image).astype(int)


def noise(width=61, height=47):
    values = np.random.default_rng(7).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(values)


def assert_color(picture, color):
    assert np.abs(pixels(picture) - np.array(color)).max() <= 3


def test_squash_is_bicubic_and_nearly_lossless():
    expected = np.asarray(noise().resize((SIZE, SIZE), Image.Resampling.BICUBIC)).astype(int)
    assert np.abs(pixels(squash(encoded(noise()), SIZE, LIMIT)) - expected).mean() < 4


def test_the_same_bytes_give_the_same_bytes():
    content = encoded(noise())
    assert squash(content, SIZE, LIMIT) == squash(content, SIZE, LIMIT)


def test_copies_in_other_files_have_one_hash():
    png, bmp = encoded(noise()), encoded(noise(), "BMP")
    assert squash(png, SIZE, LIMIT) == squash(bmp, SIZE, LIMIT)
    other = squash(encoded(noise().rotate(180)), SIZE, LIMIT)
    assert other.pixel_hash != squash(png, SIZE, LIMIT).pixel_hash


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "GIF", "BMP"])
def test_allowed_formats(form):
    assert_color(squash(encoded(Image.new("RGB", (50, 20), "red"), form), SIZE, LIMIT), (255, 0, 0))


@pytest.mark.parametrize("form", ["TIFF", "PPM", "ICO", "EPS"])
def test_other_formats_are_refused(form):
    refusal = squash(encoded(noise(), form), SIZE, LIMIT)
    assert isinstance(refusal, Refusal)
    assert refusal.reason == "unknown_format"


@pytest.mark.parametrize("content", [b"not an image", b"\x89PNG", b"<svg/>", b"GIF89a"])
def test_text_and_stubs_are_refused(content):
    assert squash(content, SIZE, LIMIT).reason in ("unknown_format", "broken")


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"\xef\xbb\xbf\n <!DOCTYPE html><p>Not found", "text/html"),
        (b"<!-- a comment --><HTML><body>", "text/html"),
        (b'<?xml version="1.0"?><Error><Code>AccessDenied', "text/xml"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "image/svg+xml"),
        (b'{"error": "no such image"}', "application/json"),
        (b"%PDF-1.7", "application/pdf"),
        (b"\x1f\x8b\x08\0", "application/gzip"),
        (b"II*\0\x08\0\0\0", "image/tiff"),
        (b"\0\0\0\x20ftypavif\0\0\0\0avifmif1", "image/avif"),
        (b"\0\0\0\x20ftypheic\0\0\0\0heicmif1", "image/heic"),
        (b"no such image", "unknown content"),
    ],
)
def test_a_refusal_says_what_came_instead_of_an_image(content, kind):
    refusal = squash(content, SIZE, LIMIT)
    assert refusal.reason == "unknown_format"
    assert refusal.detail.startswith(f"{kind}, not one of JPEG")


def test_no_bytes_and_too_many_bytes():
    assert squash(b"", SIZE, LIMIT).reason == "empty"
    assert squash(bytes(MAX_BYTES + 1), SIZE, LIMIT).reason == "too_many_bytes"


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "BMP"])
@pytest.mark.parametrize("share", [0.5, 0.9])
def test_a_truncated_image_is_broken_and_not_half_grey(form, share):
    content = encoded(noise(200, 200), form)
    assert squash(content[: int(len(content) * share)], SIZE, LIMIT).reason == "broken"


def test_a_corrupted_png_is_broken():
    content = bytearray(encoded(noise()))
    content[len(content) // 2] ^= 0xFF
    assert squash(bytes(content), SIZE, LIMIT).reason == "broken"


def chunk(name, body):
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


@pytest.mark.parametrize("side", [1001, 30_000])
def test_a_bomb_is_refused_by_its_header(side):
    # The body could never be decoded, so reaching it would be another reason.
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    bomb = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"boom")
    assert squash(bomb, SIZE, LIMIT).reason == "too_many_pixels"


def test_an_image_of_exactly_the_limit_is_used():
    assert isinstance(squash(encoded(Image.new("RGB", (1000, 1000))), SIZE, LIMIT), Picture)


def test_cmyk():
    content = encoded(Image.new("CMYK", (30, 30), (0, 255, 255, 0)), "JPEG", quality=95)
    red, green, blue = pixels(squash(content, SIZE, LIMIT)).mean(axis=(0, 1))
    assert red > 200
    assert green < 60
    assert blue < 60


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "I;16"])
def test_every_mode_becomes_rgb(mode):
    white = {"I;16": 65535, "LA": (255, 255), "RGBA": (255,) * 4}.get(mode, 255)
    image = Image.new(mode, (20, 20), white)
    if mode == "P":
        image.putpalette([255, 255, 255] * 256)
    assert_color(squash(encoded(image), SIZE, LIMIT), (255, 255, 255))


def test_16_bit_grey_keeps_its_greys():
    image = Image.new("I;16", (20, 20), 128 * 256)
    assert_color(squash(encoded(image), SIZE, LIMIT), (128, 128, 128))


def test_transparency_becomes_white():
    image = Image.new("RGBA", (20, 20), (255, 0, 0, 0))
    assert_color(squash(encoded(image), SIZE, LIMIT), (255, 255, 255))
    image = Image.new("RGBA", (20, 20), (255, 0, 0, 128))
    assert_color(squash(encoded(image), SIZE, LIMIT), (255, 127, 127))


def test_palette_transparency_becomes_white():
    image = Image.new("P", (20, 20), 0)
    image.putpalette([0, 0, 0] * 256)
    content = encoded(image, transparency=0)
    assert_color(squash(content, SIZE, LIMIT), (255, 255, 255))


@pytest.mark.parametrize(("orientation", "row"), [(1, 0), (3, -1), (6, None)])
def test_exif_orientation_is_applied(orientation, row):
    image = Image.new("RGB", (60, 60), "blue")
    image.paste((255, 0, 0), (0, 0, 60, 30))
    exif = Image.Exif()
    exif[0x0112] = orientation
    turned = pixels(squash(encoded(image, "JPEG", exif=exif, quality=95), SIZE, LIMIT))
    red = turned[row] if row is not None else turned[:, -1]
    assert red[:, 0].min() > 200


def test_broken_exif_does_not_cost_the_photo():
    content = encoded(Image.new("RGB", (20, 20), "red"), "JPEG", exif=b"Exif\0\0nonsense" * 3)
    assert_color(squash(content, SIZE, LIMIT), (254, 0, 0))


@pytest.mark.parametrize("form", ["GIF", "WEBP"])
def test_the_first_frame_of_an_animation(form):
    frames = [Image.new("RGB", (20, 20), color) for color in ("red", "lime", "blue")]
    content = encoded(frames[0], form, save_all=True, append_images=frames[1:])
    assert_color(squash(content, SIZE, LIMIT), (255, 0, 0))


def test_one_pixel():
    assert_color(squash(encoded(Image.new("RGB", (1, 1), "blue")), SIZE, LIMIT), (0, 0, 255))


def test_a_sliver():
    assert_color(squash(encoded(Image.new("RGB", (900, 1), "blue")), SIZE, LIMIT), (0, 0, 255))
