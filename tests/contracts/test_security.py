"""docs/security.md says what the code and the installed packages do, and which tests show it."""

import ast
import re
import subprocess
from collections import Counter
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "security.md").read_text()
UNPICKLES = r"pickle|torch.load|weights_only=False"
LOADS = re.compile(r"torch\.load\(|pickle\.loads?\(")
FAULTS = 38


def section(title: str) -> str:
    (found,) = re.findall(
        rf"^## {re.escape(title)}\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL
    )
    return str(found)


def table_after(text: str, header: str) -> list[list[str]]:
    """The rows of the table whose header begins so."""
    lines = text[text.index(f"| {header} |") :].splitlines()[2:]
    rows = []
    for line in lines:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.strip("|").split("|")])
    return rows


def names_in(path: Path) -> set[str]:
    tree = ast.parse(path.read_text())
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


def test_every_test_that_the_page_names_exists() -> None:
    named = re.findall(r"`(tests/[\w/.]+\.py)::(\w+)`", PAGE)
    assert len(named) > 100
    absent = [f"{path}::{name}" for path, name in named if name not in names_in(ROOT / path)]
    assert absent == []


def test_every_fault_has_a_test() -> None:
    rows = table_after(section("Faults, and which test shows the guarantee"), "#")
    assert [row[0] for row in rows] == [str(number) for number in range(1, FAULTS + 1)]
    assert [row[0] for row in rows if "::test_" not in row[3]] == []


def test_every_line_that_could_load_a_pickle_is_explained() -> None:
    command = ["git", "grep", "-nE", UNPICKLES, "--", "raypipe", "jobs", "benchmarks"]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if found.returncode > 1:
        pytest.skip("not a git checkout")
    counted = Counter(line.partition(":")[0] for line in found.stdout.splitlines())
    rows = table_after(section("Where a file could run code"), "file")
    assert {row[0].strip("`"): int(row[1]) for row in rows} == dict(counted)


def loading_files(package: str, below: str = "") -> Iterator[str]:
    """Files of an installed package that call torch.load or pickle.load."""
    spec = find_spec(package)
    assert spec is not None
    assert spec.origin is not None
    root = Path(spec.origin).parent
    for path in sorted((root / below).rglob("*.py")):
        name = path.relative_to(root.parent).as_posix()
        if "/tests/" not in name and LOADS.search(path.read_text(errors="replace")):
            yield name


def test_every_load_of_the_packages_that_train_is_explained() -> None:
    rows = table_after(section("Where a file could run code"), "file or folder of the package")
    places = [place for row in rows for place in re.findall(r"`([^`]+)`", row[0])]
    found = [*loading_files("deepspeed"), *loading_files("peft"), *loading_files("ray", "train")]
    found += [
        name for name in loading_files("transformers") if name.startswith("transformers/trainer")
    ]
    unexplained = [
        name
        for name in found
        if not any(
            name == place or (place.endswith("/") and name.startswith(place)) for place in places
        )
    ]
    assert unexplained == []
    idle = [place for place in places if not any(name.startswith(place) for name in found)]
    assert idle == []
