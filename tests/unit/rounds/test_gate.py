"""The anchor gate: what is accepted, what is rolled back, and where the next round starts."""

import pytest

from raypipe.rounds.gate import GateDecision, best, decide, next_start

DROP = 0.02
START = GateDecision("sft", 0.70, "start")


def judge(*accuracies: float, drop: float = DROP) -> list[GateDecision]:
    """The start and then a round for each anchor accuracy, as the driver judges them."""
    judged = [START]
    for round_index, accuracy in enumerate(accuracies, start=1):
        judged.append(decide(judged, f"round-{round_index}", accuracy, drop))
    return judged


def decisions(judged: list[GateDecision]) -> list[str]:
    return [judgement.decision for judgement in judged]


def test_rounds_that_improve_are_accepted_and_each_starts_from_the_last() -> None:
    judged = judge(0.75, 0.80, 0.85)
    assert decisions(judged) == ["start", "accepted", "accepted", "accepted"]
    assert best(judged).policy == next_start(judged) == "round-3"


def test_a_collapse_is_rolled_back_and_the_next_round_starts_from_the_best() -> None:
    judged = judge(0.80, 0.30)
    assert decisions(judged) == ["start", "accepted", "rolled_back"]
    assert best(judged).policy == next_start(judged) == "round-1"


def test_after_a_rollback_rounds_go_on() -> None:
    judged = judge(0.80, 0.30, 0.82)
    assert judged[-1] == GateDecision("round-3", 0.82, "accepted")
    assert next_start(judged) == "round-3"


def test_a_first_round_that_collapses_falls_back_to_the_start() -> None:
    judged = judge(0.10)
    assert best(judged) == START
    assert next_start(judged) == "sft"


def test_a_small_drop_is_tolerated_but_the_best_stays_the_best() -> None:
    judged = judge(0.80, 0.79)
    assert decisions(judged)[-1] == "accepted"
    assert best(judged).policy == "round-1"
    assert next_start(judged) == "round-2"


def test_small_drops_do_not_add_up_since_each_is_measured_from_the_best() -> None:
    judged = judge(0.80, 0.79, 0.77)
    assert decisions(judged)[-2:] == ["accepted", "rolled_back"]
    assert next_start(judged) == "round-1"


def test_a_drop_of_exactly_the_tolerance_is_accepted() -> None:
    assert decisions(judge(0.5, drop=0.25))[-1] == "accepted"
    assert decide([GateDecision("sft", 0.75, "start")], "round-1", 0.5, 0.25).decision == "accepted"
    assert (
        decide([GateDecision("sft", 0.75, "start")], "round-1", 0.5, 0.24).decision == "rolled_back"
    )


def test_no_tolerance_accepts_what_is_equal_and_nothing_below() -> None:
    assert decisions(judge(0.70, 0.699, drop=0.0))[1:] == ["accepted", "rolled_back"]


def test_of_equals_the_latest_is_the_best() -> None:
    assert best(judge(0.80, 0.80)).policy == "round-2"
    assert best(judge(0.70)).policy == "round-1"


def test_what_was_rolled_back_is_never_the_best_however_high() -> None:
    judged = [START, GateDecision("round-1", 0.99, "rolled_back")]
    assert best(judged) == START


def test_what_collapsed_is_never_the_best_nor_a_start() -> None:
    judged = [
        START,
        GateDecision("round-1", 0.70, "accepted"),
        GateDecision("round-2", 0.71, "collapsed"),
    ]
    assert best(judged).policy == next_start(judged) == "round-1"


def test_an_accuracy_that_is_no_number_is_rolled_back() -> None:
    judged = judge(float("nan"))
    assert decisions(judged)[-1] == "rolled_back"
    assert best(judged) == START


def test_without_a_judged_policy_there_is_no_best() -> None:
    with pytest.raises(ValueError, match="no policy has been judged"):
        best([])
