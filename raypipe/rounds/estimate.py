"""What a run of rounds would take, before anything is spent (pure but for the run's own counts).

Chains are counted exactly where the catalog is prepared. How many pairs a vote gives nobody knows
before; as many as the configured threshold can give at most bounds a training from above. What
depends on a rate that nobody has measured is None.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from raypipe.artifacts import Run
from raypipe.config import Config
from raypipe.consensus.gates import min_votes
from raypipe.policies import PRETRAINED, SFT, round_name
from raypipe.sizes import Split, run_if_there, sizes_of
from raypipe.slices import Slice, slice_of_round


@dataclass(frozen=True)
class Line:
    """One policy: what it learns from, and what it is asked.

    ``examples`` are at most so many; ``is_trained`` and ``is_sampled`` say what is there already.
    """

    policy: str
    listings: int
    queries: int
    chains: int
    examples: int
    is_trained: bool = False
    is_sampled: bool = False


@dataclass(frozen=True)
class Pace:
    """Tokens of a chain, and chains per second of an engine; None where nothing was measured."""

    tokens_per_chain: float | None = None
    chains_per_second: float | None = None


@dataclass(frozen=True)
class Expectation:
    """A run of rounds; figures are of what is left to do."""

    splits: Mapping[str, Split]
    counted: bool
    """Whether the splits were counted, or taken from the configuration and the paper's sizes."""
    lines: tuple[Line, ...]
    pace: Pace

    @property
    def chains(self) -> int:
        return sum(line.chains for line in self.lines if not line.is_sampled)

    @property
    def examples(self) -> int:
        return sum(line.examples for line in self.lines if not line.is_trained)

    @property
    def tokens(self) -> float | None:
        """Of the chains; None until some were measured."""
        each = self.pace.tokens_per_chain
        return None if each is None else self.chains * each

    def engine_hours(self, config: Config) -> float | None:
        """Of one engine; None without ``rates.chains_per_second`` and a measured pace."""
        rate = config.rates.chains_per_second or self.pace.chains_per_second
        return self.chains / rate / 3600 if rate else None

    def trainer_hours(self, config: Config) -> float | None:
        """Of a whole training group, at most; None without ``rates.examples_per_second``."""
        rate = config.rates.examples_per_second
        return self.examples / rate / 3600 if rate else None

    def cost(self, config: Config) -> float | None:
        """In ``rates.currency``; None without prices and rates."""
        engines, trainers = self.engine_hours(config), self.trainer_hours(config)
        prices = config.rates.engine_hour, config.rates.trainer_hour
        if engines is None or trainers is None or not all(prices):
            return None
        return engines * prices[0] + trainers * prices[1]


def expect(config: Config) -> Expectation:
    """The work of every policy of a run of rounds, each voted on as its driver does."""
    splits, counted = sizes_of(config)
    run, rounds = run_if_there(config), config.rounds
    start = PRETRAINED if rounds.start == "pretrained" else SFT
    policies = [(PRETRAINED, 0)] if start == PRETRAINED else [(PRETRAINED, None), (SFT, 0)]
    policies += [(round_name(index), index) for index in range(1, rounds.num_rounds + 1)]
    lines = []
    for name, index in policies:
        learned_in = index + 1 if index is not None and index < rounds.num_rounds else None
        lines.append(_line(config, splits, name, index or 0, learned_in, run))
    return Expectation(splits, counted, tuple(lines), _pace(config, run))


def _line(
    config: Config,
    splits: Mapping[str, Split],
    name: str,
    index: int,
    learned_in: int | None,
    run: Run | None,
) -> Line:
    """A policy.

    Args:
        index: of the round that makes it; 0 of those before round 1.
        learned_in: the round that learns from its chains; None when none does.
    """
    asked = [splits["eval"], splits["anchor"]]
    listings = sum(split.listings for split in asked)
    queries = greedy = sum(split.queries for split in asked)
    chains = greedy
    if learned_in is not None:
        share = _share(_slice(config, learned_in))
        pool = round(splits["pool"].queries * share)
        listings += round(splits["pool"].listings * share)
        queries += pool
        chains += config.sampling.num_chains * (pool + splits["anchor"].queries)
    return Line(
        policy=name,
        listings=listings,
        queries=queries,
        chains=chains,
        examples=_examples(config, splits, name, index),
        is_trained=_has(run, f"{name}/adapter"),
        is_sampled=_has(run, f"{name}/chains"),
    )


def _examples(config: Config, splits: Mapping[str, Split], name: str, index: int) -> int:
    if name == SFT:
        return splits["seed"].queries * config.sft.epochs
    if index == 0:
        return 0
    num_chains = config.sampling.num_chains
    votes = min_votes(config.consensus.threshold, num_chains)
    most = num_chains - votes if config.training.method == "dpo" else num_chains
    pool = splits["pool"].queries * _share(_slice(config, index))
    return round(pool * most) * config.training.epochs


def _slice(config: Config, round_index: int) -> Slice:
    return slice_of_round(round_index, config.rounds.pool_slices)


def _share(part: Slice) -> float:
    return part.high - part.low


def _has(run: Run | None, name: str) -> bool:
    return run is not None and run.artifact(name).commit() is not None


def _pace(config: Config, run: Run | None) -> Pace:
    """As the chains of the run's last sampled policy were made."""
    if run is None:
        return Pace()
    rounds = [round_name(index) for index in range(config.rounds.num_rounds, 0, -1)]
    for name in (*rounds, SFT, PRETRAINED):
        commit = run.artifact(f"{name}/chains").commit()
        chains = commit.counts.get("chains", 0) if commit is not None else 0
        if commit is not None and chains and commit.seconds:
            engine_seconds = commit.seconds * config.sampling.num_actors
            return Pace(commit.counts.get("tokens", 0) / chains, chains / engine_seconds)
    return Pace()
