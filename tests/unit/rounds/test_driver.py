"""The driver's order of work on scripted stages: rounds, rollbacks, and what is made once."""

import pytest

from raypipe.attributes.pool_slices import WHOLE, Slice
from raypipe.errors import (
    ConfigDriftError,
    InputError,
)
from raypipe.store.artifacts import Run
from raypipe.summaries import Summary
from tests.fakes.scripted_rounds import Killed, RunDriver, ScriptedRounds, names

BEGINNING = [
    "catalog/listings",
    "pretrained/chains",
    "pretrained/evaluation",
    "sft/adapter",
    "sft/chains",
    "sft/consensus",
    "sft/evaluation",
]

ROUND_1 = ["round-1/adapter", "round-1/chains", "round-1/consensus", "round-1/evaluation"]

ROUND_2 = ["round-2/adapter", "round-2/chains", "round-2/evaluation"]


def test_work_is_done_in_the_order_of_the_method(stages: ScriptedRounds, drive: RunDriver) -> None:
    written = drive(rounds={"num_rounds": 2})
    assert stages.made == [*BEGINNING, *ROUND_1, *ROUND_2]
    assert names(written) == ["pretrained", "sft", "round-1", "round-2"]


def test_chains_are_drawn_for_the_round_that_will_learn_from_them_and_no_other(
    stages: ScriptedRounds, drive: RunDriver
) -> None:
    drive(rounds={"num_rounds": 2})
    assert stages.sampled == {
        "pretrained": ("pretrained", None),
        "sft": ("sft", 1),
        "round-1": ("round-1", 2),
        "round-2": ("round-2", None),
    }


def test_rounds_may_take_turns_on_slices_of_the_pool(
    stages: ScriptedRounds, drive: RunDriver
) -> None:
    drive(rounds={"num_rounds": 2, "pool_slices": 2})
    assert stages.pools == {
        "pretrained": WHOLE,
        "sft": Slice(0.0, 0.5),
        "round-1": Slice(0.5, 1.0),
        "round-2": WHOLE,
    }


def test_each_round_goes_on_from_the_last_and_refers_to_the_start(
    stages: ScriptedRounds, drive: RunDriver
) -> None:
    drive(rounds={"num_rounds": 2})
    assert stages.trained == {
        "round-1": {"start": "sft", "source": "sft", "reference": "sft"},
        "round-2": {"start": "round-1", "source": "round-1", "reference": "sft"},
    }


def test_the_reference_may_be_the_start_of_each_round(
    stages: ScriptedRounds, drive: RunDriver
) -> None:
    drive(rounds={"num_rounds": 2}, training={"reference": "round_start"})
    assert [how["reference"] for how in stages.trained.values()] == ["sft", "round-1"]


def test_a_second_pass_makes_nothing_and_writes_the_same_bytes(
    stages: ScriptedRounds, drive: RunDriver, run: Run
) -> None:
    drive(rounds={"num_rounds": 2})
    made, written = len(stages.made), run.read(Summary.FILE)
    drive(rounds={"num_rounds": 2})
    assert len(stages.made) == made
    assert run.read(Summary.FILE) == written


@pytest.mark.parametrize("stage", [*BEGINNING, *ROUND_1, *ROUND_2])
def test_killed_before_any_stage_the_same_command_goes_on_and_makes_none_twice(
    stages: ScriptedRounds, drive: RunDriver, run: Run, stage: str
) -> None:
    stages.kill_before = stage
    with pytest.raises(Killed):
        drive(rounds={"num_rounds": 2})
    assert stage not in stages.made
    assert run.read(Summary.FILE) is None
    stages.kill_before = None
    drive(rounds={"num_rounds": 2})
    assert stages.made == [*BEGINNING, *ROUND_1, *ROUND_2]


def test_after_a_rollback_the_next_round_draws_anew_from_the_best(
    stages: ScriptedRounds, drive: RunDriver
) -> None:
    stages.anchor = {"sft": 0.7, "round-1": 0.3, "round-2": 0.8}
    written = drive(rounds={"num_rounds": 2})
    assert stages.made[len(BEGINNING) + len(ROUND_1) :] == [
        "round-2-draw/chains",
        "round-2-draw/consensus",
        *ROUND_2,
    ]
    assert stages.sampled["round-2-draw"] == ("sft", 2)
    assert stages.trained["round-2"] == {
        "start": "sft",
        "source": "round-2-draw",
        "reference": "sft",
    }
    assert [stage.decision for stage in written.stages] == [
        None,
        None,
        "rolled_back",
        "accepted",
    ]
    assert written.best == "round-2"
    assert [record.source for record in written.pairs] == ["sft", "round-2-draw"]


def test_when_every_round_is_rolled_back_the_start_is_the_best_and_nothing_is_compared(
    stages: ScriptedRounds, drive: RunDriver
) -> None:
    stages.anchor = {"sft": 0.7, "round-1": 0.3, "round-2": 0.3}
    written = drive(rounds={"num_rounds": 2})
    assert (written.best, written.comparison) == ("sft", None)


def test_the_best_is_compared_with_the_start(stages: ScriptedRounds, drive: RunDriver) -> None:
    stages.anchor = {"sft": 0.5, "round-1": 0.7, "round-2": 0.69}
    comparison = drive(rounds={"num_rounds": 2}).comparison
    assert (comparison.start, comparison.to) == ("sft", "round-1")


def test_self_learning_trains_on_kept_queries_also_when_there_is_no_pair(
    stages: ScriptedRounds, drive: RunDriver
) -> None:
    stages.pairs = {"sft": 0}
    written = drive(rounds={"num_rounds": 1}, training={"method": "self_learning"})
    assert "round-1/adapter" in stages.made
    assert written.pairs[0].queries == 3


def test_more_rounds_continue_a_finished_run_with_a_draw_of_their_own(
    stages: ScriptedRounds, drive: RunDriver
) -> None:
    drive(rounds={"num_rounds": 2})
    done = len(stages.made)
    written = drive(rounds={"num_rounds": 3})
    assert stages.made[done:] == [
        "round-3-draw/chains",
        "round-3-draw/consensus",
        "round-3/adapter",
        "round-3/chains",
        "round-3/evaluation",
    ]
    assert stages.sampled["round-3-draw"] == ("round-2", 3)
    assert names(written)[-1] == "round-3"
    again = len(stages.made)
    drive(rounds={"num_rounds": 3})
    assert len(stages.made) == again


def test_fewer_rounds_summarise_the_first_ones_and_make_nothing(
    stages: ScriptedRounds, drive: RunDriver
) -> None:
    drive(rounds={"num_rounds": 2})
    done = len(stages.made)
    written = drive(rounds={"num_rounds": 1})
    assert len(stages.made) == done
    assert names(written) == ["pretrained", "sft", "round-1"]


def test_no_rounds_measure_the_base_and_sft_and_vote_on_nothing(
    stages: ScriptedRounds, drive: RunDriver
) -> None:
    written = drive(rounds={"num_rounds": 0})
    assert stages.made == [name for name in BEGINNING if name != "sft/consensus"]
    assert (written.best, written.pairs, written.funnel) == ("sft", (), {})


def test_rounds_from_the_pretrained_model_skip_sft(
    stages: ScriptedRounds, drive: RunDriver
) -> None:
    written = drive(rounds={"num_rounds": 1, "start": "pretrained"})
    assert stages.made == [
        "catalog/listings",
        "pretrained/chains",
        "pretrained/consensus",
        "pretrained/evaluation",
        "round-1/adapter",
        "round-1/chains",
        "round-1/evaluation",
    ]
    assert stages.trained["round-1"] == {
        "start": "pretrained",
        "source": "pretrained",
        "reference": "pretrained",
    }
    assert names(written) == ["pretrained", "round-1"]


def test_a_changed_key_is_refused_and_the_summary_stays(
    stages: ScriptedRounds, drive: RunDriver, run: Run
) -> None:
    drive(rounds={"num_rounds": 1})
    written = run.read(Summary.FILE)
    with pytest.raises(ConfigDriftError, match="seed: 0 -> 1"):
        drive(rounds={"num_rounds": 1}, run={"seed": 1})
    assert run.read(Summary.FILE) == written


def test_an_anchor_split_without_queries_is_an_input_error(
    stages: ScriptedRounds, drive: RunDriver
) -> None:
    stages.anchor = {"sft": None}  # type: ignore[dict-item]
    with pytest.raises(InputError, match=r"catalog\.anchor_share"):
        drive(rounds={"num_rounds": 1})
