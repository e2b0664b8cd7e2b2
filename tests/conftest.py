"""Small builders that the tests of several packages share."""

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

settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")

Row = dict[str, Any]
MakeListing = Callable[..., Row]
CommitRows = Callable[..., Commit]


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
