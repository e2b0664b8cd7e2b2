"""``docs/python.md`` is run as it stands, in one namespace and without Ray."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from raypipe.config import load
from raypipe.embedded.schema import SCHEMA_PATH
from raypipe.schemas import LABELS
from raypipe.store.runs import open_run
from tests.conftest import CommitRows
from tests.fakes import partial_runs
from tests.fakes.catalog_files import photo
from tests.fakes.documents import stage
from tests.fakes.label_rows import decide, label, rule

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "python.md"
_BLOCK = re.compile(r"^```python\n(.*?)^```", re.DOTALL | re.MULTILINE)
# What the code leaves, as text that the test can read.
_REPORT = """
import json, sys
print(json.dumps({
    "confidence": vote.confidence,
    "pairs": len(pairs),
    "logprobs": logprobs.tolist(),
    "reference": reference.tolist(),
    "loss": loss.item(),
    "labels": labels.num_rows,
    "foreign": sorted({"ray", "vllm", "deepspeed"} & set(sys.modules)),
}))
"""


@pytest.fixture(scope="module")
def code() -> str:
    return "".join(_BLOCK.findall(PAGE.read_text()))


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, commit_rows: CommitRows) -> Path:
    """What the page says that it stands in."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "schema.yaml").write_text(SCHEMA_PATH.read_text())
    for shade, name in enumerate(("side.jpg", "top.jpg")):
        (tmp_path / name).write_bytes(photo(shade, form="JPEG"))
    run = open_run(load())
    partial_runs.summarise(run, stages=[stage("round-1", accuracy=0.8)])
    commit_rows(run, "labels/000001/labels", LABELS, [label("a", "k1"), label("b", "k2")])
    decide(run, commit_rows, "labels/000001", rule())
    return tmp_path


def test_the_page_runs_as_it_stands(directory: Path, code: str) -> None:
    ran = subprocess.run(
        [sys.executable, "-c", code + _REPORT],
        cwd=directory,
        env={"PYTHONPATH": str(ROOT), "HOME": str(directory), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    found: dict[str, Any] = json.loads(ran.stdout.splitlines()[-1])
    assert (found["confidence"], found["pairs"], found["labels"]) == (0.75, 1, 2)
    assert len(found["logprobs"]) == 4
    assert all(value < 0 for value in found["logprobs"])
    assert found["reference"][0][1] == pytest.approx(found["logprobs"][3], rel=1e-4)
    assert found["loss"] == pytest.approx(0.6931, abs=1e-4)
    assert found["foreign"] == []


def test_the_page_shows_everything_that_the_package_offers(code: str) -> None:
    import raypipe

    assert set(re.findall(r"raypipe\.(\w+)\(", code)) == set(raypipe.__all__)
