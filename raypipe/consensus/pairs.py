"""Preference pairs of one query (paper §4.1: preferred against dispreferred chains)."""

from collections.abc import Sequence
from dataclasses import dataclass

from raypipe import seeds


@dataclass(frozen=True, slots=True)
class Pair:
    """Indices of the chosen and the rejected chain among the query's chains."""

    chosen_index: int
    rejected_index: int


def make_pairs(
    texts: Sequence[str], preferred: Sequence[int], identity: Sequence[str | int]
) -> list[Pair]:
    """One pair for each dispreferred chain, its chosen chain drawn from the preferred.

    Every chain that is not preferred is rejected once, invalid and truncated chains included.
    A chain that says word for word what all preferred chains say, and was only cut off behind it,
    has nothing to teach and makes no pair.

    Args:
        texts: the query's chains in their order.
        preferred: indices of the chains that answer the consensus.
        identity: what the draw depends on beside the rejected chain's index: run seed, round,
            listing and attribute; never the position of a row.

    Returns:
        Pairs in the order of the rejected chains; none for a unanimous query.
    """
    pairs = []
    for rejected in range(len(texts)):
        if rejected in preferred:
            continue
        choices = [chosen for chosen in preferred if texts[chosen] != texts[rejected]]
        if choices:
            drawn = seeds.derive("pair", *identity, rejected) % len(choices)
            pairs.append(Pair(choices[drawn], rejected))
    return pairs
