"""Models of further families, very small: a round and its labels, with the engine and the trainers.

Qwen3-VL with the shared-prefix step, the others with TRL's own.
"""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import ray

from raypipe import config as configuration
from raypipe.attributes.prompts import Question
from raypipe.config import Config
from raypipe.labeling.driver import LabelingDriver
from raypipe.models.policies import Policy
from raypipe.rounds.driver import RoundsDriver
from raypipe.runtime.console import Console
from raypipe.sampling import stage as sampling
from raypipe.sampling.chains import Chain
from raypipe.sampling.engine import Failure, Prompt, Request
from raypipe.schemas import LABELS
from raypipe.store.runs import open_run
from raypipe.training.stage import check_training
from tests.fakes import small_checkpoints
from tests.fakes.catalog_files import CatalogFiles

pytestmark = [pytest.mark.engine, pytest.mark.usefixtures("local_ray")]
COLOR = {"vertical": "shoe", "attribute": "color", "description": "Color is the color.",
         "values": ["Red", "Blue"], "aliases": {}}  # fmt: skip
QUESTION = Question("shoe", "color", "Color is the color.", ("Red", "Blue"))
NUM_POOL, NUM_VERIFIED = 12, 6
HOSTS = "engine hosts"
# Of small_checkpoints.CHECKPOINTS all but Qwen3.5, which vLLM's CPU engine does not serve.
SAMPLED = ("qwen3_vl", "smolvlm", "internvl", "llava", "gemma3")


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
            'sampling.environment.OMP_NUM_THREADS="1"',
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


@ray.remote(num_cpus=0, max_concurrency=4)
class EngineHost:
    """A process that holds a policy's engine for as long as the test runs."""

    def __init__(self, config: Config, policy: Policy) -> None:
        self._engine = sampling.start_engine(config, policy)

    def max_prompt_tokens(self) -> int:
        return self._engine.max_prompt_tokens

    def generate(self, requests: list[Request]) -> list[list[Chain] | Failure]:
        return self._engine.generate(requests)

    def num_prompt_tokens(self, prompt: Prompt) -> int:
        return self._engine.num_prompt_tokens(prompt)


class HostedEngine:
    """A policy's engine, started by the first actor that asks for it: one for all stages."""

    def __init__(self, config: Config, policy: Policy) -> None:
        named = EngineHost.options(
            name=policy.policy_id, namespace=HOSTS, lifetime="detached", get_if_exists=True
        )
        self._host = named.remote(config, policy)
        self.max_prompt_tokens: int = ray.get(self._host.max_prompt_tokens.remote())

    def generate(self, requests: list[Request]) -> list[list[Chain] | Failure]:
        return ray.get(self._host.generate.remote(requests))

    def num_prompt_tokens(self, prompt: Prompt) -> int:
        return ray.get(self._host.num_prompt_tokens.remote(prompt))


@pytest.fixture
def hosted(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Rounds sample through engines that are held until the test is over."""
    monkeypatch.setattr(sampling, "run", partial(sampling.run, start=HostedEngine))
    yield
    for host in ray.util.list_named_actors(all_namespaces=True):
        if host["namespace"] == HOSTS:
            ray.kill(ray.get_actor(**host))


@pytest.mark.usefixtures("hosted")
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
    LabelingDriver(config, run, Console(), HostedEngine).go()
    labels = run.artifact("labels/000001/labels", LABELS).read().to_pylist()
    assert len(labels) == NUM_POOL + 2 * NUM_VERIFIED + 4
    assert {row["attribute"] for row in labels} == {"color"}
    assert {row["answer"] for row in labels} <= {"Red", "Blue", None}
    assert any(row["votes"] for row in labels)
