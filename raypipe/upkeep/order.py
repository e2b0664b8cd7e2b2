"""The stages of a run of rounds in the order of their driver (pure).

Told from the configuration that the run was begun with, its summary, and what is there: a run may
have ended early, and may have been continued with more rounds.
"""

import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from raypipe.config import RoundsConfig
from raypipe.policies import PRETRAINED, SFT, round_name
from raypipe.upkeep.inventory import Inventory

PREPARED = ("catalog/seed", "catalog/truth", "catalog/listings")
_VOTED = ("chains", "consensus", "pairs")
_ROUND = re.compile(r"round-(\d+)(-draw)?/")
_OTHERS = ("seed-", "labels/", "evaluations/")


def has_rounds(names: Collection[str]) -> bool:
    """Whether rounds were begun: a sweep, labels and evaluations may stand alone."""
    return any(name.startswith((f"{PRETRAINED}/", f"{SFT}/", "round-")) for name in names)


def order(rounds: RoundsConfig, inventory: Inventory, summary: Mapping[str, Any]) -> list[str]:
    """Names of artifacts, those that are there and those to come.

    Args:
        summary: what ``summary.json`` holds; empty where there is none.
    """
    seen = inventory.holdings
    if not has_rounds(seen) and any(name.startswith(_OTHERS) for name in seen):
        return list(PREPARED)
    last = _last_round(rounds, seen, summary)
    names = [*PREPARED, *_measured(inventory, PRETRAINED, rounds.start == PRETRAINED and last > 0)]
    if rounds.start == SFT:
        names += [f"{SFT}/adapter", *_measured(inventory, SFT, last > 0)]
    for number in range(1, last + 1):
        name = round_name(number)
        names += [f"{name}-draw/{part}" for part in _VOTED if f"{name}-draw/chains" in seen]
        names += [f"{name}/adapter", *_measured(inventory, name, number < last)]
    return list(_with_others(names, seen))


def _last_round(rounds: RoundsConfig, seen: Collection[str], summary: Mapping[str, Any]) -> int:
    ended = _ended(summary)
    found = [match for name in seen if (match := _ROUND.match(name))]
    begun = [int(match[1]) for match in found if not match[2] or ended is None]
    return max([rounds.num_rounds if ended is None else ended, *begun])


def _ended(summary: Mapping[str, Any]) -> int | None:
    """The last round that has a policy, where no other follows it; None where one may."""
    records = summary.get("pairs") or ()
    if not records:
        return None
    number = int(records[-1]["round"])
    if records[-1]["outcome"] != "trained":
        return number - 1
    return number if summary.get("alarm") else None


def _measured(inventory: Inventory, name: str, voted: bool) -> list[str]:
    """A policy's stages. Once it is sampled its chains say whether a round learns from them."""
    commit = inventory.committed(f"{name}/chains")
    if commit is not None and "round_index" in commit.fingerprint:
        voted = commit.fingerprint["round_index"] is not None
    parts = (*_VOTED, "evaluation") if voted else ("chains", "evaluation")
    return [f"{name}/{part}" for part in parts]


def _with_others(names: list[str], seen: Collection[str]) -> Iterator[str]:
    """The names, and after those of each scope what else is there of it, such as a reference."""
    for scope in dict.fromkeys(name.partition("/")[0] for name in names):
        own = [name for name in names if name.startswith(f"{scope}/")]
        yield from own
        yield from (name for name in seen if name.startswith(f"{scope}/") and name not in own)
