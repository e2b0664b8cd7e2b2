"""The fixtures of these tests."""

from pathlib import Path

import pytest

from raypipe.cli.init import main
from tests.fakes.user_sheets import HEADER, Init, photo, write_sheet


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with twelve shoes in a sheet and a photo of each, where the user stands."""
    directory = tmp_path / "shop"
    (directory / "photos").mkdir(parents=True)
    rows = [HEADER]
    for number in range(12):
        name = f"S{number:02}"
        (directory / "photos" / f"{name}.jpg").write_bytes(photo(number))
        colour = ("Red", "Blue", "red")[number % 3]
        rows.append((name, "shoe", colour, f"{10 + number}.50", f"photos/{name}.jpg"))
    write_sheet(directory / "listings.csv", rows)
    monkeypatch.chdir(directory)
    return directory


@pytest.fixture
def init(shop: Path) -> Init:
    def call(*arguments: str) -> int:
        return main(["--gpus", "0", *arguments])

    return call
