import gc
from collections.abc import Iterator
from pathlib import Path

import pytest

from raypipe.training.examples import Examples
from raypipe.training.trees import Tree
from tests.fakes import tiny_models as models
from tests.fakes.training_steps import HeadInFloat64, with_reference


@pytest.fixture(scope="module", autouse=True)
def _short_garbage_collection() -> Iterator[None]:
    """Every training collects garbage, and need not go through all that is imported."""
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(autouse=True)
def _trl_in_float64(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trl.trainer.utils._ChunkedLogProbFunction", HeadInFloat64)


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    """A reference that is neither the policy nor the base model."""
    models.with_adapter(models.model(), seed=2).save_pretrained(tmp_path / "reference")
    return tmp_path / "reference"


@pytest.fixture
def pairs() -> Examples:
    return models.examples(images=(2, 1, 3), per_query=3)


@pytest.fixture
def trees(pairs: Examples, adapter: Path) -> list[Tree]:
    return with_reference(pairs, "qwen2_5_vl", adapter)
