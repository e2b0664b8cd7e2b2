"""Labels of a hundred million listings are planned from manifests, in little time and memory."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fakes.small_run import ROOT, job_environment

SHARDS = 5000
# What handles shards of labels outside of the tasks that make one of them.
DRIVERS = (
    "labeling/driver.py",
    "labeling/catalog_labels.py",
    "labeling/published_counts.py",
    "labeling/published_parts.py",
    "labeling/lookup.py",
    "catalog/shards.py",
    "catalog/survey.py",
    "runtime/parts.py",
    "runtime/tasks.py",
)
JOINING = {"concat_arrays", "combine_chunks", "concat_tables", "unify_dictionaries", "read_all"}


def joins(path: Path) -> list[str]:
    """Calls that make one Arrow array of several."""
    return [
        f"{path.name}:{node.lineno} {node.func.attr}"
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr in JOINING
    ]


def test_no_column_of_several_shards_becomes_one_array() -> None:
    found = {name: joins(ROOT / "raypipe" / name) for name in DRIVERS}
    # The ids of one block that is searched for a doubled id, and the labels of one part.
    assert {name: len(calls) for name, calls in found.items() if calls} == {
        "catalog/survey.py": 1,
        "labeling/published_parts.py": 1,
    }, found


@pytest.mark.engine
def test_a_hundred_million_listings_are_planned_within_a_minute_and_a_gibibyte(
    tmp_path: Path,
) -> None:
    command = [sys.executable, "-m", "tests.fakes.many_shards", str(tmp_path / "run"), str(SHARDS)]
    outputs = [
        subprocess.run(
            command, cwd=ROOT, env=job_environment(), check=True, stdout=subprocess.PIPE
        ).stdout
        for _ in range(2)
    ]
    took = json.loads(outputs[-1])
    assert (took["total"], took["left"], took["queries"]) == (20_000 * SHARDS + 3, 3, 6)
    assert took["grown_bytes"] < 1 << 30
    assert took["seconds"] < 60
