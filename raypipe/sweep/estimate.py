"""What a sweep would take, before anything is spent (pure but for the catalog's counts).

Chains are counted exactly where the catalog is prepared. A training's cost depends on how many
pairs the vote gives, which nobody knows before: as many pairs per query as the paper's setting can
give at most bound it from above.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from raypipe.config import Config
from raypipe.sizes import Split, sizes_of
from raypipe.sweep.arms import Arm, plan, sampled, votes_of


@dataclass(frozen=True)
class Line:
    """One arm of one seed: chains to make, and at most so many training examples."""

    arm: Arm
    seed: int
    chains: int
    examples: int


@dataclass(frozen=True)
class Expectation:
    """Everything a sweep would make."""

    splits: Mapping[str, Split]
    counted: bool
    """Whether the splits were counted, or taken from the paper's sizes."""
    lines: tuple[Line, ...]

    @property
    def chains(self) -> int:
        return sum(line.chains for line in self.lines)

    @property
    def examples(self) -> int:
        return sum(line.examples for line in self.lines)

    def engine_hours(self, config: Config) -> float | None:
        """None without ``rates.chains_per_second``."""
        rate = config.rates.chains_per_second
        return None if rate is None else self.chains / rate / 3600

    def trainer_hours(self, config: Config) -> float | None:
        """Of a whole training group; None without ``rates.examples_per_second``."""
        rate = config.rates.examples_per_second
        return None if rate is None else self.examples / rate / 3600

    def cost(self, config: Config) -> float | None:
        """In ``rates.currency``; None without prices and rates."""
        engines, trainers = self.engine_hours(config), self.trainer_hours(config)
        prices = config.rates.engine_hour, config.rates.trainer_hour
        if engines is None or trainers is None or not all(prices):
            return None
        return engines * prices[0] + trainers * prices[1]


def expect(config: Config) -> Expectation:
    """The work of every arm of every seed."""
    splits, counted = sizes_of(config)
    lines = [
        line
        for seed in config.sweep.seeds
        for line in _lines(config, plan(config, seed), seed, splits)
    ]
    return Expectation(splits, counted, tuple(lines))


def _lines(
    config: Config, arms: Sequence[Arm], seed: int, splits: Mapping[str, Split]
) -> list[Line]:
    learned_from, ceilings = sampled(arms), {arm.start for arm in arms if arm.kind == "vote"}
    greedy = splits["eval"].queries + splits["anchor"].queries
    num_chains, lines = config.sampling.num_chains, []
    for arm in arms:
        chains = 0 if arm.kind == "vote" else greedy
        if arm.name in learned_from:
            asked = splits["pool"].queries + splits["anchor"].queries
            asked += splits["eval"].queries if arm.name in ceilings else 0
            chains += num_chains * asked
        lines.append(Line(arm, seed, chains, _examples(config, arm, splits)))
    return lines


def _examples(config: Config, arm: Arm, splits: Mapping[str, Split]) -> int:
    if arm.kind == "sft":
        return splits["seed"].queries * config.sft.epochs
    if arm.kind != "learned":
        return 0
    num_chains, votes = config.sampling.num_chains, votes_of(arm, config)
    most = num_chains - votes if arm.method == "dpo" else num_chains
    share = arm.selection.pool.high - arm.selection.pool.low
    return round(splits["pool"].queries * share * most) * config.training.epochs
