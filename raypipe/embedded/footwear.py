"""Footwear: sandals, shoes and slippers from the side, above, behind and below."""

from raypipe.embedded.canvas import RGB, Canvas, Point, mirrored, oval, shade
from raypipe.embedded.look import CARD, INK, PAPER, Look, Product

_RUBBER: RGB = (64, 58, 56)


def draw_footwear(canvas: Canvas, product: Product, look: Look, view: str) -> None:
    """Draw one view of a sandal, a shoe or a slipper: side, top, back or sole."""
    drawers = {"side": _side, "top": _top, "back": _back, "sole": _sole}
    drawers[view](canvas, product, look)


def _rubber(look: Look) -> RGB:
    return PAPER if look.rgb_is_dark else _RUBBER


def _side(canvas: Canvas, product: Product, look: Look) -> None:
    if product.vertical == "shoe":
        _shoe_side(canvas, product, look)
        return
    heel = product.values.get("heel", "Flat")
    lift = 0.0 if heel == "Flat" else 0.46
    ball: Point = (-0.3, 0.48)
    back: Point = (0.72, 0.48 - lift)
    sole = [(-0.8, 0.46), ball, back, (0.76, 0.56 - lift), (-0.26, 0.6), (-0.8, 0.58)]
    if heel == "Wedge":
        canvas.polygon([ball, back, (0.78, 0.62), (-0.4, 0.62)], _rubber(look), INK)
    elif heel == "Block":
        canvas.box(0.4, 0.45 - lift, 0.74, 0.62, _rubber(look), INK)
    elif heel == "Stiletto":
        canvas.polygon([(0.56, 0.5 - lift), (0.76, 0.5 - lift), (0.72, 0.62), (0.66, 0.62)], INK)
    canvas.polygon(sole, look.main, look.ink)
    _straps_from_side(canvas, product.values["strap"], look, lift)
    if product.vertical == "sandal":
        canvas.line(
            [(0.3, 0.34 - lift * 0.75), (0.5, -0.1 - lift), (0.74, 0.4 - lift)], look.main, 0.1
        )


def _straps_from_side(canvas: Canvas, strap: str, look: Look, lift: float) -> None:
    color, edge = look.main, look.ink
    rise = lift * 0.3
    if strap == "Thong":
        canvas.line([(-0.52, 0.46), (-0.4, 0.1), (0.25, 0.4 - rise)], color, 0.1)
    elif strap == "Cross":
        for start, stop in ((-0.6, 0.0), (-0.1, -0.5)):
            canvas.line(
                [(start, 0.46), ((start + stop) / 2, 0.2 - rise), (stop, -0.04 - rise)], edge, 0.19
            )
            canvas.line(
                [(start, 0.46), ((start + stop) / 2, 0.2 - rise), (stop, -0.04 - rise)], color, 0.14
            )
    else:
        for left in (-0.66, -0.2):
            top = 0.1 - (rise if left > -0.5 else 0)
            band = [(left, 0.47), (left + 0.04, top), (left + 0.26, top), (left + 0.32, 0.47)]
            canvas.polygon(band, color, edge)


def _shoe_side(canvas: Canvas, product: Product, look: Look) -> None:
    top = {"Low": 0.02, "Mid": -0.34, "High": -0.8}[product.values["ankle_height"]]
    upper = [(-0.82, 0.46), (-0.76, 0.2), (-0.5, 0.08), (-0.1, -0.04), (0.2, min(top, -0.02))]
    upper += [(0.22, top), (0.68, top), (0.76, 0.46)]
    canvas.polygon(upper, look.main, look.ink)
    canvas.box(-0.86, 0.44, 0.8, 0.62, _rubber(look), INK)
    closure = product.values["closure"]
    light = PAPER if sum(look.main) < 560 else INK
    if closure == "Lace-Up":
        for step in range(4):
            x, y = -0.42 + 0.17 * step, 0.0 - 0.05 * step
            canvas.line([(x, y), (x + 0.13, y + 0.24)], light, 0.06)
            canvas.line([(x + 0.13, y), (x, y + 0.24)], light, 0.06)
    elif closure == "Velcro":
        for x in (-0.36, 0.0):
            band = [(x, -0.02), (x + 0.24, -0.1), (x + 0.32, 0.28), (x + 0.08, 0.34)]
            canvas.polygon(band, look.trim, INK)
    else:
        canvas.polygon([(0.0, 0.0), (0.3, -0.02), (0.16, 0.34)], _RUBBER, INK)


def _outline(toe: str) -> list[Point]:
    """Half the outline of a foot seen from above, toe up."""
    tips: dict[str, list[Point]] = {
        "Round": [(0.0, -0.86), (0.2, -0.82), (0.34, -0.64)],
        "Pointed": [(0.0, -1.0), (0.1, -0.84), (0.3, -0.5)],
        "Square": [(0.0, -0.84), (0.36, -0.84), (0.38, -0.6)],
    }
    return [*tips[toe], (0.38, -0.3), (0.28, 0.15), (0.3, 0.6), (0.2, 0.84), (0.0, 0.9)]


def _top(canvas: Canvas, product: Product, look: Look) -> None:
    outline = mirrored(_outline(product.values.get("toe_shape", "Round")))
    if product.vertical == "shoe":
        canvas.polygon(outline, look.main, look.ink, 0.04)
        canvas.ellipse((0, 0.5), (0.2, 0.3), _RUBBER, look.ink)
        _fastening(canvas, product.values["closure"], look)
        return
    canvas.polygon(outline, CARD if look.rgb_is_dark else shade(look.main, 0.62), INK, 0.03)
    color, strap = look.main, product.values["strap"]
    edge = shade(color, 0.35) if sum(color) > 240 else (150, 150, 150)
    if strap == "Thong":
        for side in (-1, 1):
            canvas.line([(0, -0.55), (side * 0.36, 0.1)], edge, 0.19)
            canvas.line([(0, -0.55), (side * 0.36, 0.1)], color, 0.14)
    elif strap == "Cross":
        for side in (-1, 1):
            canvas.line([(-side * 0.4, -0.56), (side * 0.38, 0.06)], edge, 0.23)
            canvas.line([(-side * 0.4, -0.56), (side * 0.38, 0.06)], color, 0.18)
    else:
        for y in (-0.58, -0.16):
            canvas.box(-0.43, y, 0.43, y + 0.24, color, edge)
    if product.vertical == "sandal":
        canvas.line([(-0.3, 0.6), (0, 0.5), (0.3, 0.6)], color, 0.1)


def _fastening(canvas: Canvas, closure: str, look: Look) -> None:
    light = PAPER if sum(look.main) < 560 else INK
    if closure == "Lace-Up":
        for step in range(4):
            y = -0.4 + 0.15 * step
            canvas.line([(-0.18, y), (0.18, y + 0.12)], light, 0.06)
            canvas.line([(0.18, y), (-0.18, y + 0.12)], light, 0.06)
    elif closure == "Velcro":
        for y in (-0.4, -0.06):
            canvas.box(-0.4, y, 0.34, y + 0.22, look.trim, INK)
    else:
        for side in (-1, 1):
            canvas.polygon(
                [(side * 0.1, 0.16), (side * 0.34, 0.0), (side * 0.3, 0.36)], _RUBBER, INK
            )


def _back(canvas: Canvas, product: Product, look: Look) -> None:
    if product.vertical == "shoe":
        top = {"Low": 0.05, "Mid": -0.35, "High": -0.85}[product.values["ankle_height"]]
        canvas.polygon(mirrored([(0.3, top), (0.36, 0.5)]), look.main, look.ink, 0.03)
        canvas.box(-0.06, top - 0.08, 0.06, 0.4, look.trim, look.ink)
        canvas.box(-0.42, 0.48, 0.42, 0.68, _rubber(look), INK)
        return
    heel = product.values.get("heel", "Flat")
    lift = 0.0 if heel == "Flat" else 0.55
    rubber = _rubber(look)
    if heel == "Wedge":
        canvas.polygon(mirrored([(0.3, 0.6 - lift), (0.4, 0.68)]), rubber, INK)
    elif heel == "Block":
        canvas.box(-0.19, 0.55 - lift, 0.19, 0.68, rubber, INK)
    elif heel == "Stiletto":
        canvas.polygon(mirrored([(0.12, 0.55 - lift), (0.03, 0.68)]), INK)
    canvas.polygon(mirrored([(0.38, 0.48 - lift), (0.34, 0.62 - lift)]), look.main, look.ink, 0.03)
    if product.vertical == "sandal":
        arch = oval((0, 0.48 - lift), (0.3, 0.5), start=0.5, stop=1.0)
        canvas.line(arch, look.main, 0.12)
    else:
        for side in (-1, 1):
            canvas.line([(side * 0.34, 0.5), (0, 0.24)], look.main, 0.12)


def _sole(canvas: Canvas, product: Product, look: Look) -> None:
    base = (92, 88, 86) if look.upright else (150, 140, 128)
    canvas.polygon(mirrored(_outline(product.values.get("toe_shape", "Round"))), base, INK, 0.05)
    tread, dark = product.values.get("sole_pattern"), shade(base, 0.45)
    if tread is None or tread == "Plain":
        canvas.box(-0.16, 0.5, 0.16, 0.66, dark)
        return
    for step in range(7):
        y = -0.62 + 0.2 * step
        if tread == "Waves":
            canvas.line([(x / 10, y + 0.07 * (x % 4 - 2) / 2) for x in range(-3, 4)], dark, 0.06)
        else:
            for x in (-0.2, 0.0, 0.2):
                canvas.ellipse((x, y), (0.065, 0.065), dark)
