"""``raypipe.store.paths`` alone spells the names of a run's artifacts and files."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from raypipe.store import paths
from raypipe.store.paths import CATALOG, Paths

ROOT = Path(__file__).resolve().parents[2]
SCOPE = "one-scope"
PARTS = sorted(
    name
    for name in dir(Paths)
    if not hasattr(str, name) and getattr(Paths(SCOPE), name) == f"{SCOPE}/{name}"
)
FILES = {
    value
    for name, value in vars(paths).items()
    if name.isupper() and isinstance(value, str) and re.fullmatch(r"[\w/]+\.\w+", value)
}
DIRECTORIES = (
    paths.TRAININGS,
    paths.RUN_EVENTS.partition("/")[0],
    paths.REPLIES.partition("/")[0],
    paths.TABLES,
    paths.EXPORTS,
    paths.REPORTS,
    paths.LABELS_ROOT,
    paths.EVALUATIONS,
)
# A whole name, or a part of an f-string: a scope's beginning or an artifact's end.
BEGINNING = re.compile(
    rf"(?:{'|'.join(map(re.escape, DIRECTORIES))})/|(?:seed|round)-$|(?:seed|round)-\d+/"
)
END = re.compile(rf"(?:^|[\w.-])/(?:{'|'.join(PARTS)})$|^-draw(?:/|$)")


def spelled(source: str) -> Iterator[tuple[int, str]]:
    """Line and text of every string that is the name of an artifact or a file of a run."""
    tree = ast.parse(source)
    texts = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}  # docstrings
    for node in ast.walk(tree):
        if not isinstance(node, ast.Constant) or id(node) in texts:
            continue
        text = node.value
        if not isinstance(text, str) or " " in text:
            continue
        if text in FILES or BEGINNING.match(text) or END.search(text):
            yield node.lineno, text


def test_no_module_spells_the_name_of_an_artifact() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{line}: {text}"
        for path in sorted((ROOT / "raypipe").rglob("*.py"))
        if path != Path(paths.__file__)
        for line, text in spelled(path.read_text())
    ]
    assert found == []


@pytest.mark.parametrize(
    "line",
    [
        'run.artifact("catalog/listings")',
        'run.artifact(f"{scope}/chains")',
        'artifact.read_json("metrics.json")',
        'f"round-{number}"',
        'f"{name}-draw"',
        'run.path("labels/000001")',
        'run.replace("report/index.html", page)',
    ],
)
def test_a_name_that_is_spelled_is_found(line: str) -> None:
    assert list(spelled(line))


def test_names_of_a_run() -> None:
    assert CATALOG.listings == "catalog/listings"
    assert Paths.of_round(1).chains == "round-1/chains"
    assert Paths.of(Paths.of_arm(0, "sft").adapter) == "seed-0/sft"
    assert Paths.of_label_version(1).page == "labels/000001/report/index.html"
