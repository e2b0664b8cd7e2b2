from dataclasses import replace

import pytest
from sklearn.metrics import accuracy_score

from raypipe.evaluation.calibration import VotedQuery, by_confidence, vote_metrics

SURE = VotedQuery("a", True, True, 7, 7, 7, True)
LEARNABLE = VotedQuery("b", True, False, 5, 5, 7, True)
MISLED = VotedQuery("c", False, True, 4, 3, 7, True)
UNSURE = VotedQuery("d", True, False, 3, 3, 7, False)
TIED = VotedQuery("e", False, False, 0, 2, 7, False)
QUERIES = [SURE, LEARNABLE, MISLED, UNSURE, TIED]


def test_the_vote_and_one_chain_are_judged_on_every_query():
    metrics = vote_metrics(QUERIES, 100, 0)
    assert metrics.queries == 5
    assert metrics.vote_accuracy == pytest.approx(accuracy_score([1] * 5, [1, 1, 0, 1, 0]))
    assert metrics.one_chain_accuracy == (7 + 5 + 3 + 3 + 2) / 35
    assert metrics.kept == 3 / 5


def test_headroom_is_judged_where_the_gate_keeps():
    more = [replace(LEARNABLE, listing_id=f"b{number}") for number in range(20)]
    metrics = vote_metrics([*QUERIES, *more], 400, 0)
    assert metrics.consensus_accuracy_kept == 22 / 23
    assert metrics.greedy_accuracy_kept == 2 / 23
    assert metrics.headroom == pytest.approx(20 / 23)
    low, high = metrics.headroom_ci95
    assert low < metrics.headroom < high <= 1


def test_accuracy_by_confidence_counts_no_consensus_as_no_votes():
    bins = by_confidence([*QUERIES, replace(MISLED, consensus_votes=5)])
    assert [entry.votes for entry in bins] == [0, 3, 4, 5, 7]
    assert [entry.accuracy for entry in bins] == [0, 1, 0, 0.5, 1]
    assert sum(entry.queries for entry in bins) == 6


def test_without_a_kept_query_there_is_no_headroom():
    metrics = vote_metrics([UNSURE, TIED], 100, 0)
    assert metrics.kept == 0
    assert metrics.headroom is None
    assert metrics.headroom_ci95 is None


def test_without_queries_there_is_nothing_to_say():
    assert vote_metrics([], 100, 0) is None
