"""What the vote knows: is a more confident consensus more often right (paper §3.2)?

Measured on the anchor split, which has sampled chains, a greedy chain and verified values.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from raypipe.evaluation.accuracy import estimate


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


def by_confidence(queries: Sequence[VotedQuery]) -> list[dict[str, Any]]:
    """Accuracy of the consensus per number of its votes, ascending; 0 votes is no consensus.

    Numbers of votes that no query has are left out.
    """
    bins: dict[int, list[bool]] = {}
    for query in queries:
        bins.setdefault(query.consensus_votes, []).append(query.consensus_right)
    return [
        {"votes": votes, "queries": len(right), "accuracy": sum(right) / len(right)}
        for votes, right in sorted(bins.items())
    ]


def vote_metrics(
    queries: Sequence[VotedQuery], num_resamples: int, seed: int
) -> dict[str, Any] | None:
    """What a round can learn from its vote; None without queries.

    ``vote_accuracy`` and ``one_chain_accuracy`` are over all queries: the consensus, and a chain
    drawn at random. ``headroom`` is over the queries that the gate keeps: how much more often the
    consensus is right there than the greedy chain, which is what training can gain. Figures over
    kept queries are None when none is kept.
    """
    if not queries:
        return None
    kept = [query for query in queries if query.kept]
    metrics: dict[str, Any] = {
        "queries": len(queries),
        "vote_accuracy": sum(query.consensus_right for query in queries) / len(queries),
        "one_chain_accuracy": (
            sum(query.truth_votes for query in queries) / sum(query.num_chains for query in queries)
        ),
        "kept": len(kept) / len(queries),
        "consensus_accuracy_kept": None,
        "greedy_accuracy_kept": None,
        "headroom": None,
        "headroom_ci95": None,
        "by_confidence": by_confidence(queries),
    }
    if kept:
        gains = [int(query.consensus_right) - int(query.greedy_right) for query in kept]
        listings = [query.listing_id for query in kept]
        headroom = estimate(gains, listings, num_resamples, seed)
        metrics |= {
            "consensus_accuracy_kept": sum(query.consensus_right for query in kept) / len(kept),
            "greedy_accuracy_kept": sum(query.greedy_right for query in kept) / len(kept),
            "headroom": headroom.value,
            "headroom_ci95": [headroom.low, headroom.high],
        }
    return metrics
