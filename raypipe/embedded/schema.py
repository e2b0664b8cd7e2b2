"""The embedded attribute schema, and which view shows which attribute."""

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import yaml

SCHEMA_PATH = Path(__file__).with_name("schema.yaml")

_FOOTWEAR = ("side", "top", "back", "sole", "box")
_GARMENT = ("front", "back", "detail", "sketch", "box")

# The views a seller photographs, by vertical.
VIEWS: dict[str, tuple[str, ...]] = {
    "sandal": _FOOTWEAR,
    "shoe": _FOOTWEAR,
    "slipper flip-flop": _FOOTWEAR,
    "ethnic set": _GARMENT,
    "kurta": _GARMENT,
    "t-shirt": _GARMENT,
    "top": _GARMENT,
    "shirt": _GARMENT,
    "trouser": _GARMENT,
    "sari": ("front", "folded", "detail", "sketch", "box"),
    "suitcase": ("front", "side", "back", "detail", "box"),
    "watch": ("front", "worn", "side", "back", "box"),
}

_CLOTH = {
    "color": ("front", "back", "detail"),
    "pattern": ("front", "back", "detail"),
    "sleeve": ("front", "back", "sketch"),
    "neckline": ("front", "sketch"),
    "hem": ("front", "back", "sketch"),
    "length": ("front", "back", "sketch"),
    "back_print": ("back",),
}
_FEET = {
    "color": ("side", "top", "back"),
    "heel": ("side", "back"),
    "strap": ("top", "side"),
    "toe_shape": ("top", "sole"),
    "closure": ("top", "side"),
    "ankle_height": ("side", "back"),
    "sole_pattern": ("sole",),
}
_SHOWN_IN: dict[str, dict[str, tuple[str, ...]]] = {
    "sandal": _FEET,
    "shoe": _FEET,
    "slipper flip-flop": _FEET,
    "kurta": _CLOTH,
    "t-shirt": _CLOTH,
    "top": _CLOTH,
    "shirt": _CLOTH | {"number_of_pockets": ("front", "sketch")},
    "trouser": _CLOTH | {"fit": ("front", "back", "sketch"), "number_of_pockets": ("back",)},
    "ethnic set": _CLOTH | {"bottom": ("front", "back", "sketch"), "dupatta": ("front", "back")},
    "sari": {
        "color": ("front", "folded", "detail"),
        "pattern": ("front", "folded", "detail"),
        "border": ("front", "folded"),
    },
    "suitcase": {
        "color": ("front", "side", "back"),
        "number_of_wheels": ("side", "back"),
        "locking_mechanism": ("detail",),
        "type": ("front", "side", "back"),
        "surface": ("front", "back"),
    },
    "watch": {
        "dial_shape": ("front", "worn", "back"),
        "dial_color": ("front", "worn"),
        "display": ("front", "worn"),
        "strap_material": ("worn", "side", "back"),
        "strap_color": ("front", "worn", "side"),
    },
}


@dataclass(frozen=True)
class RenderedAttribute:
    """One entry of the attribute schema, with the views that can show it."""

    vertical: str
    name: str
    description: str
    values: tuple[str, ...]
    shown_in: tuple[str, ...]


@cache
def attributes() -> dict[str, tuple[RenderedAttribute, ...]]:
    """The attributes of every vertical, in schema order."""
    by_vertical: dict[str, list[RenderedAttribute]] = {}
    for entry in yaml.safe_load(SCHEMA_PATH.read_text()):
        vertical, name = entry["vertical"], entry["attribute"]
        by_vertical.setdefault(vertical, []).append(
            RenderedAttribute(
                vertical=vertical,
                name=name,
                description=entry["description"],
                values=tuple(entry["values"]),
                shown_in=_SHOWN_IN[vertical][name],
            )
        )
    return {vertical: tuple(entries) for vertical, entries in by_vertical.items()}


def verticals() -> tuple[str, ...]:
    """The twelve verticals, in schema order."""
    return tuple(attributes())
