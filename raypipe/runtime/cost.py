"""The cost of a job: chains, training examples, engine and trainer hours, money (pure).

A job lists its work; rates turn it into hours and prices into money. The number of pairs is unknown
before the vote, so training examples are an upper bound given by the threshold. Figures that depend
on an unmeasured rate are None.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from raypipe.attributes.pool_slices import Slice
from raypipe.config import Config
from raypipe.store.manifest import Commit


@dataclass(frozen=True)
class SplitSize:
    """Listings and queries of a split."""

    listings: int
    queries: int


@dataclass(frozen=True)
class WorkItem:
    """One policy, arm or catalog: chains to sample, and an upper bound on training examples.

    ``is_trained`` and ``is_sampled`` mark finished work, which the total excludes.
    """

    name: str
    seed: int = 0
    listings: int = 0
    queries: int = 0
    chains: int = 0
    examples: int = 0
    is_trained: bool = False
    is_sampled: bool = False


@dataclass(frozen=True)
class Pace:
    """Measured in an earlier sampling: tokens per chain, and chains per second of one engine."""

    tokens_per_chain: float
    chains_per_second: float


@dataclass(frozen=True)
class Cost:
    """The expected or measured cost of work; None where a rate is unknown."""

    listings: int
    queries: int
    chains: int
    examples: int = 0
    tokens: float | None = None
    """Of the chains."""
    engine_hours: float | None = None
    """Of one engine."""
    trainer_hours: float | None = 0.0
    """Of a whole training group, at most."""

    def price(self, config: Config) -> float | None:
        """In ``rates.currency``; None without the prices and rates that it depends on."""
        rates = config.rates
        parts = (self.engine_hours, rates.engine_hour), (self.trainer_hours, rates.trainer_hour)
        total = 0.0
        for hours, per_hour in parts:
            if hours is None or (hours and not per_hour):
                return None
            total += hours * per_hour
        return total


@dataclass(frozen=True)
class Plan:
    """The work of a job, and the cost of the unfinished part.

    ``counted`` is false when split sizes are assumed from the configuration and the paper.
    """

    items: Sequence[WorkItem]
    left: Cost
    splits: Mapping[str, SplitSize] = field(default_factory=dict)
    counted: bool = True


def expected_cost(config: Config, items: Iterable[WorkItem], pace: Pace | None = None) -> Cost:
    """The cost of unfinished work; ``rates.chains_per_second`` overrides the measured pace."""
    items = list(items)
    chains = sum(item.chains for item in items if not item.is_sampled)
    examples = sum(item.examples for item in items if not item.is_trained)
    rate = config.rates.chains_per_second or (pace.chains_per_second if pace else None)
    return Cost(
        listings=sum(item.listings for item in items),
        queries=sum(item.queries for item in items),
        chains=chains,
        examples=examples,
        tokens=chains * pace.tokens_per_chain if pace else None,
        engine_hours=_hours(chains, rate),
        trainer_hours=_hours(examples, config.rates.examples_per_second),
    )


def _hours(count: int, per_second: float | None) -> float | None:
    if not count:
        return 0.0
    return count / per_second / 3600 if per_second else None


def measured_pace(config: Config, commits: Iterable[Commit | None]) -> Pace | None:
    """The pace of the first commit that has chains."""
    for commit in commits:
        chains = commit.counts.get("chains", 0) if commit is not None else 0
        if commit is not None and chains and commit.seconds:
            engine_seconds = commit.seconds * num_engines(config, commit)
            return Pace(commit.counts.get("tokens", 0) / chains, chains / engine_seconds)
    return None


def num_engines(config: Config, commit: Commit) -> int:
    """Engines that made an artifact, or may have, where it does not say."""
    return int(commit.counts.get("engines") or config.sampling.num_actors or 1)


def max_examples(config: Config, queries: int, part: Slice, method: str, votes: int) -> int:
    """Upper bound on the examples of a vote on a part of the pool's queries, over all epochs.

    Args:
        votes: needed for a consensus; with DPO each other chain may be rejected once.
    """
    num_chains = config.sampling.num_chains
    per_query = num_chains - votes if method == "dpo" else num_chains
    size = round(queries * (part.high - part.low) * per_query)
    return config.training.num_examples(size)


def figures(cost: Cost, config: Config) -> dict[str, str]:
    """The figures of a labeling, formatted, by name."""
    currency, price = config.rates.currency, cost.price(config)
    per_1000 = 1000 * price / cost.queries if price is not None and cost.queries else None
    return {
        "listings": f"{cost.listings:,}",
        "queries": f"{cost.queries:,}",
        "chains": f"{cost.chains:,}",
        "tokens of chains": known(cost.tokens, ",.0f"),
        "engine hours": known(cost.engine_hours, ",.3f"),
        f"cost ({currency})": known(price),
        f"cost of 1,000 labels ({currency})": known(per_1000, ",.4f"),
    }


def known(figure: float | None, form: str = ",.2f") -> str:
    """Format a figure; None is "unknown"."""
    return "unknown" if figure is None else format(figure, form)
