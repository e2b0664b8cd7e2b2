"""``raypipe/store/parquet.py`` alone opens Parquet files; what else can is named here, and why."""

import ast
import re
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from raypipe.store import parquet

ROOT = Path(__file__).resolve().parents[2]
SOURCES = sorted([*(ROOT / "raypipe").rglob("*.py"), *(ROOT / "jobs").glob("*.py")])
# Of pyarrow.parquet; writers are no danger.
OPENERS = {
    "ParquetDataset",
    "ParquetFile",
    "read_metadata",
    "read_pandas",
    "read_schema",
    "read_table",
}
# Of whatever package: pandas, Ray Data, deltalake, datasets, Arrow's other formats.
READERS = {
    "from_parquet",
    "load_dataset",
    "open_dataset",
    "parquet_dataset",
    "read_delta",
    "read_feather",
    "read_iceberg",
    "read_ipc",
    "read_lance",
    "read_parquet",
    "read_parquet_bulk",
    "to_pyarrow_dataset",
    "to_pyarrow_table",
}
ALLOWED = {
    ("raypipe/store/parquet.py", "ParquetFile"),
    (
        "raypipe/store/parquet.py",
        "read_schema",
    ),  # of an IPC message, without names of extension types
    # These refuse pickled objects themselves, and raypipe/catalog/tables.py looks at each block.
    ("raypipe/catalog/snapshots.py", "read_delta"),
    ("raypipe/catalog/snapshots.py", "read_iceberg"),
    ("raypipe/catalog/snapshots.py", "read_lance"),
    # Its schema, which is of the table's log; no file is opened.
    ("raypipe/catalog/snapshots.py", "to_pyarrow_dataset"),
}


def used(tree: ast.AST) -> Iterator[str]:
    """Names of calls, and of what is imported from pyarrow."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            function = node.func
            if isinstance(function, ast.Attribute):
                yield function.attr
            elif isinstance(function, ast.Name):
                yield function.id
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("pyarrow"):
            yield from (alias.name for alias in node.names)


def imported(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
            yield str(node.module)


def test_one_module_opens_parquet_files() -> None:
    found = {
        (str(path.relative_to(ROOT)), name)
        for path in SOURCES
        for name in used(ast.parse(path.read_text()))
        if name in OPENERS | READERS
    }
    assert found == ALLOWED


@pytest.mark.parametrize("module", ["pyarrow.dataset", "pyarrow.feather", "pyarrow.orc"])
def test_no_other_reader_of_arrows_is_imported(module: str) -> None:
    found = [path for path in SOURCES if module in imported(ast.parse(path.read_text()))]
    assert found == []


def test_every_variable_of_rays_that_unpickles_files_is_known_by_its_beginning() -> None:
    spec = find_spec("ray")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    (package,) = spec.submodule_search_locations
    sources = (path.read_text(errors="replace") for path in Path(package, "data").rglob("*.py"))
    names = {name for text in sources for name in re.findall(r"\bRAY_\w*AUTOLOAD\w+", text)}
    assert len(names) > 2
    assert {name for name in names if not name.startswith(parquet.UNPICKLING)} == set()
