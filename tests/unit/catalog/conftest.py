"""A small shop for every test, and a run to prepare it in."""

from pathlib import Path

import pytest
from shop import Shop

from raypipe.artifacts import Run


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    """Twelve listings with one photo each: two annotated, four verified, six unlabeled."""
    shop = Shop(tmp_path / "shop")
    for index in range(12):
        shop.add(f"L{index:02}", index)
    for index in range(2):
        shop.seed[f"L{index:02}"] = [
            {"attribute": "color", "reasoning": "It looks red.", "answer": "crimson"},
            {"attribute": "heel", "reasoning": None, "answer": "kitten-heel"},
        ]
    for index in range(2, 6):
        shop.truth[f"L{index:02}"] = [{"attribute": "color", "value": "Blue"}]
        shop.stated_splits[f"L{index:02}"] = "anchor" if index == 2 else "eval"
    return shop


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(str(tmp_path / "run"))
