"""One name, one thing, and no name of raypipe's own that a practitioner would not know.

What is listed here had a name once, and has a better one. Whole names count, never parts of them.
"""

import ast
import re
import subprocess
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from raypipe import schemas
from raypipe.config import Config, key_names

ROOT = Path(__file__).resolve().parents[2]
CLASSES = {
    "Answered", "Asker", "Blame", "Census", "Demand", "Draw", "Drawn", "Driver", "Examined",
    "Exhibit", "Generation", "Intake", "IntakeConsole", "Judged", "JudgingConfig", "Lean",
    "Outcome", "Paid", "Purse", "Receipt", "Said", "Say", "Signs", "Standing", "StepBoard",
    "Studio", "Suspects", "Taker", "Treatment", "Verdict", "Verdicts", "Voice", "Wanted", "Wishes",
    "_Claim", "_JudgedQuery",
}  # fmt: skip
FUNCTIONS = {
    "asked", "asked_as", "cleared", "committed", "demand", "draw_pairs", "explained", "generations",
    "grow", "isolate", "judge", "law", "matching", "open_generation", "own_words", "pay",
    "ray_at_hand", "required", "settles", "spread", "stand", "step_board", "take_answers",
    "take_census", "take_listings", "told", "verdict", "_campaign", "_generation", "_heard", "_law",
    "_speaker", "_suspects", "_take_sheet", "_tame_ray_data", "_tell", "_upshot", "_worth_telling",
}  # fmt: skip
# Files without ".py", and packages.
MODULES = {
    "asking", "board", "census", "chat", "choice", "command", "examination", "gates", "generations",
    "intake", "judging", "points", "receipts", "record", "reviewed", "signs", "sizes", "slices",
    "standing", "suspects", "take", "tested", "upkeep", "verdict", "verdicts", "whole", "words",
}  # fmt: skip
SOURCES = ("raypipe", "jobs", "benchmarks")
COLUMNS = {"annotations.outcome", "labels.outcome"}
SECTIONS = {"judging", "intake", "upkeep"}
FOLDERS = {"trial", "generations", "judging", "judged"}
RARE_WORDS = "law|purse|standing|upkeep|intake|judging|campaign"
MAX_RARE_LINES = 3
_BACKTICKS = re.compile(r"`([^`\n]+)`")


@cache
def trees() -> dict[str, ast.Module]:
    files = [path for name in SOURCES for path in sorted((ROOT / name).rglob("*.py"))]
    return {str(path.relative_to(ROOT)): ast.parse(path.read_text()) for path in files}


def definitions() -> Iterator[tuple[str, str]]:
    """Where a class, a function, a type or a constant is defined, and its name."""
    for place, tree in trees().items():
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                yield place, node.name
        for node in tree.body:
            targets = node.targets if isinstance(node, ast.Assign) else []
            yield from ((place, target.id) for target in targets if isinstance(target, ast.Name))


def test_no_definition_has_an_old_name() -> None:
    old = CLASSES | FUNCTIONS
    assert [f"{place}: {name}" for place, name in definitions() if name in old] == []


def test_no_module_or_package_has_an_old_name() -> None:
    places = [place.removesuffix(".py").split("/") for place in trees()]
    assert ["/".join(parts) for parts in places if MODULES & set(parts)] == []


def test_no_column_key_or_folder_has_an_old_name() -> None:
    tables = [table for table in vars(schemas).values() if isinstance(table, schemas.Table)]
    columns = {f"{table.name}.{column}" for table in tables for column in table.schema.names}
    assert len(columns) > 50
    assert columns & COLUMNS == set()
    assert {key.split(".")[0] for key in key_names(Config)} & SECTIONS == set()
    texts = [
        (place, node.value)
        for place, tree in trees().items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    ]
    paths = [(place, text) for place, text in texts if re.fullmatch(r"[\w/.-]+", text)]
    assert [found for found in paths if FOLDERS & set(found[1].split("/"))] == []


def documents() -> list[Path]:
    return [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


def old_name_in(code: str) -> bool:
    """Whether text in backticks names a thing of raypipe by an old name."""
    if code.removesuffix("()").rpartition(".")[2] in CLASSES | FUNCTIONS:
        return True
    if re.fullmatch(r"(raypipe/)?(\w+/)*\w+\.py", code):
        return bool(MODULES & set(code.removesuffix(".py").split("/")))
    parts = re.split(r"[./=]", code)
    return bool(MODULES & set(parts[1:3]) if parts[0] == "raypipe" else parts[0] in SECTIONS)


def test_no_document_names_a_thing_by_its_old_name() -> None:
    found = [
        f"{path.relative_to(ROOT)}: {code}"
        for path in documents()
        for code in _BACKTICKS.findall(path.read_text())
        if old_name_in(code)
    ]
    assert found == []


@pytest.mark.parametrize(
    ("code", "old"),
    [
        ("Purse", True),
        ("judge()", True),
        ("evaluation/signs.py", True),
        ("raypipe.judging", True),
        ("judging.policy=sft", True),
        ("attributes/vote.py", False),
        ("raypipe.vote", False),
        ("evals.policy", False),
        ("ImageDraw", False),
    ],
)
def test_old_names_are_told_from_others(code: str, old: bool) -> None:
    assert old_name_in(code) is old


def test_rare_words_are_rare() -> None:
    command = ["git", "grep", "-nwiE", RARE_WORDS, "--", "raypipe", "docs", "README.md"]
    lines = subprocess.run(command, cwd=ROOT, capture_output=True, text=True).stdout.splitlines()
    assert len(lines) <= MAX_RARE_LINES, lines


def test_no_class_name_is_defined_twice() -> None:
    places = defaultdict(list)
    for place, tree in trees().items():
        if place.startswith("raypipe/"):
            for node in ast.walk(tree):
                if isinstance(node, ast.ClassDef):
                    places[node.name].append(place)
    assert {name: where for name, where in places.items() if len(where) > 1} == {}
