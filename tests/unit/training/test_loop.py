"""What a training is told, and when it stops."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from raypipe.config import load
from raypipe.embedded import nano
from raypipe.errors import ConfigError, NonFiniteLossError
from raypipe.schemas import LISTINGS, PAIRS
from raypipe.store.artifacts import Run
from raypipe.training import stage as training
from raypipe.training.checkpoints import check_finite, check_weights
from raypipe.training.loop import TrainingTask, deepspeed_config, warmup_steps
from tests.conftest import CommitRows, MakeListing

SLIDING = {"use_sliding_window": True, "max_window_layers": 0, "sliding_window": 64}


@pytest.mark.parametrize(
    "row",
    [
        {"loss": 0.69, "grad_norm": 1.5},
        {"loss": 0.0, "grad_norm": 0.0},
        {"loss": 0.69},
        {"learning_rate": 1e-5},
        # A margin is a figure to look at; only the loss and its gradient move the adapter.
        {"loss": 0.69, "margin": math.nan},
    ],
)
def test_a_finite_step_goes_on(row: dict[str, float]) -> None:
    check_finite(3, row)


@pytest.mark.parametrize("name", ["loss", "grad_norm"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_step_that_is_not_finite_stops_the_round_and_says_which(name: str, value: float) -> None:
    with pytest.raises(NonFiniteLossError, match=rf"^{name} is {value} at step 17; .*adapter"):
        check_finite(17, {"loss": 0.5, "grad_norm": 1.0} | {name: value})


def test_a_refused_step_names_some_of_its_queries_and_counts_the_others() -> None:
    queries = [f"listing/{number}" for number in range(11) for _ in range(2)]
    with pytest.raises(NonFiniteLossError, match=r"step 2, in listing/0, .*/7 and 3 more; "):
        check_finite(2, {"loss": math.nan}, lambda: queries)


def test_an_adapter_that_is_not_finite_is_refused() -> None:
    layer = torch.nn.Linear(2, 2)
    check_weights(5, layer)
    with torch.no_grad():
        layer.weight[1, 0] = math.inf
    with pytest.raises(NonFiniteLossError, match="adapter is not finite at step 5"):
        check_weights(5, layer)
    check_weights(5, layer.requires_grad_(False))


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_deepspeed_takes_sizes_from_the_trainer_and_the_stage_from_the_config(stage: int) -> None:
    settings = deepspeed_config(stage)
    assert settings["zero_optimization"] == {"stage": stage}
    for key in (
        "train_micro_batch_size_per_gpu",
        "gradient_accumulation_steps",
        "train_batch_size",
        "gradient_clipping",
    ):
        assert settings[key] == "auto"


def test_deepspeed_leaves_the_optimizer_to_torch() -> None:
    settings = deepspeed_config(1)
    assert "optimizer" not in settings
    assert settings["zero_allow_untested_optimizer"] is True
    assert settings["zero_force_ds_cpu_optimizer"] is False


def test_sft_has_its_own_optimizer_settings_and_both_methods_of_a_round_share_theirs() -> None:
    config = load()
    assert TrainingTask("sft", "pretrained", None, None, 0).optimizer(config) is config.sft
    for method in ("dpo", "self_learning"):
        assert TrainingTask(method, "sft", None, "sft", 0).optimizer(config) is config.training


def test_a_dpo_task_trains_on_its_sources_pairs(
    run: Run, commit_rows: CommitRows, make_listing: MakeListing
) -> None:
    pair = {"chosen": "good", "rejected": "bad", "chosen_index": 0, "rejected_index": 1}
    row = {"attribute": "colour", "prompt": "colour?", "pairs": [pair]}
    rows = [
        row | {"listing_id": "p0", "margin": 1 / 7},
        row | {"listing_id": "p1", "margin": 3 / 7},
    ]
    listings = [make_listing("p0", "pool"), make_listing("p1", "pool")]
    commit_rows(run, "catalog/listings", LISTINGS, listings)
    commit_rows(run, "round-2-draw/pairs", PAIRS, rows)
    task = TrainingTask("dpo", "sft", "sft", "round-2-draw", 0)
    for pair_weight, weights in (("uniform", [1.0, 1.0]), ("margin", [0.5, 1.5])):
        examples = task.examples(load(None, [f"training.pair_weight={pair_weight}"]), run)
        assert [example["listing_id"] for example in examples.rows] == ["p0", "p1"]
        assert [example["weight"] for example in examples.rows] == pytest.approx(weights)


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"model_type": "smolvlm"}, "not 'smolvlm'; set training.step=stock"),
        ({"model_type": "qwen2_vl", "text_config": SLIDING}, "sliding"),
    ],
)
def test_a_model_that_the_step_cannot_train_is_refused_before_any_work(
    values: dict[str, Any], says: str, tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(values))
    with pytest.raises(ConfigError, match=says):
        training.check_training(load(None, [f"model.path={tmp_path}"]))
    training.check_training(load())


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({}, "its processor cannot be loaded"),
        ({"model_type": "no_such_model"}, "cannot be loaded.*no_such_model"),
        ({"model_type": "qwen2"}, "'qwen2' is no vision-language model"),
    ],
)
def test_trls_step_needs_a_vision_language_model_with_a_processor(
    changed: dict[str, Any], says: str, tmp_path: Path
) -> None:
    known = nano.build_config(nano.build_tokenizer()).to_dict()
    (tmp_path / "config.json").write_text(json.dumps(changed or known))
    with pytest.raises(ConfigError, match=says):
        training.check_training(load(None, [f"model.path={tmp_path}", "training.step=stock"]))


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("lora.targets=[q_proj,w_proj]", r"lora\.targets: \['w_proj'\]"),
        ("catalog.image_size=228", "catalog.image_size=228"),
    ],
)
def test_settings_that_do_not_fit_the_model_are_refused_before_any_work(
    override: str, says: str
) -> None:
    with pytest.raises(ConfigError, match=says):
        training.check_training(load(None, [f"model.path={nano.NANO_PATH}", override]))


@pytest.mark.parametrize("content", [b'{"latest": null}', b'{"latest": nu', b"", b"[" * 9999])
def test_ray_trains_own_list_of_checkpoints_is_not_read_again(run: Run, content: bytes) -> None:
    run.create(".training/round-1/abc/checkpoint_manager_snapshot.json", content)
    run.create(".training/round-1/abc/checkpoint_0/trainer_state.json", b"{}")
    training.forget_list(run, ".training/round-1/abc")
    training.forget_list(run, ".training/round-1/never-begun")
    assert run.read(".training/round-1/abc/checkpoint_manager_snapshot.json") is None
    assert run.read(".training/round-1/abc/checkpoint_0/trainer_state.json") is not None


@pytest.mark.parametrize(
    "path",
    [
        ".training",
        ".training/round-1",
        ".training/round-1/abc",
        ".training/round-1/abc/checkpoint_manager_snapshot.json/inside",
    ],
)
def test_what_lies_in_the_way_of_a_training_is_taken_away(run: Run, path: str) -> None:
    run.create(path, b"foreign")
    training.forget_list(run, ".training/round-1/abc")
    assert run.create(".training/round-1/abc/checkpoint_manager_snapshot.json", b"{}")


@given(st.floats(0, 1), st.integers(1, 10_000))
def test_warm_up_never_takes_all_steps(share: float, num_steps: int) -> None:
    steps = warmup_steps(share, num_steps)
    assert 0 <= steps < num_steps
    if steps < num_steps - 1:
        assert steps == math.ceil(share * num_steps)  # as transformers counts a share


@pytest.mark.parametrize(
    ("share", "num_steps", "warmup"), [(0.03, 1, 0), (0.03, 2, 1), (0.03, 100, 3), (1.0, 5, 4)]
)
def test_a_training_of_one_step_learns_from_it(share: float, num_steps: int, warmup: int) -> None:
    from transformers import get_cosine_schedule_with_warmup

    assert warmup_steps(share, num_steps) == warmup
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule = get_cosine_schedule_with_warmup(optimizer, warmup, num_steps)
    rates = []
    for _ in range(num_steps):
        rates.append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    assert max(rates) == 1.0
