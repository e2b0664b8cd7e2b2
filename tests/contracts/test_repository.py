"""The house rules that a reader relies on."""

import ast
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MAX_FILE_LINES = 450
MAX_FUNCTION_LINES = 70
MAX_JOB_LINES = 40
DUMPING_GROUNDS = re.compile(r"(^|_)(utils?|helpers?|common|managers?|misc)$")
# A directory of the machine that this was written on.
MACHINE_PATH = re.compile(rf"(?<![\w./-])/({'|'.join(('work', 'root'))})/")


def tracked() -> list[Path]:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout")
    paths = [ROOT / name for name in listed.stdout.split("\0") if name]
    return [path for path in paths if path.is_file()]


def label(path: Path) -> str:
    return str(path.relative_to(ROOT))


def text_of(path: Path) -> str | None:
    try:
        return path.read_text()
    except UnicodeDecodeError:
        return None


def sources() -> list[Path]:
    return [
        path
        for path in tracked()
        if path.suffix == ".py" and label(path).startswith(("raypipe/", "jobs/"))
    ]


def test_no_tracked_text_names_a_path_of_one_machine() -> None:
    found = []
    for path in tracked():
        for number, line in enumerate((text_of(path) or "").splitlines(), start=1):
            if MACHINE_PATH.search(line):
                found.append(f"{label(path)}:{number}: {line.strip()[:80]}")
    assert found == []


def test_the_readme_says_how_to_start() -> None:
    readme = (ROOT / "README.md").read_text()
    assert "make round" in readme
    assert "make test" in readme


def test_a_job_parses_and_makes_one_call() -> None:
    jobs = sorted((ROOT / "jobs").glob("*.py"))
    assert jobs
    for path in jobs:
        assert len(path.read_text().splitlines()) <= MAX_JOB_LINES, label(path)


def test_no_module_is_a_dumping_ground() -> None:
    names = [path for path in sources() if DUMPING_GROUNDS.search(path.stem)]
    folders = [path for path in sources() if DUMPING_GROUNDS.search(path.parent.name)]
    assert [label(path) for path in (*names, *folders)] == []


def test_no_file_is_too_long_to_read() -> None:
    lengths = {label(path): len(path.read_text().splitlines()) for path in sources()}
    long = {name: lines for name, lines in lengths.items() if lines > MAX_FILE_LINES}
    assert long == {}


def functions(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def test_no_function_is_too_long_to_read() -> None:
    found = []
    for path in sources():
        for node in functions(path):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            if lines > MAX_FUNCTION_LINES:
                found.append(f"{label(path)}: {node.name} has {lines} lines")
    assert found == []


def test_every_module_says_what_it_is_for() -> None:
    silent = [
        label(path)
        for path in sources()
        if path.name != "__init__.py" and ast.get_docstring(ast.parse(path.read_text())) is None
    ]
    assert silent == []
