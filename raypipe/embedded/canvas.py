"""A small drawing surface: shapes in product coordinates, placed on the photo by one transform.

Product coordinates run from -1 to 1 on both axes with y pointing down; the photo is drawn at twice
its final side and reduced once, which is the anti-aliasing.
"""

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

SIDE = 112
DRAWN_SIDE = 2 * SIDE

RGB = tuple[int, int, int]
Point = tuple[float, float]
Pixels = npt.NDArray[np.uint8]
Fill = RGB | Image.Image

_ROWS, _COLUMNS = np.mgrid[0:DRAWN_SIDE, 0:DRAWN_SIDE].astype(np.float32)


class Canvas:
    """A square RGB image and the scale, rotation and shift that place the product on it."""

    def __init__(
        self, background: Image.Image, *, scale: float, angle: float, shift: Point
    ) -> None:
        """`angle` in radians, `scale` and `shift` as shares of half the image's side."""
        self.image = background
        self._draw = ImageDraw.Draw(background)
        half = DRAWN_SIDE / 2
        self._cos, self._sin = math.cos(angle) * scale * half, math.sin(angle) * scale * half
        self._x0, self._y0 = half * (1 + shift[0]), half * (1 + shift[1])
        self.scale = scale

    def place(self, points: Sequence[Point]) -> list[Point]:
        """Product coordinates to pixels."""
        cos, sin, x0, y0 = self._cos, self._sin, self._x0, self._y0
        return [(x0 + cos * x - sin * y, y0 + sin * x + cos * y) for x, y in points]

    def polygon(
        self, points: Sequence[Point], fill: Fill, ink: RGB | None = None, width: float = 0.02
    ) -> None:
        """A closed shape; a picture as fill shows through it like cloth through a stencil."""
        placed = self.place(points)
        if isinstance(fill, Image.Image):
            stencil = Image.new("1", fill.size)
            ImageDraw.Draw(stencil).polygon(placed, fill=1)
            self.image.paste(fill, mask=stencil)
        else:
            self._draw.polygon(placed, fill=fill)
        if ink is not None:
            self._draw.line([*placed, placed[0]], fill=ink, width=self._stroke(width))

    def ellipse(
        self,
        center: Point,
        radii: Point,
        fill: Fill,
        ink: RGB | None = None,
        width: float = 0.02,
    ) -> None:
        self.polygon(oval(center, radii), fill, ink, width)

    def box(
        self,
        left: float,
        top: float,
        right: float,
        bottom: float,
        fill: Fill,
        ink: RGB | None = None,
    ) -> None:
        corners = [(left, top), (right, top), (right, bottom), (left, bottom)]
        self.polygon(corners, fill, ink)

    def line(self, points: Sequence[Point], ink: RGB, width: float = 0.02) -> None:
        self._draw.line(self.place(points), fill=ink, width=self._stroke(width), joint="curve")

    def _stroke(self, width: float) -> int:
        return max(1, round(width * self.scale * DRAWN_SIDE / 2))

    def grid(self) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """Every pixel's product coordinates x and y, each of shape (224, 224)."""
        square = self._cos**2 + self._sin**2
        dx, dy = _COLUMNS - self._x0, _ROWS - self._y0
        cos, sin = self._cos / square, self._sin / square
        return cos * dx + sin * dy, cos * dy - sin * dx


def oval(center: Point, radii: Point, *, start: float = 0.0, stop: float = 1.0) -> list[Point]:
    """Points of an ellipse; `start` and `stop` in turns, clockwise from three o'clock."""
    steps = max(3, round(28 * abs(stop - start)))
    angles = [2 * math.pi * (start + (stop - start) * step / steps) for step in range(steps + 1)]
    return [
        (center[0] + radii[0] * math.cos(a), center[1] + radii[1] * math.sin(a)) for a in angles
    ]


def mirrored(points: Sequence[Point]) -> list[Point]:
    """The outline closed by its own mirror image about x = 0."""
    return [*points, *[(-x, y) for x, y in reversed(points)]]


def shade(color: RGB, factor: float) -> RGB:
    """Darker below 1, lighter above."""
    red, green, blue = (min(255, max(0, int(channel * factor))) for channel in color)
    return red, green, blue
