"""The sweep's order of work on scripted stages: what arms share, what is made again, what stops."""

from collections import Counter
from pathlib import Path

import pytest

from raypipe.attributes.pool_slices import Slice
from raypipe.experiments.results import Results
from raypipe.store.artifacts import Run
from tests.fakes.scripted_stages import PAIRS, Killed, RunSweep, ScriptedStages


def test_the_engine_is_called_once_for_every_policy(
    default_sweep: tuple[Results, ScriptedStages],
) -> None:
    results, stages = default_sweep
    policies = Counter(policy for _, policy, _ in stages.sampled)
    assert set(policies.values()) == {1}
    measured = [arm for arm in results.arms if arm.method != "vote"]
    assert len(stages.sampled) == len(measured) > 30
    learned = [scope for scope, _, round_index in stages.sampled if round_index is not None]
    assert len(learned) == 5  # policies that other arms learn from: the others are greedy alone


def test_arms_of_one_policy_learn_from_the_same_chains(
    default_sweep: tuple[Results, ScriptedStages],
) -> None:
    _, stages = default_sweep
    from_sft = [how for how in stages.trained.values() if how["start"] == "seed-0/sft"]
    assert len(from_sft) > 15
    assert {how["chains_of"] for how in from_sft} == {"seed-0/sft"}
    assert Counter(stages.made).most_common(1)[0][1] == 1  # nothing is made twice


def test_what_an_arm_learns_from_is_its_part_of_the_vote(
    default_sweep: tuple[Results, ScriptedStages],
) -> None:
    _, stages = default_sweep
    source, part = stages.selected["seed-0/dpo-sft-pool-0.4"]
    assert (source, part.pool) == ("seed-0/sft-votes-4", Slice(0.0, 0.4))
    assert stages.selected["seed-0/dpo-sft-c0.3"][0] == "seed-0/sft-votes-3"
    equal = [part for scope, (_, part) in stages.selected.items() if scope.endswith("-equal")]
    assert [part.max_pairs for part in equal] == [PAIRS[6]] * 4
    assert stages.selected["seed-0/sl-sft-paired"][1].paired_only
    assert stages.selected["seed-0/dpo-sft-null"][1].shuffled


def test_the_reference_is_the_policy_before_the_first_round(
    default_sweep: tuple[Results, ScriptedStages],
) -> None:
    _, stages = default_sweep
    references = {scope: how["reference"] for scope, how in stages.trained.items()}
    assert references["seed-0/dpo-pretrained"] == "pretrained"
    assert references["seed-0/dpo-sft"] == references["seed-0/dpo-sft-round-2"] == "seed-0/sft"
    assert references["seed-0/dpo-sft-moving-round-2"] == "seed-0/dpo-sft"


def test_an_arm_trains_with_its_own_settings(sweep: RunSweep, stages: ScriptedStages) -> None:
    sweep(label_smoothing=0.2)
    settings = {scope: how["training"] for scope, how in stages.trained.items()}
    assert settings["seed-0/sl-sft"].method == "self_learning"
    assert settings["seed-0/dpo-sft-smooth"].label_smoothing == 0.2
    assert settings["seed-0/dpo-sft-margin"].pair_weight == "margin"
    assert settings["seed-0/dpo-sft"].label_smoothing == 0


def test_the_same_command_makes_nothing_again_and_says_the_same(
    sweep: RunSweep, stages: ScriptedStages
) -> None:
    first = sweep()
    stages.made.clear()
    assert sweep() == first
    assert stages.made == []


def test_a_killed_sweep_goes_on_where_it_was(sweep: RunSweep, stages: ScriptedStages) -> None:
    stages.kill_before = "dpo-sft-c0.3/adapter"
    with pytest.raises(Killed):
        sweep()
    before = list(stages.made)
    stages.kill_before = ""
    sweep()
    assert Counter(stages.made).most_common(1)[0][1] == 1
    assert len(stages.made) > len(before) > 20


def test_more_groups_and_seeds_keep_what_is_there(sweep: RunSweep, stages: ScriptedStages) -> None:
    sweep(groups=["table5"])
    few = set(stages.made)
    results = sweep(groups=["table5", "claims"], seeds=[0, 1])
    assert Counter(stages.made).most_common(1)[0][1] == 1
    assert few < set(stages.made)
    dpo = results.arm("dpo-sft")
    assert dpo is not None
    assert [figures.seed for figures in dpo.seeds] == [0, 1]


def test_a_policy_that_was_sampled_for_less_gets_a_draw_beside(
    sweep: RunSweep, stages: ScriptedStages
) -> None:
    sweep(groups=[])
    sweep()
    again = sweep()
    assert Counter(stages.made).most_common(1)[0][1] == 1
    assert "seed-0/sft-draw/chains" in stages.made
    assert stages.trained["seed-0/dpo-sft"]["chains_of"] == "seed-0/sft-draw"
    assert again.arm("vote-sft") is not None


def test_an_arm_that_diverges_stops_those_that_start_from_it_alone(
    sweep: RunSweep, stages: ScriptedStages
) -> None:
    stages.diverges = "seed-0/dpo-sft"
    results = sweep()
    assert results.arm("dpo-sft") is None
    assert results.refused["dpo-sft, seed 0"] == "loss is nan at step 3"
    assert "dpo-sft has no policy" in results.refused["dpo-sft-round-2, seed 0"]
    assert results.arm("sl-sft-round-2") is not None


def test_an_arm_without_pairs_says_so(sweep: RunSweep, stages: ScriptedStages) -> None:
    stages.gives_nothing = "dpo-sft-c0.8"
    results = sweep()
    assert results.refused == {"dpo-sft-c0.8, seed 0": "its chains give nothing to learn from"}


def test_the_results_are_written_and_read_back(sweep: RunSweep, tmp_path: Path) -> None:
    results = sweep(groups=["table4"])
    content = Run(str(tmp_path / "local")).read(Results.FILE)
    assert content is not None
    assert Results.model_validate_json(content) == results


def test_claims_come_out_as_the_arms_differ(sweep: RunSweep, stages: ScriptedStages) -> None:
    stages.right |= {"pretrained": 0.4, "sft": 0.6, "dpo-sft": 0.8, "sl-sft": 0.6}
    results = sweep(seeds=[0, 1], groups=["table4", "claims"])
    found = {comparison.name: comparison for comparison in results.comparisons}
    assert found["sft − pretrained"].verdict == "holds"
    gain = found["dpo-sft − sft"]
    assert gain.verdict == "holds"
    assert 0.1 < gain.ci95[0] < gain.difference < gain.ci95[1] < 0.3
    assert [each.seed for each in gain.seeds] == [0, 1]
    assert found["sl-sft − sft"].verdict == "inside_noise"


def test_an_arm_that_diverges_with_one_seed_has_the_figures_of_the_others(
    sweep: RunSweep, stages: ScriptedStages
) -> None:
    stages.diverges = "seed-0/dpo-sft"
    results = sweep(seeds=[0, 1])
    dpo = results.arm("dpo-sft")
    assert dpo is not None
    assert [figures.seed for figures in dpo.seeds] == [1]
    compared = {comparison.name for comparison in results.comparisons}
    assert "dpo-sft − sft" in compared
    assert "dpo-sft − dpo-sft-c0.3" not in compared  # made with no seed in common


def test_sft_that_diverges_stops_what_starts_from_it_alone(
    sweep: RunSweep, stages: ScriptedStages
) -> None:
    stages.diverges = "seed-0/sft"
    results = sweep(groups=["claims"])
    assert "loss is nan" in results.refused["sft, seed 0"]
    assert {arm.name for arm in results.arms} == {"pretrained", "dpo-pretrained"}


def test_a_threshold_that_leaves_no_pair_does_not_empty_the_controls(
    sweep: RunSweep, stages: ScriptedStages
) -> None:
    sweep(thresholds=[0.5, 0.9])
    equal = [part for scope, (_, part) in stages.selected.items() if scope.endswith("-equal")]
    assert {part.max_pairs for part in equal} == {PAIRS[4]}


def test_later_seeds_make_nothing_that_was_not_asked_for(
    sweep: RunSweep, stages: ScriptedStages
) -> None:
    sweep(groups=["table5"], seeds=[0, 1])
    assert {name for name in stages.made if name.startswith("seed-1/")} == {
        f"seed-1/{arm}/{part}"
        for arm, parts in (
            ("pretrained", ("chains", "evaluation")),
            ("sft", ("adapter", "chains", "evaluation")),
        )
        for part in parts
    }
