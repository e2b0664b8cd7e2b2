"""The stages of a run of rounds in the order of their driver (pure).

Told from the configuration that the run was begun with, its summary, and what is there: a run may
have ended early, and may have been continued with more rounds.
"""

import re
from collections.abc import Collection, Iterator

from raypipe.config import RoundsConfig
from raypipe.maintenance.inventory import Inventory
from raypipe.models.policies import PRETRAINED, SFT, round_name
from raypipe.store.paths import (
    CATALOG,
    EVALUATIONS,
    LABELS_ROOT,
    ROUND_SCOPE,
    SEED_SCOPE,
    Paths,
    is_of_round,
)
from raypipe.summaries import TRAINED, Summary

PREPARED = (CATALOG.seed, CATALOG.truth, CATALOG.listings)
_VOTED = ("chains", "consensus", "pairs")
_ROUND = re.compile(f"{ROUND_SCOPE}/")
_OTHERS = re.compile(f"{SEED_SCOPE}/|{LABELS_ROOT}/|{EVALUATIONS}/")


def has_rounds(names: Collection[str]) -> bool:
    """Whether rounds were begun: a sweep, labels and evaluations may stand alone."""
    return any(is_of_round(name) or name.split("/")[0] in (PRETRAINED, SFT) for name in names)


def order(rounds: RoundsConfig, inventory: Inventory, summary: Summary | None) -> list[str]:
    """Names of artifacts, those that are there and those to come.

    Args:
        summary: None where there is none.
    """
    seen = inventory.holdings
    if not has_rounds(seen) and any(map(_OTHERS.match, seen)):
        return list(PREPARED)
    last = _last_round(rounds, seen, summary)
    names = [*PREPARED, *_measured(inventory, PRETRAINED, rounds.start == PRETRAINED and last > 0)]
    if rounds.start == SFT:
        names += [Paths(SFT).adapter, *_measured(inventory, SFT, last > 0)]
    for number in range(1, last + 1):
        name = round_name(number)
        redraw = Paths.of_redraw(name)
        names += [f"{redraw}/{part}" for part in _VOTED if redraw.chains in seen]
        names += [Paths(name).adapter, *_measured(inventory, name, number < last)]
    return list(_with_others(names, seen))


def _last_round(rounds: RoundsConfig, seen: Collection[str], summary: Summary | None) -> int:
    ended = _ended(summary)
    found = [match for name in seen if (match := _ROUND.match(name))]
    begun = [int(match[1]) for match in found if not match[2] or ended is None]
    return max([rounds.num_rounds if ended is None else ended, *begun])


def _ended(summary: Summary | None) -> int | None:
    """The last round that has a policy, where no other follows it; None where one may."""
    if summary is None or not summary.pairs:
        return None
    last = summary.pairs[-1]
    if last.outcome != TRAINED:
        return last.round - 1
    return last.round if summary.alarm is not None else None


def _measured(inventory: Inventory, name: str, voted: bool) -> list[str]:
    """A policy's stages. Once it is sampled its chains say whether a round learns from them."""
    commit = inventory.commit_of(Paths(name).chains)
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
