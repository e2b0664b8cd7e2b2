"""Garments: shirts, tops, kurtas, sets, trousers and saris, worn by nobody or a mannequin."""

import math

from raypipe.embedded.canvas import Canvas, Fill, Point, mirrored, oval, shade
from raypipe.embedded.look import GOLD, INK, PAPER, STEEL, Look, Product, cloth

_SKIN = (206, 164, 132)


def draw_garment(canvas: Canvas, product: Product, look: Look, view: str) -> None:
    """Draw one view of a garment: front, back, folded or sketch."""
    if view == "sketch":
        fill: Fill = PAPER
        look = _pencilled(look)
    else:
        fill = cloth(look, canvas)
    if view == "folded":
        _folded(canvas, product, look, fill)
    elif product.vertical == "trouser":
        _trouser(canvas, product, look, fill, view)
    elif product.vertical == "sari":
        _sari(canvas, product, look, fill, view)
    elif product.vertical == "ethnic set":
        _ethnic_set(canvas, product, look, fill, view)
    else:
        _upper(canvas, product, look, fill, view)


def draw_fabric(canvas: Canvas, look: Look) -> None:
    """The close-up: cloth from edge to edge, a fold, a seam and a button."""
    canvas.box(-3, -3, 3, 3, cloth(look, canvas, zoom=1.5))
    slope = look.lottery.uniform(-0.5, 0.5)
    fold = [(-3.0, 1.1 - 3 * slope), (3.0, 1.1 + 3 * slope)]
    canvas.line(fold, shade(look.main, 0.55), 0.1)
    canvas.line([(x, y - 0.13) for x, y in fold], shade(look.main, 1.35), 0.06)
    for step in range(-14, 14):
        x = step * 0.16
        y = -0.75 + x * slope
        canvas.line([(x, y), (x + 0.09, y + 0.09 * slope)], PAPER, 0.035)
    canvas.ellipse((0.55, -0.1), (0.17, 0.17), STEEL, INK)
    for x in (0.5, 0.6):
        canvas.ellipse((x, -0.1), (0.03, 0.03), INK)


def _pencilled(look: Look) -> Look:
    return Look(
        main=PAPER,
        accent=INK,
        trim=PAPER,
        ink=INK,
        pattern="Solid",
        period=look.period,
        upright=look.upright,
        lottery=look.lottery,
    )


def _hanger(canvas: Canvas, neck: float) -> None:
    canvas.line([(-0.4, neck + 0.1), (0, neck - 0.16), (0.4, neck + 0.1)], STEEL, 0.05)
    canvas.line(oval((0.0, neck - 0.26), (0.09, 0.1), start=-0.6, stop=0.25), STEEL, 0.05)


def _sleeves(canvas: Canvas, length: str, look: Look, fill: Fill) -> None:
    if length == "Sleeveless":
        return
    cuff: tuple[Point, Point] = ((0.86, -0.06), (0.58, 0.04))
    if length == "Full":
        cuff = ((0.92, 0.56), (0.7, 0.6))
    for side in (-1, 1):
        outline = [(0.38, -0.56), (0.56, -0.5), cuff[0], cuff[1], (0.36, -0.14)]
        canvas.polygon([(side * x, y) for x, y in outline], fill, look.ink)


def _torso(canvas: Canvas, product: Product, look: Look, fill: Fill) -> None:
    lengths = {"Short": 0.34, "Knee": 0.66, "Long": 0.98}
    bottom = lengths.get(product.values.get("length", ""), 0.62)
    waist = 0.37
    hem = product.values.get("hem", "Straight")
    shoulder = 0.34 if product.values.get("sleeve") == "Sleeveless" else 0.44
    side: list[Point] = [(0.16, -0.62), (shoulder, -0.55), (0.37, -0.14), (waist, 0.1)]
    if hem == "Peplum":
        side += [(0.34, 0.2), (0.66, 0.62)]
        side += [(0.66 - 0.12 * step, 0.62 + 0.12 * (step % 2)) for step in range(1, 6)]
    elif hem == "Curved":
        side += [(0.42, 0.3), (0.36, 0.48), (0.22, 0.7), (0.0, 0.78)]
    else:
        flare = 0.43 + 0.18 * max(0.0, bottom - 0.5)
        side += [(flare, bottom)]
    canvas.polygon(mirrored(side), fill, look.ink)
    if hem == "Peplum":
        canvas.line([(-0.34, 0.2), (0.34, 0.2)], look.ink, 0.05)
        for x in (-0.3, 0.0, 0.3):
            canvas.line([(x * 0.7, 0.22), (x * 1.4, 0.6)], look.ink)
    if product.vertical == "kurta":
        for x in (-0.3, 0.3):
            canvas.line([(x, bottom - 0.24), (x, bottom)], look.ink, 0.03)


def _neck(canvas: Canvas, product: Product, look: Look) -> None:
    shape = product.values.get("neckline", "Collar")
    inside = shade(look.main, 0.5) if sum(look.main) > 240 else (86, 86, 92)
    if shape == "Round":
        canvas.polygon(oval((0, -0.63), (0.19, 0.2), start=0, stop=0.5), inside, look.ink)
    elif shape == "V-Neck":
        canvas.polygon([(-0.18, -0.63), (0.18, -0.63), (0, -0.16)], inside, look.ink, 0.04)
    elif shape == "Mandarin":
        canvas.box(-0.17, -0.74, 0.17, -0.58, look.trim, look.ink)
        canvas.line([(0, -0.74), (0, -0.2)], look.ink, 0.04)
    else:
        canvas.line([(0, -0.55), (0, 0.6 if shape == "Collar" else -0.14)], look.ink, 0.04)
        for side in (-1, 1):
            flap = [(0, -0.56), (0.14, -0.7), (0.28, -0.5), (0.14, -0.36)]
            canvas.polygon([(side * x, y) for x, y in flap], look.trim, look.ink)
        buttons = (-0.3, -0.1, 0.1, 0.3, 0.5) if shape == "Collar" else (-0.3, -0.18)
        for y in buttons:
            canvas.ellipse((0, y), (0.03, 0.03), PAPER, INK)


def _upper(canvas: Canvas, product: Product, look: Look, fill: Fill, view: str) -> None:
    if view == "front":
        _hanger(canvas, -0.62)
    _sleeves(canvas, product.values.get("sleeve", "Half"), look, fill)
    _torso(canvas, product, look, fill)
    if view == "back":
        _back_of_upper(canvas, product, look)
        return
    _neck(canvas, product, look)
    pockets = int(product.values.get("number_of_pockets", "0"))
    for x in (0.21, -0.21)[:pockets]:
        outline = [(-0.1, -0.3), (0.1, -0.3), (0.1, -0.1), (0, -0.04), (-0.1, -0.1)]
        canvas.polygon([(x + dx, y) for dx, y in outline], look.trim, look.ink, 0.03)


def _back_of_upper(canvas: Canvas, product: Product, look: Look) -> None:
    canvas.polygon(oval((0, -0.62), (0.17, 0.07), start=0, stop=0.5), look.main, look.ink)
    canvas.box(-0.06, -0.56, 0.06, -0.48, PAPER, INK)
    canvas.line([(-0.4, -0.42), (0, -0.38), (0.4, -0.42)], look.ink, 0.04)
    mark = PAPER if look.rgb_is_dark else INK
    stamp = product.values.get("back_print", "None")
    if stamp == "Text":
        for y, half in ((-0.2, 0.26), (0.0, 0.22), (0.2, 0.26)):
            canvas.box(-half, y, half, y + 0.1, mark)
    elif stamp == "Logo":
        canvas.ellipse((0, 0.08), (0.27, 0.27), mark)
        star = [
            (math.sin(k * math.pi / 5) * r, 0.08 - math.cos(k * math.pi / 5) * r)
            for k in range(10)
            for r in ((0.22,) if k % 2 == 0 else (0.09,))
        ]
        canvas.polygon(star, look.trim)


def _trouser(canvas: Canvas, product: Product, look: Look, fill: Fill, view: str) -> None:
    fit = product.values["fit"]
    outer, inner = {"Slim": (0.28, 0.12), "Straight": (0.42, 0.08), "Flared": (0.72, 0.16)}[fit]
    knee = 0.34 if fit != "Straight" else 0.42
    for side in (-1, 1):
        leg = [(0, -0.8), (0.36, -0.8), (0.42, -0.35), (knee, 0.15), (outer, 0.9), (inner, 0.9)]
        leg += [(0.07, 0.15), (0, -0.25)]
        canvas.polygon([(side * x, y) for x, y in leg], fill, look.ink)
    canvas.box(-0.37, -0.86, 0.37, -0.74, look.trim, look.ink)
    if view == "back":
        canvas.line([(0, -0.74), (0, -0.25)], look.ink, 0.04)
        canvas.polygon([(-0.36, -0.72), (0.36, -0.72), (0, -0.6)], look.trim, look.ink)
        for x in (0.2, -0.2)[: int(product.values["number_of_pockets"])]:
            canvas.box(x - 0.12, -0.55, x + 0.12, -0.26, look.trim, look.ink)
        return
    canvas.line([(0.03, -0.74), (0.03, -0.4), (0, -0.3)], look.ink, 0.03)
    for side in (-1, 1):
        canvas.line([(side * 0.2, -0.74), (side * 0.38, -0.5)], look.ink, 0.04)
    if view == "front":
        canvas.ellipse((0, -0.8), (0.04, 0.04), STEEL, INK)
        for x in (-0.26, 0.26):
            canvas.line([(x, -0.74), (x, -1.0)], STEEL, 0.06)


def _ethnic_set(canvas: Canvas, product: Product, look: Look, fill: Fill, view: str) -> None:
    bottom = product.values["bottom"]
    if bottom == "Skirt":
        legs = [mirrored([(0.3, 0.0), (0.8, 0.94)])]
    else:
        outer = 0.62 if bottom == "Palazzo" else 0.18
        leg: list[Point] = [(0.02, 0.0), (0.32, 0.0), (outer, 0.94), (0.05, 0.94)]
        legs = [leg, [(-x, y) for x, y in leg]]
    for outline in legs:
        canvas.polygon(outline, look.trim, look.ink)
    if view == "front":
        _hanger(canvas, -0.74)
    side: list[Point] = [(0.14, -0.76), (0.36, -0.7), (0.62, -0.3), (0.46, -0.22), (0.34, -0.4)]
    side += [(0.34, -0.05), (0.42, 0.24)]
    canvas.polygon(mirrored(side), fill, look.ink)
    if view == "back":
        canvas.box(-0.06, -0.72, 0.06, -0.64, PAPER, INK)
        canvas.line([(0, -0.62), (0, 0.2)], look.ink, 0.04)
    else:
        canvas.polygon(oval((0, -0.77), (0.16, 0.22), start=0, stop=0.5), _SKIN, look.ink)
    dupatta = product.values["dupatta"]
    if dupatta == "None" or view == "sketch":
        return
    scarf = [(-0.4, -0.76), (-0.14, -0.76), (0.5, 0.5), (0.16, 0.56)]
    canvas.polygon(scarf, look.accent, look.ink)
    if dupatta == "Bordered":
        canvas.line([scarf[1], scarf[2]], GOLD, 0.1)
        canvas.line([scarf[0], scarf[3]], GOLD, 0.1)


def _sari(canvas: Canvas, product: Product, look: Look, fill: Fill, view: str) -> None:
    band = {"None": 0.0, "Narrow": 0.08, "Broad": 0.2}[product.values["border"]]
    if view == "sketch":
        band = 0.0
    canvas.ellipse((0, -0.82), (0.13, 0.15), PAPER if view == "sketch" else _SKIN, look.ink)
    canvas.polygon([(-0.34, -0.6), (0.34, -0.6), (0.26, -0.2), (-0.26, -0.2)], look.trim, look.ink)
    canvas.polygon(mirrored([(0.26, -0.22), (0.6, 0.94)]), fill, look.ink)
    drape = [(-0.36, -0.64), (-0.12, -0.64), (0.42, 0.1), (0.34, 0.5), (-0.3, 0.0)]
    canvas.polygon(drape, fill, look.ink)
    for x in (-0.15, 0.05, 0.25):
        canvas.line([(x * 0.6, 0.2), (x * 1.4, 0.9)], look.ink)
    if band:
        canvas.box(-0.59, 0.94 - band, 0.59, 0.94, GOLD, INK)
        canvas.line([drape[1], drape[2], drape[3]], GOLD, band)


def _folded(canvas: Canvas, product: Product, look: Look, fill: Fill) -> None:
    band = {"None": 0.0, "Narrow": 0.14, "Broad": 0.42}[product.values["border"]]
    for layer in (2, 1, 0):
        low = 0.5 + 0.09 * layer
        canvas.box(-0.66, -0.5, 0.66, low, fill if layer == 0 else shade(look.main, 0.7), look.ink)
    if band:
        canvas.box(-0.66, 0.5 - band, 0.66, 0.5, GOLD, INK)
    canvas.line([(-0.66, -0.1), (0.66, -0.1)], shade(look.main, 0.6), 0.03)
