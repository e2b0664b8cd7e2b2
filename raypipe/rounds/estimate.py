"""The work of a run of rounds; chains are exact where the catalog is prepared."""

from collections.abc import Mapping

from raypipe.attributes.pool_slices import slice_of_round
from raypipe.attributes.vote import min_votes
from raypipe.catalog.split_sizes import run_if_there, sizes_of
from raypipe.config import Config
from raypipe.models.policies import PRETRAINED, SFT, round_name
from raypipe.runtime.cost import (
    Plan,
    SplitSize,
    WorkItem,
    expected_cost,
    max_examples,
    measured_pace,
)
from raypipe.store.artifacts import Run
from raypipe.store.manifest import Commit
from raypipe.store.paths import Paths


def plan_rounds(config: Config) -> Plan:
    """The work of every policy; finished work is excluded and gives the pace of the rest."""
    splits, counted = sizes_of(config)
    run, rounds = run_if_there(config), config.rounds
    policies: list[tuple[str, int | None]] = [(PRETRAINED, None), (SFT, 0)]
    if rounds.start == "pretrained":
        policies = [(PRETRAINED, 0)]
    policies += [(round_name(index), index) for index in range(1, rounds.num_rounds + 1)]
    items = [_item(config, splits, run, name, index) for name, index in policies]
    newest = (_commit(run, Paths(item.name).chains) for item in reversed(items))
    left = expected_cost(config, items, measured_pace(config, newest))
    return Plan(items, left, splits, counted)


def _item(
    config: Config,
    splits: Mapping[str, SplitSize],
    run: Run | None,
    name: str,
    index: int | None,
) -> WorkItem:
    """A policy.

    Args:
        index: of the round that makes it; 0 of the one before round 1, from whose chains round 1
            learns; None of one that no round learns from.
    """
    verified = splits["eval"], splits["anchor"]
    listings = sum(split.listings for split in verified)
    queries = chains = sum(split.queries for split in verified)
    if index is not None and index < config.rounds.num_rounds:
        part = slice_of_round(index + 1, config.rounds.pool_slices)
        share = part.high - part.low
        pool = round(splits["pool"].queries * share)
        listings += round(splits["pool"].listings * share)
        queries += pool
        chains += config.sampling.num_chains * (pool + splits["anchor"].queries)
    return WorkItem(
        name=name,
        listings=listings,
        queries=queries,
        chains=chains,
        examples=_examples(config, splits, name, index),
        is_trained=_commit(run, Paths(name).adapter) is not None,
        is_sampled=_commit(run, Paths(name).chains) is not None,
    )


def _examples(config: Config, splits: Mapping[str, SplitSize], name: str, index: int | None) -> int:
    if name == SFT:
        return config.sft.num_examples(splits["seed"].queries)
    if not index:
        return 0
    part = slice_of_round(index, config.rounds.pool_slices)
    votes = min_votes(config.consensus.threshold, config.sampling.num_chains)
    return max_examples(config, splits["pool"].queries, part, config.training.method, votes)


def _commit(run: Run | None, name: str) -> Commit | None:
    return None if run is None else run.artifact(name).commit()
