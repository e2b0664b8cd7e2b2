"""A product's looks: the colors, cloth and trimmings that all its photos share."""

import random
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

from raypipe.embedded.canvas import RGB, Canvas, shade

PALETTE: dict[str, RGB] = {
    "Red": (200, 32, 42),
    "Blue": (42, 76, 190),
    "Green": (44, 142, 74),
    "Yellow": (240, 200, 40),
    "Black": (34, 34, 38),
    "White": (240, 240, 236),
    "Pink": (242, 130, 176),
    "Brown": (124, 78, 42),
}
GOLD: RGB = (214, 168, 60)
STEEL: RGB = (176, 182, 190)
CARD: RGB = (186, 146, 100)
PAPER: RGB = (250, 250, 247)
INK: RGB = (40, 40, 44)

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Product:
    """What is drawn: its vertical, its true values, and a seed for everything nobody asks about."""

    vertical: str
    values: dict[str, str]
    seed: int


@dataclass(frozen=True)
class Look:
    """Resolved colors and cloth of one product."""

    main: RGB
    accent: RGB
    trim: RGB
    ink: RGB
    pattern: str
    period: float
    upright: bool
    lottery: random.Random

    @property
    def rgb_is_dark(self) -> bool:
        return sum(self.main) < 300


def jittered(color: RGB, lottery: random.Random, spread: int = 16) -> RGB:
    red, green, blue = (
        min(255, max(0, channel + lottery.randint(-spread, spread))) for channel in color
    )
    return red, green, blue


def look_of(product: Product) -> Look:
    """The same looks for the same product, whichever view is drawn."""
    lottery = random.Random(product.seed)
    name = product.values.get("color") or lottery.choice(list(PALETTE))
    main = jittered(PALETTE[name], lottery)
    dark = sum(main) < 300
    others = [key for key in PALETTE if key != name]
    accent = jittered(PALETTE["White" if dark else "Black"], lottery)
    if lottery.random() < 0.5:
        accent = shade(main, 2.2 if dark else 0.45)
        if dark:
            accent = (max(accent[0], 120), max(accent[1], 120), max(accent[2], 120))
    return Look(
        main=main,
        accent=accent,
        trim=jittered(PALETTE[lottery.choice(others)], lottery),
        ink=(96, 96, 100) if dark else shade(main, 0.4),
        pattern=product.values.get("pattern", "Solid"),
        period=lottery.uniform(0.26, 0.36),
        upright=lottery.random() < 0.5,
        lottery=lottery,
    )


def cloth(look: Look, canvas: Canvas, *, zoom: float = 1.0) -> Image.Image | RGB:
    """The fabric as a picture the size of the photo, or one color where it has no print."""
    if look.pattern == "Solid":
        return look.main
    x, y = canvas.grid()
    period = look.period * zoom / max(canvas.scale, 0.5)
    printed = _PRINTS[look.pattern](x / period, y / period, look.upright)
    colors = np.array([look.main, look.accent], dtype=np.uint8)
    return Image.fromarray(colors[printed.astype(np.uint8)])


def _striped(x: npt.NDArray[np.float32], y: npt.NDArray[np.float32], upright: bool) -> Mask:
    along = x if upright else y
    return np.asarray(np.mod(along, 1.0) < 0.36)


def _checked(x: npt.NDArray[np.float32], y: npt.NDArray[np.float32], upright: bool) -> Mask:
    return np.asarray((np.mod(x, 1.0) < 0.22) | (np.mod(y, 1.0) < 0.22))


def _dotted(x: npt.NDArray[np.float32], y: npt.NDArray[np.float32], upright: bool) -> Mask:
    row = np.floor(y)
    across = np.mod(x + 0.5 * np.mod(row, 2), 1.0) - 0.5
    return np.asarray(across**2 + (np.mod(y, 1.0) - 0.5) ** 2 < 0.075)


def _floral(x: npt.NDArray[np.float32], y: npt.NDArray[np.float32], upright: bool) -> Mask:
    x, y = x / 1.5, y / 1.5
    row = np.floor(y)
    across = np.mod(x + 0.5 * np.mod(row, 2), 1.0) - 0.5
    down = np.mod(y, 1.0) - 0.5
    radius = np.hypot(across, down)
    petals = 0.25 + 0.15 * np.cos(5 * np.arctan2(down, across))
    return np.asarray((radius < petals) & (radius > 0.09))


_PRINTS = {"Striped": _striped, "Checked": _checked, "Dotted": _dotted, "Floral": _floral}
