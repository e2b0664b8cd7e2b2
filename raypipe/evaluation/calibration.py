"""What the vote knows: is a more confident consensus more often right (paper §4)?

Measured on the anchor split, which has sampled chains, a greedy chain and verified values.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from raypipe.evaluation.accuracy import estimate
from raypipe.summaries import ConfidenceLevel, VoteMetrics


@dataclass(frozen=True)
class VotedQuery:
    """An anchor query. ``consensus_votes`` is 0 without a consensus, which counts as wrong;
    ``truth_votes`` are the votes, of ``num_chains`` requested, for the verified value."""

    listing_id: str
    consensus_right: bool
    greedy_right: bool
    consensus_votes: int
    truth_votes: int
    num_chains: int
    kept: bool

    @property
    def confidence(self) -> float:
        return self.consensus_votes / self.num_chains


def by_confidence(queries: Sequence[VotedQuery]) -> tuple[ConfidenceLevel, ...]:
    """Accuracy of the consensus per number of its votes, ascending; 0 votes is no consensus.

    Numbers of votes that no query has are left out.
    """
    bins: dict[int, list[bool]] = {}
    for query in queries:
        bins.setdefault(query.consensus_votes, []).append(query.consensus_right)
    return tuple(
        ConfidenceLevel(votes=votes, queries=len(right), accuracy=sum(right) / len(right))
        for votes, right in sorted(bins.items())
    )


def vote_metrics(
    queries: Sequence[VotedQuery], num_resamples: int, seed: int
) -> VoteMetrics | None:
    """What a round can learn from its vote; None without queries."""
    if not queries:
        return None
    kept = [query for query in queries if query.kept]
    chains = sum(query.num_chains for query in queries)
    gains = [int(query.consensus_right) - int(query.greedy_right) for query in kept]
    listings = [query.listing_id for query in kept]
    headroom = estimate(gains, listings, num_resamples, seed) if kept else None
    return VoteMetrics(
        queries=len(queries),
        vote_accuracy=sum(query.consensus_right for query in queries) / len(queries),
        one_chain_accuracy=sum(query.truth_votes for query in queries) / chains,
        kept=len(kept) / len(queries),
        consensus_accuracy_kept=_share([query.consensus_right for query in kept]),
        greedy_accuracy_kept=_share([query.greedy_right for query in kept]),
        headroom=headroom.value if headroom else None,
        headroom_ci95=headroom.ci95 if headroom else None,
        by_confidence=by_confidence(queries),
    )


def _share(right: Sequence[bool]) -> float | None:
    return sum(right) / len(right) if right else None
