"""Counting the answers of a query's chains (paper §4)."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from operator import itemgetter

from raypipe.errors import Reason


class Gate(Reason):
    """Whether a query is kept for training, or the first reason that applies why not."""


KEPT = Gate("kept", "the consensus has more votes than the threshold asks for")
NO_VALID_CHAIN = Gate("no_valid_chain", "no chain answers with an allowed value")
TIE = Gate("tie", "two values or more share the first place")
BELOW_THRESHOLD = Gate("below_threshold", "too few chains agree on the consensus")


def gate_losses() -> list[Gate]:
    """The reasons why the gate drops a query."""
    return [gate for gate in Gate.declared.values() if gate != KEPT]


class PairLoss(Reason):
    """Why a query that is kept has no preference pair."""


UNANIMOUS = PairLoss("unanimous", "every chain answers the consensus, so none is rejected")
NO_DIFFERING_CHAIN = PairLoss(
    "no_differing_chain", "rejected chains have word for word the text of the preferred ones"
)


class LabelReason(Reason):
    """Whether a label has an answer and is published, or why not."""


ANSWERED = LabelReason("answered", "it has an answer; a decision publishes it or not")
PUBLISHED = LabelReason("published", "its probability reaches the threshold")
UNANSWERED = {gate: LabelReason(gate, gate.why) for gate in (NO_VALID_CHAIN, TIE)}
"""Labels without an answer, by the gate that drops such a query."""
BELOW_PRECISION = LabelReason("below_precision", "answered, below the precision asked for")


@dataclass(frozen=True, slots=True)
class Vote:
    """What the chains of one query answered, whatever their order.

    ``votes`` are sorted by count, then by value; ``num_chains`` is the number requested.
    """

    votes: tuple[tuple[str, int], ...]
    num_chains: int

    @property
    def num_valid(self) -> int:
        return sum([count for _, count in self.votes])

    @property
    def tied(self) -> bool:
        """Whether two values or more share the first place."""
        return len(self.votes) > 1 and self.votes[0][1] == self.votes[1][1]

    @property
    def consensus(self) -> str | None:
        """The value with most votes; None when nobody voted or the first place is tied."""
        return self.votes[0][0] if self.votes and not self.tied else None

    @property
    def consensus_votes(self) -> int:
        """Votes of the consensus; 0 without one."""
        return self.votes[0][1] if self.votes and not self.tied else 0

    @property
    def confidence(self) -> float:
        """C: votes of the consensus over chains requested, 0-1; 0 without a consensus."""
        return self.consensus_votes / self.num_chains

    @property
    def margin(self) -> float:
        """Votes of the consensus beyond the runner-up's, over chains requested, 0-1; 0 without a
        consensus."""
        first, second = [*(count for _, count in self.votes[:2]), 0, 0][:2]
        return (first - second) / self.num_chains


def count_votes(values: Iterable[str | None], num_chains: int) -> Vote:
    """Count the answers of a query's chains.

    Args:
        values: one per chain; None, for a chain without an answer, does not vote.
        num_chains: chains requested, at least one. It stays the denominator of the confidence
            when chains are invalid or missing.

    Raises:
        ValueError: more chains than were requested.
    """
    answers = list(values)
    if len(answers) > num_chains:
        raise ValueError(f"{len(answers)} chains where {num_chains} were requested")
    counts: dict[str, int] = {}
    for value in answers:
        if value is not None:
            counts[value] = counts.get(value, 0) + 1
    ordered = sorted(counts.items())
    ordered.sort(key=itemgetter(1), reverse=True)
    return Vote(tuple(ordered), num_chains)


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


def gate_query(vote: Vote, fewest: int) -> Gate:
    """Keep a query whose consensus has at least ``fewest`` votes, or say why it is dropped."""
    if not vote.votes:
        return NO_VALID_CHAIN
    if vote.tied:
        return TIE
    return KEPT if vote.consensus_votes >= fewest else BELOW_THRESHOLD
