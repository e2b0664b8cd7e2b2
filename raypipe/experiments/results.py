"""``results.json``: the figures of a sweep, the same for the page, the document and tests.

Accuracies, shares and differences are 0-1; a difference of 0.01 is one percentage point. Every
interval is at 95 %, from a bootstrap over listings; over several seeds the figure of a query is its
mean over the seeds, so that an interval says what another eval split could have given; the
figures of each seed are beside it.
"""

from typing import Literal

from pydantic import Field

from raypipe.store.paths import RESULTS
from raypipe.summaries import Document, Interval, Part, VoteMetrics

VERSION = 1
Group = Literal["baseline", "claims", "table4", "table5", "table6", "rounds", "control", "option"]
ClaimStatus = Literal["holds", "fails", "inside_noise"]


class SeedFigures(Part):
    """One arm with one seed."""

    seed: int
    accuracy: float
    ci95: Interval
    invalid: float
    """Share of greedy chains without an answer."""
    anchor_accuracy: float | None = None
    pairs: int | None = None
    """Training examples: preference pairs, or targets of SFT and self-learning."""
    queries: int | None = None
    """Queries that those came from."""
    listings: int | None = None
    """Unlabeled listings that it could learn from."""
    steps: int | None = None
    """Optimizer steps."""


class ArmFunnel(Part):
    """Where the pool's queries went on their way to an arm's pairs, first seed."""

    queries: int
    kept: int
    unanimous: int
    paired: int
    pairs: int


class ArmResult(Part):
    """One arm over its seeds."""

    name: str
    """Identifier: "pretrained", "sft", "dpo-sft", "dpo-sft-c0.3" …"""
    title: str
    groups: tuple[Group, ...]
    """The tables that it is a row of."""
    method: Literal["none", "sft", "dpo", "self_learning", "vote"]
    model: str
    start: str | None = None
    """Name of the arm whose policy it starts from."""
    threshold: float | None = None
    thresholds: tuple[float, ...] = ()
    """All thresholds that ask for so many votes, which makes them one arm."""
    min_votes: int | None = None
    pool_share: float | None = None
    accuracy: float
    ci95: Interval
    seeds: tuple[SeedFigures, ...]
    funnel: ArmFunnel | None = None
    seconds: dict[str, float] = Field(default_factory=dict)
    """What it cost beyond the arms that it builds on, first seed: "sampling", "training",
    "evaluation"."""
    by_attribute: dict[str, float] = Field(default_factory=dict)
    """Accuracy per "vertical/attribute", mean over seeds."""


class SeedDifference(Part):
    seed: int
    difference: float
    ci95: Interval


class ArmComparison(Part):
    """One arm against another on the same queries."""

    name: str
    """Identifier, such as "dpo-sft − sft"."""
    statement: str
    """What the paper or common sense expects, as a sentence."""
    before: str
    after: str
    expected: Literal["above", "below", "any"]
    """Whether ``after`` is expected above or below ``before``; "any" makes no claim."""
    difference: float
    ci95: Interval
    seeds: tuple[SeedDifference, ...]
    verdict: ClaimStatus
    """"holds": the interval lies on the expected side; "fails": on the other; "inside_noise":
    it includes zero. Where nothing is expected, "holds" says that the interval excludes zero."""


class VoteFigures(VoteMetrics):
    """The vote of a start policy on the anchor split, first seed."""

    policy: str
    num_chains: int
    greedy_accuracy: float


class Results(Document):
    FILE = RESULTS
    REMEDY = "jobs/sweep.py writes it again"

    version: int = VERSION
    run: str
    command: str
    """What makes these figures again."""
    model: str
    seeds: tuple[int, ...]
    num_chains: int
    eval_queries: int
    eval_listings: int
    pool_listings: int
    seed_listings: int
    arms: tuple[ArmResult, ...]
    comparisons: tuple[ArmComparison, ...]
    votes: tuple[VoteFigures, ...]
    seconds: float
    """Of all stages together, as each was made."""
    refused: dict[str, str] = Field(default_factory=dict)
    """Arms that have no figures, with the reason: diverged, no pairs, collapsed."""
    versions: dict[str, str] = Field(default_factory=dict)
    queries_by_attribute: dict[str, int] = Field(default_factory=dict)
    """Eval queries per "vertical/attribute"."""

    def arm(self, name: str) -> ArmResult | None:
        return next((arm for arm in self.arms if arm.name == name), None)

    def group(self, group: Group) -> tuple[ArmResult, ...]:
        """The rows of a table, in the order of the sweep."""
        return tuple(arm for arm in self.arms if group in arm.groups)
