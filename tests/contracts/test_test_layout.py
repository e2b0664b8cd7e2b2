"""Where a test stands: beside the module that it is of, under a size that can be read."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TESTS = ROOT / "tests"
UNIT = TESTS / "unit"
MAX_TEST_LINES = 600
FILES = sorted(TESTS.rglob("*.py"))
# `make test` looks for them nowhere else.
ENGINE_FOLDERS = ("faults", "integration")


def name_of(path: Path) -> str:
    return str(path.relative_to(TESTS))


def is_of_a_module(test: Path) -> bool:
    """Whether raypipe has the module or package that a test file is named after."""
    module = ROOT / "raypipe" / test.relative_to(UNIT).with_name(test.stem.removeprefix("test_"))
    return module.is_dir() or module.with_suffix(".py").is_file()


@pytest.mark.parametrize("path", sorted(UNIT.rglob("test_*.py")), ids=name_of)
def test_a_unit_test_is_of_a_module_or_says_its_topic(path: Path) -> None:
    assert (ROOT / "raypipe" / path.parent.relative_to(UNIT)).is_dir()
    assert is_of_a_module(path) or ast.get_docstring(ast.parse(path.read_text()))


def test_test_files_are_short_enough_to_be_read() -> None:
    lengths = {name_of(path): len(path.read_text().splitlines()) for path in FILES}
    assert {name: lines for name, lines in lengths.items() if lines > MAX_TEST_LINES} == {}


def test_engines_start_only_where_make_looks_for_them() -> None:
    marked = {name_of(path) for path in FILES if "mark.engine" in path.read_text()}
    own = {name_of(Path(__file__))}
    assert {name for name in marked - own if Path(name).parts[0] not in ENGINE_FOLDERS} == set()
