"""The work of a sweep; chains are exact where the catalog is prepared."""

from collections.abc import Iterator, Mapping

from raypipe.catalog.split_sizes import sizes_of
from raypipe.config import Config
from raypipe.experiments.arms import Arm, plan_arms, sampled, votes_of
from raypipe.runtime.cost import Plan, SplitSize, WorkItem, expected_cost, max_examples


def plan_sweep(config: Config) -> Plan:
    """The work of every arm of every seed."""
    splits, counted = sizes_of(config)
    items = [item for seed in config.sweep.seeds for item in _items(config, seed, splits)]
    return Plan(items, expected_cost(config, items), splits, counted)


def _items(config: Config, seed: int, splits: Mapping[str, SplitSize]) -> Iterator[WorkItem]:
    arms = plan_arms(config, seed)
    learned_from, ceilings = sampled(arms), {arm.start for arm in arms if arm.kind == "vote"}
    for arm in arms:
        greedy = splits["eval"].queries + splits["anchor"].queries
        chains = 0 if arm.kind == "vote" else greedy
        if arm.name in learned_from:
            voted = splits["pool"].queries + splits["anchor"].queries
            voted += splits["eval"].queries if arm.name in ceilings else 0
            chains += config.sampling.num_chains * voted
        examples = _examples(config, arm, splits)
        yield WorkItem(arm.title, seed, chains=chains, examples=examples)


def _examples(config: Config, arm: Arm, splits: Mapping[str, SplitSize]) -> int:
    if arm.kind == "sft":
        return config.sft.num_examples(splits["seed"].queries)
    if arm.kind != "learned":
        return 0
    queries, part, votes = splits["pool"].queries, arm.selection.pool, votes_of(arm, config)
    return max_examples(config, queries, part, arm.method, votes)
