"""Suitcases, watches, and the closed box that any product can hide in."""

import random

from raypipe.embedded.canvas import RGB, Canvas, Fill, mirrored, oval, shade
from raypipe.embedded.look import CARD, GOLD, INK, PALETTE, PAPER, STEEL, Look, Product, jittered

_SKIN: RGB = (206, 164, 132)


def draw_box(canvas: Canvas, lottery: random.Random) -> None:
    """A closed parcel in a color that says nothing about what is inside."""
    card = jittered(
        CARD if lottery.random() < 0.6 else lottery.choice(list(PALETTE.values())), lottery
    )
    canvas.polygon(
        [(-0.7, -0.3), (-0.35, -0.66), (0.82, -0.66), (0.5, -0.3)], shade(card, 1.2), INK
    )
    canvas.polygon([(0.5, -0.3), (0.82, -0.66), (0.82, 0.36), (0.5, 0.72)], shade(card, 0.65), INK)
    canvas.box(-0.7, -0.3, 0.5, 0.72, card, INK)
    canvas.polygon([(-0.18, -0.3), (0.15, -0.66), (0.29, -0.66), (-0.02, -0.3)], (226, 208, 160))
    canvas.box(-0.18, -0.3, -0.02, 0.1, (226, 208, 160))
    canvas.box(0.08, 0.3, 0.42, 0.62, PAPER, INK)
    for y in (0.38, 0.46, 0.54):
        canvas.line([(0.13, y), (0.37, y)], INK, 0.03)


def draw_suitcase(canvas: Canvas, product: Product, look: Look, view: str) -> None:
    """Draw one view of a suitcase: front, side, back or the detail of its lock."""
    if view == "detail":
        _lock(canvas, product.values["locking_mechanism"], look)
        return
    half, top, bottom = {
        "Cabin": (0.42, -0.3, 0.66),
        "Check-in": (0.54, -0.62, 0.72),
        "Duffel": (0.84, -0.14, 0.6),
    }[product.values["type"]]
    if view == "side":
        half = half * 0.5 if product.values["type"] != "Duffel" else 0.42
    if view != "front":
        _wheels(canvas, int(product.values["number_of_wheels"]), half, bottom)
    if product.values["type"] == "Duffel":
        canvas.line(oval((0, top), (half * 0.5, 0.3), start=0.5, stop=1.0), INK, 0.07)
        shell = mirrored(
            [(half * 0.8, top), (half, top + 0.2), (half, bottom - 0.2), (half * 0.8, bottom)]
        )
    else:
        reach = top - (0.34 if view == "back" else 0.12)
        for x in (-0.16, 0.16) if view != "side" else (-0.05, 0.05):
            canvas.line([(x, top), (x, reach)], STEEL, 0.05)
        canvas.line([(-0.2, reach), (0.2, reach)], INK, 0.08)
        shell = mirrored(
            [(half - 0.1, top), (half, top + 0.1), (half, bottom - 0.1), (half - 0.1, bottom)]
        )
    canvas.polygon(shell, look.main, look.ink, 0.04)
    if view == "side":
        canvas.line([(0, top), (0, bottom)], INK, 0.06)
        canvas.line(
            [(-0.12, (top + bottom) / 2 - 0.16), (-0.12, (top + bottom) / 2 + 0.16)], STEEL, 0.08
        )
        return
    _relief(canvas, product.values["surface"], look, half - 0.08, top + 0.12, bottom - 0.12)
    if view == "front":
        canvas.ellipse((0, top + 0.24), (0.14, 0.09), GOLD, INK)
    else:
        for x in (-0.16, 0.16):
            canvas.line([(x, top + 0.05), (x, bottom - 0.05)], STEEL, 0.06)


def _relief(
    canvas: Canvas, surface: str, look: Look, half: float, top: float, bottom: float
) -> None:
    groove = shade(look.main, 0.5) if not look.rgb_is_dark else (104, 104, 110)
    if surface == "Ribbed":
        for step in range(-3, 4):
            x = half * step / 3.2
            canvas.line([(x, top), (x, bottom)], groove, 0.06)
    elif surface == "Quilted":
        height = bottom - top
        for step in range(-3, 4):
            x = half * step / 3
            for slant in (-1, 1):
                far = max(-half, min(half, x + slant * height))
                canvas.line([(x, top), (far, top + abs(far - x))], groove, 0.05)
                canvas.line([(x, bottom), (far, bottom - abs(far - x))], groove, 0.05)


def _wheels(canvas: Canvas, count: int, half: float, bottom: float) -> None:
    if count == 0:
        return
    spread = half * 0.82
    xs = (-spread, spread) if count == 2 else (-spread, -spread / 2.6, spread / 2.6, spread)
    radius = 0.13 if count == 2 else 0.1
    for x in xs:
        canvas.box(x - 0.05, bottom - 0.04, x + 0.05, bottom + 0.1, STEEL)
        canvas.ellipse((x, bottom + 0.16), (radius, radius), INK, STEEL, 0.04)


def _lock(canvas: Canvas, mechanism: str, look: Look) -> None:
    canvas.box(-3, -3, 3, 3, look.trim)
    canvas.line([(-3, 0.0), (3, 0.0)], INK, 0.14)
    canvas.line([(-3, 0.0), (3, 0.0)], STEEL, 0.05)
    if mechanism == "None":
        for x in (-0.3, 0.3):
            canvas.box(x - 0.14, -0.08, x + 0.14, 0.3, STEEL, INK)
        return
    canvas.box(-0.6, -0.45, 0.6, 0.5, STEEL, INK)
    if mechanism == "Key Lock":
        canvas.ellipse((0, -0.1), (0.22, 0.22), INK)
        canvas.polygon(mirrored([(0.08, -0.05), (0.16, 0.36)]), INK)
        return
    for x in (-0.36, 0.0, 0.36):
        canvas.box(x - 0.13, -0.3, x + 0.13, 0.34, PAPER, INK)
        canvas.line([(x - 0.06, -0.1), (x + 0.06, -0.1), (x - 0.02, 0.16)], INK, 0.06)


def draw_watch(canvas: Canvas, product: Product, look: Look, view: str) -> None:
    """Draw one view of a watch: front, worn, side or back."""
    strap = jittered(PALETTE[product.values["strap_color"]], look.lottery)
    material = product.values["strap_material"]
    if view == "side":
        _watch_side(canvas, strap, material, look)
        return
    if view == "worn":
        canvas.polygon([(-2, -0.5), (2, -0.62), (2, 0.5), (-2, 0.62)], _SKIN, shade(_SKIN, 0.7))
    grain = "Silicone" if view == "front" else material
    shown = (120, 112, 104) if view == "back" else strap
    reach = 0.62 if view == "worn" else 1.0
    for side in (-1, 1):
        _band(canvas, side, reach, shown, grain)
    radii = {"Round": (0.46, 0.46), "Square": (0.42, 0.42), "Oval": (0.3, 0.52)}
    shape = product.values["dial_shape"]
    case = GOLD if look.upright else STEEL
    _case(canvas, shape, radii[shape], case)
    inner = (radii[shape][0] - 0.08, radii[shape][1] - 0.08)
    if view == "back":
        _case(canvas, shape, inner, shade(case, 0.8))
        canvas.ellipse((0, 0), (0.18, 0.18), case, INK)
        canvas.line([(-0.1, 0), (0.1, 0)], INK, 0.04)
        return
    face = jittered(PALETTE[product.values["dial_color"]], look.lottery)
    _case(canvas, shape, inner, face)
    _time(canvas, product.values["display"], inner, PAPER if sum(face) < 420 else INK)


def _band(canvas: Canvas, side: int, reach: float, color: RGB, material: str) -> None:
    outline = [(-0.24, side * 0.3), (0.24, side * 0.3), (0.2, side * reach), (-0.2, side * reach)]
    canvas.polygon(outline, color, shade(color, 0.5))
    dark = shade(color, 0.45) if sum(color) > 200 else (130, 130, 136)
    if material == "Metal":
        for step in range(8):
            y = side * (0.36 + 0.09 * step)
            if abs(y) < reach:
                canvas.line([(-0.24, y), (0.24, y)], dark, 0.045)
        canvas.line([(0, side * 0.3), (0, side * reach)], dark, 0.04)
    elif material == "Leather":
        light = (236, 214, 170)
        for x in (-0.16, 0.16):
            for step in range(6):
                y = side * (0.36 + 0.12 * step)
                if abs(y) < reach - 0.05:
                    canvas.line([(x, y), (x, y + side * 0.07)], light, 0.05)


def _case(canvas: Canvas, shape: str, radii: tuple[float, float], fill: Fill) -> None:
    if shape == "Square":
        canvas.box(-radii[0], -radii[1], radii[0], radii[1], fill, INK)
    else:
        canvas.ellipse((0, 0), radii, fill, INK)


def _time(canvas: Canvas, display: str, radii: tuple[float, float], mark: RGB) -> None:
    if display == "Digital":
        for x in (-0.15, 0.12):
            canvas.line([(x - 0.08, -0.13), (x + 0.07, -0.13), (x + 0.07, 0.13)], mark, 0.06)
            canvas.line([(x - 0.08, -0.13), (x - 0.08, 0.13), (x + 0.07, 0.13)], mark, 0.06)
            canvas.line([(x - 0.08, 0), (x + 0.07, 0)], mark, 0.06)
        return
    for point in oval((0, 0), (radii[0] * 0.82, radii[1] * 0.82))[::7]:
        canvas.ellipse(point, (0.035, 0.035), mark)
    canvas.line([(0, -radii[1] * 0.7), (0, 0), (radii[0] * 0.5, 0.08)], mark, 0.05)


def _watch_side(canvas: Canvas, strap: RGB, material: str, look: Look) -> None:
    ring = oval((0, 0.1), (0.62, 0.72), start=-0.2, stop=0.7)
    canvas.line(ring, shade(strap, 0.5), 0.2)
    canvas.line(ring, strap, 0.15)
    if material == "Metal":
        dark = shade(strap, 0.45) if sum(strap) > 200 else (130, 130, 136)
        for x, y in ring[::1]:
            canvas.line(
                [(x * 0.88, 0.1 + (y - 0.1) * 0.88), (x * 1.12, 0.1 + (y - 0.1) * 1.12)], dark, 0.05
            )
    elif material == "Leather":
        for x, y in ring[1::2]:
            canvas.ellipse((x, y), (0.035, 0.035), (236, 214, 170))
    case = GOLD if look.upright else STEEL
    canvas.box(-0.34, -0.78, 0.34, -0.54, case, INK)
    canvas.box(0.34, -0.72, 0.44, -0.6, shade(case, 0.8), INK)
