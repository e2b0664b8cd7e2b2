"""What a sweep would take, before anything is spent (pure but for the catalog's counts).

Chains are counted exactly where the catalog is prepared, and otherwise from the configuration and
the paper's sizes. A training's cost depends on how many pairs the vote gives, which nobody knows
before: as many pairs per query as the paper's setting can give at most bound it from above.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from raypipe.artifacts import Run
from raypipe.config import Config
from raypipe.schemas import LISTINGS
from raypipe.sweep.arms import Arm, plan, sampled, votes_of

# Paper §2 and §3.1: 120 seed listings with 627 queries, 3,175 test listings with 7,145.
_PAPER_LISTINGS = {"pool": 5000, "seed": 120, "eval": 3175, "anchor": 600}
_PAPER_QUERIES = {"pool": 5.2, "seed": 5.2, "eval": 2.25, "anchor": 2.25}


@dataclass(frozen=True)
class Split:
    listings: int
    queries: int


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
    counted = _counted(config)
    splits = counted or _assumed(config)
    lines = [
        line
        for seed in config.sweep.seeds
        for line in _lines(config, plan(config, seed), seed, splits)
    ]
    return Expectation(splits, counted is not None, tuple(lines))


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


def _counted(config: Config) -> dict[str, Split] | None:
    """Listings and queries per split of the prepared catalog; None when it is not there."""
    location = f"{config.run.directory.rstrip('/')}/{config.run.name}"
    if "://" not in location and not Path(location).exists():
        return None  # opening it would make it
    run = Run(location)
    listings = run.artifact("catalog/listings", LISTINGS)
    if listings.commit() is None:
        return None
    counts: dict[str, tuple[int, int]] = {}
    for table in listings.read_files(["split", "queries"]):
        lengths = table.column("queries").combine_chunks().value_lengths().to_pylist()
        for split, length in zip(table.column("split").to_pylist(), lengths, strict=True):
            before = counts.get(split, (0, 0))
            counts[split] = (before[0] + 1, before[1] + length)
    return {name: Split(*counts.get(name, (0, 0))) for name in _PAPER_LISTINGS}


def _assumed(config: Config) -> dict[str, Split]:
    listings = dict(_PAPER_LISTINGS)
    embedded = config.catalog.embedded
    if embedded is not None:
        from raypipe.embedded.schema import attributes, verticals

        total = sum(len(entries) for entries in attributes().values())
        listings = {
            "pool": embedded.num_pool,
            "seed": embedded.seed_per_vertical * len(verticals()),
            "eval": embedded.num_eval,
            "anchor": embedded.num_anchor,
        }
        queries = dict.fromkeys(listings, total / len(verticals()))
    else:
        listings["pool"] = config.catalog.max_listings or listings["pool"]
        queries = dict(_PAPER_QUERIES)
    return {name: Split(size, round(size * queries[name])) for name, size in listings.items()}
