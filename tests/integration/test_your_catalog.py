"""``docs/your-catalog.md`` is run as it stands: from a folder of photos and CSVs to labels."""

import csv
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from raypipe.embedded.catalog import RenderedListing, listing
from raypipe.embedded.schema import attributes, verticals
from raypipe.schemas import PUBLISHED_LABELS, Split
from raypipe.store.artifacts import Run
from tests.fakes.label_studio_export import annotation, exported
from tests.fakes.small_run import ROOT, job_environment

pytestmark = pytest.mark.engine

PAGE = ROOT / "docs" / "your-catalog.md"
# What a shop of two kinds of goods has: each number is of listings of one kind.
KINDS = ("shoe", "t-shirt")
SIZES: dict[Split, int] = {"pool": 8, "seed": 3, "anchor": 5, "eval": 4}
_BLOCK = re.compile(r"(?P<above>[^\n]*)\n```(?P<language>bash|python)\n(?P<code>.*?)```", re.DOTALL)
_COMMAND = """#!{python}
import sys
from raypipe.cli.main import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
"""


@dataclass(frozen=True)
class Block:
    """A fenced block of the page; ``skipped`` says why it is not run."""

    language: str
    code: str
    skipped: str | None


def blocks() -> list[Block]:
    found = []
    for match in _BLOCK.finditer(PAGE.read_text()):
        remark = re.fullmatch(r"<!-- not run: (.+) -->", match["above"].strip())
        found.append(Block(match["language"], match["code"], remark and remark[1]))
    return found


def listings() -> Iterator[tuple[RenderedListing, Split]]:
    for split, size in SIZES.items():
        for kind in KINDS:
            for number in range(size):
                place = verticals().index(kind) + number * len(verticals())
                yield listing(20261127, split, place), split


def write_sheet(path: Path, header: list[str], rows: list[list[str]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([header, *rows])


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the page asks a user for: photos, what sellers say, annotations, verified values."""
    directory = tmp_path_factory.mktemp("user") / "my-shop"
    (directory / "photos").mkdir(parents=True)
    names = list(dict.fromkeys(entry.name for kind in KINDS for entry in attributes()[kind]))
    sheet, seed, truth = [], [], []
    for drawn, split in listings():
        for number, content in enumerate(drawn.images(), start=1):
            (directory / "photos" / f"{drawn.listing_id}_{number}.jpg").write_bytes(content)
        said = [drawn.seller_values.get(name, "") for name in names]
        sheet.append([drawn.listing_id, drawn.product.vertical, *said])
        if split == "seed":
            for given in drawn.annotation():
                answer = [given["attribute"], given["reasoning"], given["answer"]]
                seed.append([drawn.listing_id, *answer])
        elif split != "pool":
            seen = [drawn.visible().get(name, "") for name in names]
            truth.append([drawn.listing_id, split, *seen])
    write_sheet(directory / "listings.csv", ["sku", "category", *names], sheet)
    write_sheet(directory / "seed.csv", ["listing_id", "attribute", "reasoning", "answer"], seed)
    write_sheet(directory / "verified.csv", ["listing_id", "split", *names], truth)
    return directory


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The page's shell: ``raypipe`` and ``python`` are this interpreter's, and no GPU is there."""
    folder = tmp_path_factory.mktemp("bin")
    command = folder / "raypipe"
    command.write_text(_COMMAND.format(python=sys.executable))
    command.chmod(0o755)
    nvidia = folder / "nvidia-smi"  # the page's way without a GPU, wherever this runs
    nvidia.write_text("#!/bin/sh\nexit 9\n")
    nvidia.chmod(0o755)
    known = job_environment()
    path = os.pathsep.join([str(folder), str(Path(sys.executable).parent), known["PATH"]])
    return known | {"PATH": path, "PYTHONPATH": str(ROOT)}


def run_block(block: Block, directory: Path, environment: dict[str, str]) -> str:
    shell = ["bash", "-euo", "pipefail", "-c", block.code]
    command = shell if block.language == "bash" else [sys.executable, "-c", block.code]
    done = subprocess.run(
        command,
        cwd=directory,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=840,
    )
    assert done.returncode == 0, f"{block.code}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def review(shop: Path) -> None:
    """A person who agrees with every answer, and says why."""
    (path,) = (shop / "runs" / "my-shop" / "exports").rglob("tasks.json")
    tasks = json.loads(path.read_text())
    given = [
        [annotation(number, task["data"]["model_answer"], "I see it.")]
        if task["data"]["model_answer"]
        else []
        for number, task in enumerate(tasks)
    ]
    (shop / "export.json").write_text(json.dumps(exported(tasks, given)))


@pytest.mark.timeout(1800)  # training and two engines, on whatever else the machine does
def test_the_page_takes_a_folder_and_a_sheet_to_labels(
    shop: Path, environment: dict[str, str]
) -> None:
    for block in blocks():
        if block.skipped is None:
            is_import = "--import export.json" in block.code
            if is_import:
                review(shop)
            printed = run_block(block, shop, environment)
            assert "answers taken" in printed or not is_import
    labels = pq.read_table(shop / "labels.parquet")
    assert labels.schema.names == PUBLISHED_LABELS.schema.names
    drawn = {entry.listing_id for entry, _ in listings()}
    assert set(labels.column("listing_id").to_pylist()) == drawn
    asked = labels.num_rows / len(drawn)
    assert 3 <= asked <= 5
    assert set(labels.column("reason").to_pylist()) & {"published", "below_precision"}
    assert any(labels.column("answer").to_pylist())
    assert (shop / "runs" / "my-shop" / "report" / "index.html").is_file()
    first, second = (
        Run(str(shop / "runs" / name)).artifact("catalog/seed").require_commit().rows
        for name in ("my-shop", "second")
    )
    assert second > first


def test_a_block_of_the_page_is_skipped_only_with_a_reason() -> None:
    assert [block.skipped for block in blocks() if block.skipped] == ["needs an API key"]
    assert sum(block.skipped is None for block in blocks()) >= 7
