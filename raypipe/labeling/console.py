"""What a person sees of the cost of a labeling."""

from raypipe.config import Config
from raypipe.runtime.console import Console
from raypipe.runtime.cost import Cost, figures


def compared(expected: Cost, took: Cost, config: Config) -> list[tuple[str, str, str]]:
    """Rows of figures: what, expected, and what it took."""
    measured = figures(took, config)
    return [(name, figure, measured[name]) for name, figure in figures(expected, config).items()]


def print_cost(console: Console, config: Config, expected: Cost, took: Cost | None = None) -> None:
    """What labeling takes: expected before, measured after."""
    if took is None:
        console.table("What it takes", ("", "expected"), figures(expected, config).items())
    else:
        columns = ("", "expected", "took")
        console.table("What it takes", columns, compared(expected, took, config))
