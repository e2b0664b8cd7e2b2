"""Photos of products: a scene, the product in one view, and what a camera does to them."""

import io
import random
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from raypipe.embedded.canvas import DRAWN_SIDE, RGB, SIDE, Canvas, Pixels, shade
from raypipe.embedded.footwear import draw_footwear
from raypipe.embedded.garments import draw_fabric, draw_garment
from raypipe.embedded.goods import draw_box, draw_suitcase, draw_watch
from raypipe.embedded.look import PALETTE, PAPER, Product, look_of

_FOOTWEAR = ("sandal", "shoe", "slipper flip-flop")
_GRAIN = np.random.default_rng(5).normal(0.0, 1.0, (320, 320, 3)).astype(np.float32)
_RAMP = np.linspace(-1.0, 1.0, SIDE, dtype=np.float32)


@dataclass(frozen=True)
class Style:
    """How unkind the photography is; shares and spreads in 0-1 unless a unit is named."""

    clutter: float
    """Share of photos with a busy background."""
    turn: float
    """Largest rotation, radians."""
    drift: float
    """Largest shift, as a share of half the side."""
    scale: tuple[float, float]
    light: float
    """Spread of brightness, and strength of uneven light."""
    occlusion: float
    """Share of photos with something lying over the product."""
    grain: float
    """Standard deviation of sensor noise, in gray levels."""
    blur: float
    """Share of photos out of focus."""


PRETRAINING = Style(
    clutter=0.2,
    turn=0.12,
    drift=0.06,
    scale=(0.78, 0.98),
    light=0.12,
    occlusion=0.03,
    grain=4.0,
    blur=0.1,
)
CATALOG = Style(
    clutter=0.5,
    turn=0.22,
    drift=0.1,
    scale=(0.66, 1.0),
    light=0.25,
    occlusion=0.15,
    grain=9.0,
    blur=0.2,
)


def photograph(product: Product, view: str, style: Style, *, seed: int) -> Pixels:
    """One photo of a product, shape (112, 112, 3), the same for the same arguments."""
    lottery = random.Random(seed)
    canvas = Canvas(
        _background(lottery, style, sketched=view == "sketch"),
        scale=lottery.uniform(*style.scale),
        angle=lottery.uniform(-style.turn, style.turn),
        shift=(lottery.uniform(-1, 1) * style.drift, lottery.uniform(-1, 1) * style.drift),
    )
    _draw(canvas, product, view, lottery)
    if lottery.random() < style.occlusion:
        _occlude(canvas, lottery)
    return _develop(canvas.image, lottery, style)


def encoded(pixels: Pixels) -> bytes:
    """The photo as a JPEG file."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def _draw(canvas: Canvas, product: Product, view: str, lottery: random.Random) -> None:
    look = look_of(product)
    if view == "box":
        draw_box(canvas, lottery)
    elif product.vertical in _FOOTWEAR:
        draw_footwear(canvas, product, look, view)
    elif product.vertical == "suitcase":
        draw_suitcase(canvas, product, look, view)
    elif product.vertical == "watch":
        draw_watch(canvas, product, look, view)
    elif view == "detail":
        draw_fabric(canvas, look)
    else:
        draw_garment(canvas, product, look, view)


def _background(lottery: random.Random, style: Style, *, sketched: bool) -> Image.Image:
    size = (DRAWN_SIDE, DRAWN_SIDE)
    if sketched:
        return Image.new("RGB", size, shade(PAPER, lottery.uniform(0.94, 1.0)))
    level = lottery.randint(196, 246)
    base: RGB = (
        level,
        min(255, max(0, level + lottery.randint(-14, 10))),
        min(255, max(0, level + lottery.randint(-22, 12))),
    )
    image = Image.new("RGB", size, base)
    if lottery.random() >= style.clutter:
        return image
    draw = ImageDraw.Draw(image)
    horizon = lottery.randint(int(0.5 * DRAWN_SIDE), int(0.85 * DRAWN_SIDE))
    floor = shade(base, lottery.uniform(0.7, 0.92))
    draw.rectangle((0, horizon, DRAWN_SIDE, DRAWN_SIDE), fill=floor)
    for _ in range(lottery.randint(0, 3)):
        color = _faded(lottery.choice(list(PALETTE.values())), base)
        left, top = lottery.randint(-40, DRAWN_SIDE), lottery.randint(-40, DRAWN_SIDE)
        extent = (left, top, left + lottery.randint(20, 90), top + lottery.randint(20, 90))
        if lottery.random() < 0.5:
            draw.rectangle(extent, fill=color)
        else:
            draw.ellipse(extent, fill=color)
    return image


def _faded(color: RGB, base: RGB) -> RGB:
    red, green, blue = (
        (channel + 2 * other) // 3 for channel, other in zip(color, base, strict=True)
    )
    return red, green, blue


def _occlude(canvas: Canvas, lottery: random.Random) -> None:
    """A price sticker or a finger over some of the product."""
    x, y = lottery.uniform(-0.6, 0.6), lottery.uniform(-0.6, 0.6)
    if lottery.random() < 0.5:
        half = lottery.uniform(0.16, 0.3)
        canvas.box(x - half, y - half * 0.6, x + half, y + half * 0.6, (252, 226, 90), (90, 80, 30))
        canvas.line([(x - half * 0.7, y), (x + half * 0.7, y)], (90, 80, 30), 0.05)
    else:
        edge = 1.6 if x > 0 else -1.6
        canvas.line([(edge, y), (x, y * 0.6)], (206, 164, 132), 0.26)
        canvas.ellipse((x, y * 0.6), (0.13, 0.13), (206, 164, 132))


def _develop(image: Image.Image, lottery: random.Random, style: Style) -> Pixels:
    """Focus, uneven light, brightness and sensor noise, at the final size."""
    small = image.reduce(DRAWN_SIDE // SIDE)
    if lottery.random() < style.blur:
        small = small.filter(ImageFilter.BoxBlur(lottery.uniform(0.4, 1.0)))
    pixels = np.asarray(small, dtype=np.float32)
    gain = 1 + style.light * lottery.uniform(-1, 0.6)
    across, down = (style.light * lottery.uniform(-1, 1) / 2 for _ in range(2))
    light = gain + across * _RAMP[None, :, None] + down * _RAMP[:, None, None]
    row, column = lottery.randrange(320 - SIDE), lottery.randrange(320 - SIDE)
    grain = _GRAIN[row : row + SIDE, column : column + SIDE]
    if lottery.random() < 0.5:
        grain = grain[:, ::-1]
    pixels = pixels * light + style.grain * lottery.uniform(0.3, 1.0) * grain
    return np.clip(pixels, 0, 255).astype(np.uint8)
