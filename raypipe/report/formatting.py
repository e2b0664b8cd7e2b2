"""How the report says numbers; what is absent is a dash."""

ABSENT = "–"


def score(figure: float | None) -> str:
    """An accuracy: 0.704."""
    return ABSENT if figure is None else f"{figure:.3f}"


def percent(share: float | None) -> str:
    """A share with one decimal: 3.1 %."""
    return ABSENT if share is None else f"{100 * share:.1f} %"


def whole_percent(share: float) -> str:
    """A share for a crowded place: 3 %, and <1 % for what would round to nothing."""
    return "<1 %" if 0 < share < 0.01 else f"{100 * share:.0f} %"


def points(difference: float | None) -> str:
    """A difference of accuracies in percentage points, signed."""
    if difference is None:
        return ABSENT
    figure = round(100 * difference, 1)
    return f"{figure:+.1f}".replace("-", "−") if figure else "0.0"


def interval(ci95: tuple[float, float] | None) -> str:
    """An interval of accuracies: [0.684, 0.724]."""
    return ABSENT if ci95 is None else f"[{score(ci95[0])}, {score(ci95[1])}]"


def points_interval(ci95: tuple[float, float] | None) -> str:
    """An interval of differences in percentage points: [−0.4, +2.1]."""
    return ABSENT if ci95 is None else f"[{points(ci95[0])}, {points(ci95[1])}]"


def count(number: int | None) -> str:
    """A whole number with thousands set apart."""
    return ABSENT if number is None else f"{number:,}"


def duration(seconds: float) -> str:
    """Seconds as a person says them."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"
