"""Metrics as Prometheus gets them: scraped from the endpoint of Ray's own node."""

import ast
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from prometheus_client.parser import text_string_to_metric_families

from raypipe import config as configuration
from raypipe.attributes.parser import MISSING, chain_losses
from raypipe.attributes.prompts import completion
from raypipe.attributes.vote import Gate
from raypipe.catalog import stage as catalog
from raypipe.config import Config
from raypipe.consensus import stage as consensus
from raypipe.models.policies import Policy
from raypipe.runtime import metrics
from raypipe.runtime.cluster import ray_session
from raypipe.runtime.metrics import Metric
from raypipe.sampling import stage as sampling
from raypipe.sampling.chains import Chain
from raypipe.sampling.engine import Failure, Prompt, Request
from raypipe.schemas import CONSENSUS
from raypipe.seeds import derive
from raypipe.store.artifacts import Run
from raypipe.store.manifest import Commit
from tests.fakes.small_run import SMALL

pytestmark = pytest.mark.engine
CONFIG = configuration.load(None, [*SMALL, "catalog.max_quarantined=0.5"])
REFUSED = 3


class MumblingEngine:
    """Answers by a chain's own seed, sometimes without a tag, and fails for a few listings."""

    max_prompt_tokens = 10_000

    def __init__(self, refused: frozenset[str]) -> None:
        self._refused = refused

    def generate(self, requests: list[Request]) -> list[list[Chain] | Failure]:
        return [self._chains(request) for request in requests]

    def num_prompt_tokens(self, prompt: Prompt) -> int:
        return len(prompt.text)

    def _chains(self, request: Request) -> list[Chain] | Failure:
        if request.prompt.image_hashes[0] in self._refused:
            return Failure("ValueError: refused")
        return [self._chain(request, index) for index in range(max(1, request.num_chains))]

    def _chain(self, request: Request, index: int) -> Chain:
        options = ast.literal_eval(request.prompt.text.rsplit("Options: ", 1)[1])
        draw = derive("mumbling", request.seed + index) % (len(options) + 2)
        if draw == len(options) + 1:
            return Chain("no tags", (1,) * (draw % 5), -1.0, "stop")
        value = options[min(draw, len(options) - 1)]
        text = completion(value, f"chain {draw}", "reasoning")
        return Chain(text, (1,) * (1 + draw % 7), -1.0, "length" if draw == 2 else "stop")


@dataclass(frozen=True)
class Scraped:
    """Values of the endpoint, by sample name and our own tags; other labels are Ray's."""

    values: Counter[tuple[str, frozenset[tuple[str, str]]]]

    def total(self, metric: Metric, **tags: str) -> float:
        """The sum over all of a metric's series that have these tags."""
        suffix = {"counter": "_total", "histogram": "_count"}[metric.kind]
        return self.named(f"ray_{metric.name}{suffix}", **tags)

    def named(self, name: str, **tags: str) -> float:
        wanted = set(tags.items())
        return sum(
            value for (found, own), value in self.values.items() if found == name and wanted <= own
        )


def scrape() -> Scraped:
    """What the node's metrics agent exports, without Prometheus in between."""
    import ray

    (node,) = ray.nodes()
    address = f"http://127.0.0.1:{node['MetricsExportPort']}/metrics"
    with urllib.request.urlopen(address, timeout=10) as response:
        text = response.read().decode()
    found: Counter[tuple[str, frozenset[tuple[str, str]]]] = Counter()
    ours = {*metrics.TAGS, "le", *(tag for metric in metrics.METRICS for tag in metric.tags)}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if "raypipe" in sample.name:
                tags = frozenset((key, tag) for key, tag in sample.labels.items() if key in ours)
                found[sample.name, tags] += sample.value
    return Scraped(found)


@dataclass(frozen=True)
class Counted:
    """A run's commits, and what was scraped after them."""

    run: Run
    listings: Commit
    chains: Commit
    votes: Commit
    scraped: Scraped

    @property
    def policy_id(self) -> str:
        return str(self.chains.fingerprint["policy_id"])


@pytest.fixture(scope="module")
def counted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Counted]:
    """Prepare, sample and vote in one Ray session, and scrape before it ends."""
    patch = pytest.MonkeyPatch()
    patch.setenv("RAY_metrics_report_interval_ms", "1000")
    run = Run(str(tmp_path_factory.mktemp("runs") / "counted"))
    with ray_session(CONFIG.cluster):
        catalog.run(CONFIG, run)
        listings = run.artifact("catalog/listings").require_commit()
        table = run.artifact("catalog/listings").read(["split", "image_hashes"]).to_pylist()
        pool = [row["image_hashes"][0] for row in table if row["split"] == "pool"]
        chains = sampling.run(
            CONFIG,
            run,
            policy=Policy("pretrained", CONFIG.model),
            scope="pretrained",
            round_index=1,
            start=Starter(frozenset(pool[:REFUSED])),
        )
        votes = consensus.run(CONFIG, run, scope="pretrained", round_index=1)
        yield Counted(run, listings, chains, votes, settled(votes))
    patch.undo()


@dataclass(frozen=True)
class Starter:
    refused: frozenset[str]

    def __call__(self, config: Config, policy: Policy) -> MumblingEngine:
        return MumblingEngine(self.refused)


def settled(last: Commit) -> Scraped:
    """What is exported once the last stage's figures have arrived."""
    deadline = time.monotonic() + 60
    while True:
        found = scrape()
        voted = found.total(metrics.QUERIES, stage="consensus")
        if voted >= last.counts["queries"] or time.monotonic() > deadline:
            time.sleep(2)  # an interval, for every other process
            return scrape()
        time.sleep(0.5)


def test_what_prepare_made_is_counted(counted: Counted) -> None:
    scraped, counts = counted.scraped, counted.listings.counts
    where = {"run": "counted", "scope": "catalog", "stage": "listings"}
    assert scraped.total(metrics.LISTINGS, **where) == counted.listings.rows
    assert scraped.total(metrics.QUERIES, **where) == sum(counts["queries"].values())


def test_what_the_engines_made_is_what_the_commit_counts(counted: Counted) -> None:
    scraped, commit = counted.scraped, counted.chains
    where = {"run": "counted", "scope": "pretrained", "stage": "chains"}
    where["policy"] = counted.policy_id
    assert scraped.total(metrics.LISTINGS, **where) == commit.rows
    for metric, name in (
        (metrics.QUERIES, "queries"),
        (metrics.CHAINS, "chains"),
        (metrics.TOKENS, "tokens"),
    ):
        assert scraped.total(metric, **where) == commit.counts[name] > 0
    assert scraped.total(metrics.QUARANTINED, **where) == commit.quarantined == REFUSED
    assert scraped.total(metrics.QUARANTINED, reason="engine_error") == REFUSED


def test_the_vote_is_counted_as_its_commit_and_funnel_count_it(counted: Counted) -> None:
    scraped, commit = counted.scraped, counted.votes
    funnel = counted.run.artifact("pretrained/consensus").read_json("funnel.json")["total"]
    where = {"stage": "consensus", "policy": counted.policy_id}
    assert scraped.total(metrics.QUERIES, **where) == commit.counts["queries"]
    assert scraped.total(metrics.PAIRS, **where) == commit.counts["pairs"] > 0
    for gate in Gate.declared:
        assert scraped.total(metrics.GATED, gate=gate) == funnel["queries"][gate]
    invalid = {reason: funnel["chains"][reason] for reason in chain_losses() if reason != MISSING}
    assert sum(invalid.values()) > 0
    for reason, number in invalid.items():
        assert scraped.total(metrics.INVALID_CHAINS, reason=reason) == number


def test_confidence_falls_into_the_buckets_of_the_votes(counted: Counted) -> None:
    rows = counted.run.artifact("pretrained/consensus", CONSENSUS).read().to_pylist()
    pool = [row["confidence"] for row in rows if row["split"] == "pool"]
    assert counted.scraped.total(metrics.CONFIDENCE) == len(pool)
    assert len(set(pool)) > 3
    for boundary in metrics.CONFIDENCE.boundaries:
        below = sum(confidence <= boundary for confidence in pool)
        name = f"ray_{metrics.CONFIDENCE.name}_bucket"
        assert counted.scraped.named(name, le=str(boundary)) == below
