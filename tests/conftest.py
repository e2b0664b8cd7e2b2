"""Small builders that the tests of several packages share."""

import os
from collections.abc import Callable, Generator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from raypipe.config import ModelConfig
from raypipe.schemas import Table
from raypipe.store.artifacts import Run
from raypipe.store.manifest import Commit
from tests.fakes import local_ray as shared

# Tests run side by side on all cores: threads of one library would spin while they wait for a core.
os.environ.setdefault("OMP_NUM_THREADS", "1")  # read when torch is imported
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")

Row = dict[str, Any]
MakeListing = Callable[..., Row]
CommitRows = Callable[..., Commit]


# Costly fixtures that tests of several modules share, in the order in which the tests run.
SHARED = ("local_ray", "wide_ray", "finished_run")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that share a fixture follow one another. With ``--dist loadgroup`` a worker takes those
    of a module together, and one takes all that need the finished run."""
    items.sort(key=lambda item: SHARED.index(shared_by(item)) if shared_by(item) else len(SHARED))
    for item in items:
        name = shared_by(item)
        group = name if name == "finished_run" else f"{item.path.stem} {name}".strip()
        item.add_marker(pytest.mark.xdist_group(group))


def shared_by(item: pytest.Item) -> str:
    """The name of the shared fixture that a test uses; empty for none."""
    used = getattr(item, "fixturenames", ())
    return next((name for name in SHARED if name in used), "")


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    if not shared_by(item).endswith("_ray"):
        shared.end()


def pytest_sessionfinish() -> None:
    shared.end()


@pytest.fixture(scope="module")
def local_ray() -> None:
    """The Ray session that a job has by default, shared with other modules."""
    shared.use()


@pytest.fixture(scope="module")
def wide_ray() -> None:
    """One of eight logical CPUs, for several engines at once."""
    shared.use(8)


@pytest.hookimpl(wrapper=True)
def pytest_report_to_serializable() -> Generator[None, Any, Any]:
    """Hostile texts are in what a failing test reports, and pytest-xdist sends no surrogates."""
    return _without_surrogates((yield))


def _without_surrogates(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode(errors="backslashreplace").decode()
    if isinstance(value, dict):
        return {_without_surrogates(key): _without_surrogates(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(map(_without_surrogates, value))
    return value


@pytest.fixture
def run(tmp_path: Path) -> Run:
    (tmp_path / "run").mkdir()
    return Run(str(tmp_path / "run"))


@pytest.fixture
def tiny_model(tmp_path: Path) -> ModelConfig:
    """A base model as far as its identity goes: a directory with a file."""
    directory = tmp_path / "model"
    directory.mkdir()
    (directory / "config.json").write_text("{}")
    (directory / "model.safetensors").write_bytes(b"base")
    return ModelConfig(path=str(directory))


@pytest.fixture
def make_listing() -> MakeListing:
    """A LISTINGS row with one image and a query for each attribute."""

    def make(listing_id: str, split: str, attributes: Sequence[str] = ("colour", "heel")) -> Row:
        return {
            "listing_id": listing_id,
            "vertical": "Shoe",
            "split": split,
            "group_id": None,
            "images": [f"image of {listing_id}".encode()],
            "image_hashes": [f"hash of {listing_id}"],
            "queries": [
                {
                    "attribute": attribute,
                    "prompt": f"{attribute} of {listing_id}?",
                    "options": ["Red", "Blue"],
                    "seller_value": None,
                }
                for attribute in attributes
            ],
        }

    return make


@pytest.fixture
def commit_rows() -> CommitRows:
    """Commit an artifact from rows, so many ids to a file, and plain files by name."""

    def commit(
        run: Run,
        name: str,
        table: Table | None = None,
        rows: Sequence[Row] = (),
        *,
        per_file: int = 100,
        files: Mapping[str, bytes] | None = None,
    ) -> Commit:
        attempt = run.artifact(name, table).attempt({})
        by_id: dict[object, list[Row]] = {}
        for row in rows:
            by_id.setdefault(row[table.key[0]] if table else None, []).append(row)
        groups = list(by_id.values())
        for start in range(0, len(groups), per_file):
            assert table is not None
            attempt.write(table.from_rows(list(chain(*groups[start : start + per_file]))))
        for file_name, content in (files or {}).items():
            attempt.write_file(file_name, content)
        return attempt.commit()

    return commit
