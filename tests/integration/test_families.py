"""Models of further families, very small: a round and its labels, with the engine and the trainers.

Qwen3-VL with the shared-prefix step, the others with TRL's own.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from raypipe import config as configuration
from raypipe.attributes.prompts import Question
from raypipe.config import Config
from raypipe.labeling.driver import LabelingDriver
from raypipe.rounds.driver import RoundsDriver
from raypipe.runtime.cluster import ray_session
from raypipe.runtime.console import Console
from raypipe.schemas import LABELS
from raypipe.store.runs import open_run
from raypipe.training.stage import check_training
from tests.fakes import small_checkpoints
from tests.fakes.catalog_files import CatalogFiles

pytestmark = pytest.mark.engine
COLOR = {"vertical": "shoe", "attribute": "color", "description": "Color is the color.",
         "values": ["Red", "Blue"], "aliases": {}}  # fmt: skip
QUESTION = Question("shoe", "color", "Color is the color.", ("Red", "Blue"))
NUM_POOL, NUM_VERIFIED = 12, 6
# Of small_checkpoints.CHECKPOINTS all but Qwen3.5, which vLLM's CPU engine does not serve.
SAMPLED = ("qwen3_vl", "smolvlm", "internvl", "llava", "gemma3")


@pytest.fixture(scope="module", autouse=True)
def session() -> Iterator[None]:
    with ray_session(configuration.load().cluster):
        yield


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shoes with one photo each."""
    files = CatalogFiles(tmp_path_factory.mktemp("files") / "shop", schema=[COLOR])
    names = [f"pool-{number}" for number in range(NUM_POOL)]
    for number in range(NUM_VERIFIED):
        for split in ("anchor", "eval"):
            names.append(f"{split}-{number}")
            files.truth[names[-1]] = [{"attribute": "color", "value": "Red"}]
            files.stated_splits[names[-1]] = split
    for number in range(4):
        names.append(f"seed-{number}")
        files.seed[names[-1]] = [{"attribute": "color", "reasoning": "", "answer": "Blue"}]
    for shade, name in enumerate(names):
        files.add(name, 3 * shade)
    files.write()
    return files.directory


def settings(kind: str, model: Path, shop: Path, runs: Path) -> Config:
    shared = kind == "qwen3_vl"
    places = ("listings", "seed", "truth")
    return configuration.load(
        None,
        [
            f"run.directory={runs}",
            f"model.path={model}",
            "model.answer_format=answer_only",
            "catalog.embedded=null",
            *(f"catalog.{name}={shop / name}.parquet" for name in places),
            f"catalog.attribute_schema={shop / 'schema.yaml'}",
            f"catalog.image_size={64 if shared else small_checkpoints.SIDE}",
            "sampling.num_chains=5",
            "sampling.max_tokens=16",
            "sft.epochs=1",
            "sft.batch_size=4",
            "training.batch_size=8",
            f"training.step={'shared_prefix' if shared else 'stock'}",
            "cluster.num_train_workers=1",
            "rounds.start=pretrained",
            "rounds.num_rounds=1",
            "rounds.max_anchor_drop=1.0",
            "rounds.alarm=false",
            f"labeling.listings={shop / 'listings.parquet'}",
            "labeling.policy=round-1",
        ],
    )


@pytest.mark.parametrize("kind", SAMPLED)
def test_a_model_of_a_further_family_goes_through_round_and_label(
    kind: str, shop: Path, tmp_path: Path
) -> None:
    model = small_checkpoints.write(kind, tmp_path / "model", QUESTION, ("Red", "Red", "Blue"))
    config = settings(kind, model, shop, tmp_path / "runs")
    check_training(config)
    run = open_run(config)
    summary = RoundsDriver(config, run, Console()).go()
    assert [stage.name for stage in summary.stages] == ["pretrained", "round-1"]
    assert summary.pairs[0].pairs > 0
    trained = run.artifact("round-1/adapter").require_commit()
    assert trained.counts["num_parameters"] > 0
    assert not trained.counts.get("unchanged")
    LabelingDriver(config, run, Console()).go()
    labels = run.artifact("labels/000001/labels", LABELS).read().to_pylist()
    assert len(labels) == NUM_POOL + 2 * NUM_VERIFIED + 4
    assert {row["attribute"] for row in labels} == {"color"}
    assert {row["answer"] for row in labels} <= {"Red", "Blue", None}
    assert any(row["votes"] for row in labels)
