"""Which queries are sure enough to learn from (paper §3.2: C exceeds a threshold)."""

import math
from fractions import Fraction
from typing import Literal, get_args

from raypipe.vote import Vote

Gate = Literal["kept", "no_valid_chain", "tie", "below_threshold"]
"""Kept, or the first reason that applies why a query was dropped."""

GATES: tuple[Gate, ...] = get_args(Gate)


def min_votes(threshold: float, num_chains: int) -> int:
    """The fewest votes whose share of ``num_chains`` exceeds ``threshold``, strictly.

    The threshold counts as the decimal it is written as: 0.29 of 100 chains is 29 chains, though
    the nearest float is a little less. At seven chains 0.6 and 0.7 are the same setting, five.

    Raises:
        ValueError: the threshold lies outside [0, 1), or there are no chains.
    """
    if not 0 <= threshold < 1 or num_chains < 1:
        raise ValueError(f"no vote among {num_chains} chains exceeds a share of {threshold}")
    return math.floor(Fraction(repr(threshold)) * num_chains) + 1


def judge(vote: Vote, fewest: int) -> Gate:
    """Keep a query whose consensus has at least ``fewest`` votes, or say why it is dropped."""
    if not vote.votes:
        return "no_valid_chain"
    if vote.tied:
        return "tie"
    return "kept" if vote.consensus_votes >= fewest else "below_threshold"
