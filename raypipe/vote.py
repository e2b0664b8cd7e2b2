"""Counting the answers of a query's chains (paper §3.2)."""

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Vote:
    """What the chains of one query answered, whatever their order.

    ``votes`` are sorted by count, then by value; ``num_chains`` is the number requested.
    """

    votes: tuple[tuple[str, int], ...]
    num_chains: int

    @property
    def num_valid(self) -> int:
        return sum(count for _, count in self.votes)

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
    ordered = sorted(counts.items(), key=lambda vote: (-vote[1], vote[0]))
    return Vote(tuple(ordered), num_chains)
