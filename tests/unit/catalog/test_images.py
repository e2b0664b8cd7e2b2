"""Images of strangers: every format that sellers send becomes the same kind of pixels."""

import io
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
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


@pytest.mark.parametrize("orientation", [1, 6])
@pytest.mark.parametrize("progressive", [False, True])
def test_a_large_photo_looks_like_its_full_decoding(orientation, progressive):
    photo = noise(12, 9).resize((1200, 900), Image.Resampling.BICUBIC)
    exif = Image.Exif()
    exif[0x0112] = orientation
    large = encoded(photo, "JPEG", quality=95, exif=exif, progressive=progressive)
    upright = photo if orientation == 1 else photo.rotate(-90, expand=True)
    expected = np.asarray(upright.resize((SIZE, SIZE), Image.Resampling.BICUBIC)).astype(int)
    assert np.abs(pixels(squash(large, SIZE, 2_000_000)) - expected).mean() < 3


def test_a_photo_of_little_more_than_the_size_is_decoded_in_full():
    photo = noise(2 * SIZE + 1, 3 * SIZE)
    whole = encoded(photo, "JPEG", quality=100, subsampling=0)
    decoded = np.asarray(Image.open(io.BytesIO(whole)).resize((SIZE, SIZE), 3)).astype(int)
    assert np.abs(pixels(squash(whole, SIZE, LIMIT)) - decoded).mean() < 4


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


# What would take minutes, and what makes Pillow fail.


def progressive(side=200, mode="L", extra=0):
    """A progressive JPEG whose last scan is there ``extra`` more times."""
    color = 128 if mode == "L" else "red"
    content = encoded(Image.new(mode, (side, side), color), "JPEG", progressive=True)
    last = content[content.rindex(b"\xff\xda") : -2]
    return content[:-2] + last * extra + content[-2:]


def segment(marker, body):
    return bytes([0xFF, marker]) + struct.pack(">H", len(body) + 2) + body


def exif(tags, length):
    """EXIF in which every tag names nearly all of it."""
    entries = b"".join(struct.pack("<HHII", n + 1000, 7, length - 200, 8) for n in range(tags))
    made = b"II*\0" + struct.pack("<IH", 8, tags) + entries
    return b"Exif\0\0" + made + bytes(length - len(made))


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_a_progressive_photo_is_used(mode):
    assert isinstance(squash(progressive(mode=mode), SIZE, LIMIT), Picture)


def test_scans_without_end_are_counted_before_they_are_decoded():
    assert isinstance(squash(progressive(extra=90), SIZE, LIMIT), Picture)
    for extra in (100, 100_000):
        refusal = squash(progressive(extra=extra), SIZE, LIMIT)
        assert (refusal.reason, refusal.detail) == (
            "too_complex",
            "101 scans or more of 40000 pixels",
        )


def test_the_larger_the_image_the_fewer_its_scans():
    assert isinstance(squash(progressive(1000, extra=14), SIZE, LIMIT), Picture)
    assert squash(progressive(1000, extra=15), SIZE, LIMIT).reason == "too_complex"


@pytest.mark.parametrize("junk", [b"\xff" * 50, b"\0" * 50, b"\xff\0" * 50])
def test_junk_and_fill_bytes_hide_no_scan(junk):
    content = progressive(extra=200)
    hidden = content[:20] + junk + content[20:]
    assert squash(hidden, SIZE, LIMIT).reason == "too_complex"


def test_scans_of_a_preview_or_a_film_behind_the_photo_are_nobodys():
    content = progressive() + b"\xff\xda" * 1000
    assert isinstance(squash(content, SIZE, LIMIT), Picture)
    inside = progressive()
    thumbnail = segment(0xE2, b"\xff\xda\0\2" * 1000)
    assert isinstance(squash(inside[:2] + thumbnail + inside[2:], SIZE, LIMIT), Picture)


def png_with(*chunks):
    content = encoded(noise())
    return content[:33] + b"".join(chunks) + content[33:]


def jpeg_with(header):
    content = encoded(noise(), "JPEG")
    return content[:2] + header + content[2:]


def gif_with(block, times):
    content = encoded(noise(), "GIF")
    start = 13 + 3 * 2 ** ((content[10] & 7) + 1)
    return content[:start] + block * times + content[start:]


def run_length_bmp(side, operations):
    header = struct.pack("<IiiHHIIiiII", 40, side, side, 1, 8, 1, len(operations), 0, 0, 256, 0)
    start = 14 + len(header) + 1024
    file = b"BM" + struct.pack("<IHHI", start + len(operations), 0, 0, start)
    return file + header + bytes(1024) + operations


MANY = {
    "jpeg_comments": lambda: jpeg_with(segment(0xFE, b"") * 20_000),
    "jpeg_fill": lambda: jpeg_with(b"\xff" * 100_000),
    "jpeg_junk": lambda: jpeg_with(segment(0xFE, b"") + bytes(100_000)),
    "jpeg_exif": lambda: jpeg_with(segment(0xE1, exif(3000, 60_000))),
    "jpeg_exif_in_parts": lambda: jpeg_with(
        segment(0xE1, exif(2000, 60_000)) + segment(0xE1, b"Exif\0\0" + bytes(60_000)) * 9
    ),
    "jpeg_header": lambda: jpeg_with(segment(0xE1, b"Exif\0\0" + bytes(65_000)) * 260),
    "jpeg_mpf": lambda: jpeg_with(segment(0xE2, b"MPF\0" + exif(3000, 60_000)[6:])),
    "png_texts": lambda: png_with(chunk(b"tEXt", b"a\0b") * 5000),
    "png_unknown": lambda: png_with(chunk(b"abCd", b"") * 5000),
    "png_profiles": lambda: png_with(chunk(b"iCCP", b"x\0\0" + zlib.compress(bytes(1000))) * 300),
    "png_packed": lambda: png_with(chunk(b"zTXt", b"x\0\0" + zlib.compress(b"a")[:-2]) * 300),
    "png_exif": lambda: png_with(chunk(b"eXIf", exif(100, 1 << 20)[6:])),
    "png_exif_as_text": lambda: png_with(
        chunk(b"tEXt", b"Raw profile type exif\0\n\n\n" + exif(3000, 60_000).hex().encode())
    ),
    "png_data": lambda: png_with()[:-12] + chunk(b"abCd", b"") * 100_000 + png_with()[-12:],
    "gif_comments": lambda: gif_with(b"\x21\xfe\0", 20_000),
    "gif_comment": lambda: gif_with(b"\x21\xfe" + (b"\xff" + b"a" * 255) * 6000 + b"\0", 1),
    "gif_junk": lambda: gif_with(b"\1", 20_000),
    "bmp_runs": lambda: run_length_bmp(700, b"\1\1" * 200_000),
    "bmp_no_runs": lambda: run_length_bmp(700, bytes(400_000)),
    "webp_exif": lambda: encoded(noise(), "WEBP", exif=exif(100, 1 << 20)[6:]),
}


@pytest.mark.parametrize("name", MANY)
def test_what_would_take_minutes_is_refused(name):
    refusal = squash(MANY[name](), SIZE, LIMIT)
    assert isinstance(refusal, Refusal)
    assert refusal.reason == "too_complex"
    assert len(refusal.detail) < 100


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_what_photos_hold_beside_pixels_does_not_cost_them():
    profile = chunk(b"iCCP", b"x\0\0" + zlib.compress(bytes(500_000)))
    photos = [
        png_with(chunk(b"tEXt", b"a\0b") * 500, profile, chunk(b"eXIf", exif(40, 64_000)[6:])),
        jpeg_with(segment(0xE1, exif(40, 64_000)) + segment(0xE2, bytes(60_000)) * 200),
        gif_with(b"\x21\xfe" + (b"\xff" + b"a" * 255) * 300 + b"\0", 1),
        run_length_bmp(100, b"\x64\1\0\0" * 100),
        encoded(noise(), "WEBP", exif=exif(40, 64_000)[6:]),
    ]
    for content in photos:
        assert isinstance(squash(content, SIZE, LIMIT), Picture)


@pytest.mark.parametrize("form", ["JPEG", "GIF"])
def test_a_comment_of_a_stranger_goes_no_further(form):
    picture = squash(encoded(noise(), form, comment=b"buy now"), SIZE, LIMIT)
    assert b"buy now" not in picture.encoded


EXAMPLES = [
    encoded(noise(), "JPEG"),
    encoded(noise(), "JPEG", progressive=True, exif=exif(3, 200)),
    encoded(noise().convert("CMYK"), "JPEG"),
    png_with(chunk(b"eXIf", exif(3, 200)[6:]), chunk(b"tEXt", b"Raw profile type exif\0\n\n\nzz")),
    encoded(noise().convert("P"), "PNG", transparency=0),
    encoded(noise(), "WEBP"),
    encoded(noise(), "WEBP", lossless=True, exif=exif(3, 200)[6:]),
    encoded(noise(), "GIF", save_all=True, append_images=[noise(), noise()]),
    encoded(noise(), "PNG", save_all=True, append_images=[noise()]),
    encoded(noise(), "BMP"),
    run_length_bmp(20, b"\5\1\0\0\0\2\3\1\0\1"),
]


@pytest.mark.filterwarnings("ignore::UserWarning")
@given(
    st.sampled_from(EXAMPLES),
    st.lists(st.tuples(st.floats(0, 1), st.binary(max_size=6), st.integers(0, 9)), max_size=6),
    st.floats(0, 1),
)
@settings(max_examples=400, deadline=None)
def test_no_bytes_raise(content, edits, kept):
    for place, put, removed in edits:
        at = int(place * len(content))
        content = content[:at] + put + content[at + removed :]
    if kept > 0.5:
        content = content[: int(kept * len(content))]
    outcome = squash(content, SIZE, LIMIT)
    assert isinstance(outcome, Picture | Refusal)
    assert isinstance(outcome, Picture) or len(outcome.detail) <= 400


@pytest.mark.filterwarnings("ignore::UserWarning")
@given(st.sampled_from([b"", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"BM", b"RIFF"]),
       st.binary(max_size=400))  # fmt: skip
@settings(max_examples=300, deadline=None)
def test_no_random_bytes_raise(beginning, rest):
    assert isinstance(squash(beginning + rest, SIZE, LIMIT), Picture | Refusal)
