"""Inline SVG, drawn by hand: crisp at any size, in the page's own font and colours.

Marks carry CSS classes and no style attributes, so that one style sheet rules light, dark and
print, and the page's security policy can refuse every other style.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from markupsafe import Markup, escape


@dataclass(frozen=True)
class Scale:
    """A linear map from values to pixels."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        span = self.high - self.low or 1.0
        return self.start + (value - self.low) / span * (self.end - self.start)


def ticks(low: float, high: float, about: int) -> list[float]:
    """Round values (steps of 1, 2 or 5) inside an interval, about so many."""
    raw = (high - low) / max(about, 1)
    if raw <= 0 or not math.isfinite(raw):
        return [low]
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [round(index * step, 12) for index in range(first, last + 1)]


def _pixels(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")


@dataclass
class Drawing:
    """An SVG picture in the making; ``label`` is what a screen reader says."""

    width: float
    height: float
    label: str
    kind: str = "figure"
    marks: list[Markup] = field(default_factory=list)

    def line(
        self, start: tuple[float, float], end: tuple[float, float], kind: str, title: str = ""
    ) -> None:
        (x1, y1), (x2, y2) = start, end
        self._add("line", kind, title, x1=x1, y1=y1, x2=x2, y2=y2)

    def rect(
        self, corner: tuple[float, float], size: tuple[float, float], kind: str, title: str = ""
    ) -> None:
        x, y = corner
        width, height = max(size[0], 0.0), max(size[1], 0.0)
        self._add("rect", kind, title, x=x, y=y, width=width, height=height, rx=min(2, width / 2))

    def dot(self, center: tuple[float, float], radius: float, kind: str, title: str = "") -> None:
        self._add("circle", kind, title, cx=center[0], cy=center[1], r=radius)

    def path(self, points: Sequence[tuple[float, float]], kind: str, closed: bool = False) -> None:
        steps = "L".join(f"{_pixels(x)} {_pixels(y)}" for x, y in points)
        shape = f"M{steps}{'Z' if closed else ''}"
        self.marks.append(Markup('<path class="{}" d="{}"/>').format(kind, shape))

    def text(self, place: tuple[float, float], words: str, kind: str = "") -> None:
        self.marks.append(
            Markup('<text class="{}" x="{}" y="{}">{}</text>').format(
                kind, _pixels(place[0]), _pixels(place[1]), words
            )
        )

    def markup(self) -> Markup:
        head = Markup(
            '<svg class="{}" role="img" aria-label="{}" width="{}" height="{}" viewBox="0 0 {} {}">'
        ).format(
            self.kind,
            self.label,
            *(_pixels(side) for side in (self.width, self.height, self.width, self.height)),
        )
        return head + Markup("").join(self.marks) + Markup("</svg>")

    def _add(self, name: str, kind: str, title: str, **numbers: float) -> None:
        attributes = Markup(" ").join(
            Markup('{}="{}"').format(key, _pixels(value)) for key, value in numbers.items()
        )
        inner = Markup("<title>{}</title>").format(title) if title else escape("")
        self.marks.append(
            Markup('<{0} class="{1}" {2}>{3}</{0}>').format(name, kind, attributes, inner)
        )
