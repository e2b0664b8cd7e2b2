"""The same chains give the same consensus and pairs, whatever the cluster looks like."""

import ast
import random
from pathlib import Path

import pyarrow as pa
import pytest

from raypipe import config as configuration
from raypipe.attributes.prompts import completion
from raypipe.catalog import stage as catalog
from raypipe.config import Config
from raypipe.consensus import stage as consensus
from raypipe.errors import ArtifactError
from raypipe.models.policies import Policy
from raypipe.sampling import stage as sampling
from raypipe.sampling.chains import Chain
from raypipe.sampling.engine import Prompt, Request
from raypipe.schemas import LISTINGS
from raypipe.seeds import derive
from raypipe.store.artifacts import Run
from tests.fakes.small_run import SMALL

pytestmark = [pytest.mark.engine, pytest.mark.usefixtures("wide_ray")]


class ScriptedEngine:
    """Says what a chain's own seed says: a request gets the same wherever it is made."""

    max_prompt_tokens = 10_000

    def generate(self, requests: list[Request]) -> list[list[Chain]]:
        return [
            [self._chain(request, index) for index in range(max(1, request.num_chains))]
            for request in requests
        ]

    def num_prompt_tokens(self, prompt: Prompt) -> int:
        return len(prompt.text)

    def _chain(self, request: Request, index: int) -> Chain:
        options = ast.literal_eval(request.prompt.text.rsplit("Options: ", 1)[1])
        draw = derive("scripted", request.seed + index) % (len(options) + 2)
        value = options[min(draw, len(options) - 1)]
        text = completion(value, f"chain {draw}", "reasoning")
        return Chain(text, (draw,), -float(draw), "stop")


def scripted(config: Config, policy: Policy) -> ScriptedEngine:
    return ScriptedEngine()


def shuffled_copy(whole: Run, directory: Path, rows_per_file: int) -> Run:
    """A run whose catalog holds the same listings in another order and other files."""
    copy = Run(str(directory))
    source = whole.artifact("catalog/listings", LISTINGS)
    rows = source.read()
    order = list(range(len(rows)))
    random.Random(5).shuffle(order)
    rows = rows.take(pa.array(order))
    attempt = copy.artifact("catalog/listings", LISTINGS).attempt({})
    for first in range(0, len(rows), rows_per_file):
        attempt.write(rows.slice(first, rows_per_file))
    attempt.write_file("attribute_schema.json", source.read_file("attribute_schema.json"))
    attempt.commit()
    return copy


def digests(run: Run, *overrides: str) -> tuple[str, str, str]:
    """Sample with the scripted engine and vote; the digests of chains, consensus and pairs."""
    config = configuration.load(None, [*SMALL, *overrides])
    policy = Policy("pretrained", config.model)
    sampling.run(config, run, policy=policy, scope="sft", round_index=1, start=scripted)
    consensus.run(config, run, scope="sft", round_index=1)
    chains, votes, pairs = (
        run.artifact(f"sft/{name}").require_commit().digest
        for name in ("chains", "consensus", "pairs")
    )
    return chains, votes, pairs


def test_actors_blocks_files_and_tasks_change_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = configuration.load(None, SMALL)
    whole = Run(str(tmp_path / "whole"))
    catalog.run(config, whole)
    expected = digests(whole)
    monkeypatch.setattr(consensus, "_LISTINGS_PER_FILE", 10)  # then the vote is many tasks
    for actors, listings_per_call, rows_per_file in ((2, 3, 7), (3, 11, 1), (4, 5, 50)):
        copy = shuffled_copy(whole, tmp_path / f"{actors}-actors", rows_per_file)
        found = digests(
            copy,
            f"sampling.num_actors={actors}",
            f"sampling.listings_per_call={listings_per_call}",
        )
        assert found == expected
        assert len(copy.artifact("sft/consensus").files()) > 1
    harmed = Path(copy.artifact("sft/chains").paths()[-1])
    harmed.write_bytes(harmed.read_bytes()[:-40])
    with pytest.raises(ArtifactError, match=f"{harmed.name} is missing or corrupt"):
        consensus.run(config, copy, scope="again", round_index=1, chains_of="sft")
    assert copy.artifact("again/consensus").commit() is None
    assert whole.artifact("sft/pairs").require_commit().rows > 0
