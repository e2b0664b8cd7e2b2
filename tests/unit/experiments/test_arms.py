"""The arms of a sweep: which there are, what each needs, and what counts as one arm."""

import pytest

from raypipe.attributes.vote import min_votes
from raypipe.config import Config, resolve
from raypipe.experiments.arms import Arm, plan_arms, sampled, votes_of
from raypipe.experiments.driver import arm_config


def arms(seed: int = 0, chains: int = 7, **sweep: object) -> dict[str, Arm]:
    config = settings(chains, **sweep)
    return {arm.name: arm for arm in plan_arms(config, seed)}


def settings(chains: int = 7, **sweep: object) -> Config:
    return resolve({"sampling": {"num_chains": chains}, "sweep": sweep})


def test_every_row_of_the_papers_tables_is_an_arm() -> None:
    found = arms()
    table4 = {"pretrained", "sft", "dpo-pretrained", "dpo-sft", "sl-pretrained", "sl-sft"}
    answer_only = {"pretrained-answer-only", "sft-answer-only"}
    in_group = {
        group: {name for name, arm in found.items() if group in arm.groups}
        for group in ("table4", "table5", "table6", "rounds")
    }
    assert in_group["table4"] == table4 | answer_only
    assert in_group["table5"] == {"dpo-sft", "dpo-sft-c0.3", "dpo-sft-c0.7", "dpo-sft-c0.8"}
    shares = ("0.2", "0.4", "0.6", "0.8")
    assert in_group["table6"] == {"dpo-sft", "sl-sft"} | {
        f"{method}-sft-pool-{share}" for method in ("dpo", "sl") for share in shares
    }
    assert in_group["rounds"] == {"sl-sft", "dpo-sft", "sl-sft-round-2", "dpo-sft-round-2"}


def test_every_arm_comes_after_what_it_needs() -> None:
    made: set[str] = set()
    for arm in plan_arms(settings(), 0):
        assert made.issuperset(arm.needs)
        made.add(arm.name)


def test_thresholds_that_ask_for_the_same_votes_are_one_arm() -> None:
    found = arms(thresholds=(0.5, 0.6, 0.7, 0.8), groups=["table5"])
    learned = [arm for arm in found.values() if "table5" in arm.groups]
    assert [arm.thresholds for arm in learned] == [(0.5,), (0.6, 0.7), (0.8,)]
    assert [votes_of(arm, settings()) for arm in learned] == [4, 5, 6]


def test_more_chains_tell_more_thresholds_apart() -> None:
    found = arms(chains=20, thresholds=(0.6, 0.7), groups=["table5"])
    learned = [arm for arm in found.values() if "table5" in arm.groups]
    assert [votes_of(arm, settings(20)) for arm in learned] == [13, 15]
    assert all(votes_of(arm, settings(20)) == min_votes(arm.thresholds[0], 20) for arm in learned)


def test_later_seeds_repeat_the_replicated_groups_and_what_those_need() -> None:
    config = settings(seeds=(0, 1), replicated=["rounds"])
    later = {arm.name for arm in plan_arms(config, 1)}
    assert {"pretrained", "sft", "dpo-sft", "dpo-sft-round-2", "sl-sft-round-2"} == later - {
        "sl-sft"
    }
    assert {"dpo-pretrained", "dpo-sft-null"} <= {arm.name for arm in plan_arms(config, 0)}


def test_the_arms_of_the_claims_are_rows_of_tables_4_and_6_and_no_other() -> None:
    found = arms(groups=["claims"])
    assert len(found) == 9
    assert "table6" in found["dpo-sft-pool-0.2"].groups
    assert {"table4", "table6"} < set(found["dpo-sft"].groups)
    assert not any({"table5", "rounds", "option"} & set(arm.groups) for arm in found.values())


def test_what_a_step_or_method_cannot_do_is_not_planned() -> None:
    stock = resolve({"training": {"step": "stock"}})
    assert "dpo-sft-margin" not in {arm.name for arm in plan_arms(stock, 0)}
    doubtful = resolve({"training": {"label_smoothing": 0.1, "pair_weight": "margin"}})
    assert all(arm_config(doubtful, arm, 0) for arm in plan_arms(doubtful, 0))


def test_without_any_group_the_baselines_are_left() -> None:
    assert set(arms(groups=[])) == {"pretrained", "sft"}


def test_a_policy_is_sampled_once_for_all_that_learn_from_it() -> None:
    drawn = sampled(plan_arms(settings(), 0))
    assert drawn == {"pretrained": 1, "sft": 1, "dpo-sft": 2, "sl-sft": 2, "dpo-sft-half": 2}


def test_fresh_slices_are_disjoint_and_the_reference_may_move() -> None:
    found = arms()
    first, second = found["dpo-sft-half"], found["dpo-sft-fresh-round-2"]
    assert first.selection.pool.high == second.selection.pool.low
    assert second.start == second.chains_of == first.name
    assert found["dpo-sft-moving-round-2"].settings["training"]["reference"] == "round_start"


def test_another_backbone_is_measured_before_and_after_sft() -> None:
    commit = "895c3a49bc3fa70a340399125c650a463535e71c"
    found = arms(backbones=[f"Qwen/Qwen2-VL-2B-Instruct@{commit}"], groups=["table4"])
    bare, tuned = found["pretrained-model-2"], found["sft-model-2"]
    assert bare.settings == tuned.settings
    assert bare.settings["model"] == {"path": "Qwen/Qwen2-VL-2B-Instruct", "revision": commit}
    assert bare.title == "Pretrained, Qwen2-VL-2B-Instruct"
    assert tuned.start == bare.name


@pytest.mark.parametrize("shares", [(0.0,), (1.2,), ()])
def test_shares_that_are_none_are_refused(shares: tuple[float, ...]) -> None:
    with pytest.raises(Exception, match="sweep"):
        settings(pool_shares=shares)
