"""Training on token trees is TRL's training: the same losses, log-probabilities and gradients.

On tiny models with random weights in float64, where two sides differ by rounding alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from transformers import TrainingArguments
from trl import SFTConfig, SFTTrainer

from raypipe.training import shared_prefix
from raypipe.training.examples import Examples
from raypipe.training.packing import plan_packs
from raypipe.training.shared_prefix import chain_logprobs, prepare_model
from raypipe.training.trees import Tree
from tests.fakes import tiny_models as models
from tests.fakes.tiny_models import Family
from tests.fakes.training_steps import (
    EVERYTHING,
    arguments,
    assert_same,
    collator_of,
    ours,
    policy,
    shared_trainer,
    step_of,
    summed,
    trees_of,
    trl_dpo,
    with_reference,
    worst,
)


@dataclass(frozen=True)
class Case:
    """What is trained on; the reference is an adapter of its own or the base model."""

    images: tuple[int, ...] = (2, 2)
    queries: int = 2
    reference: Literal["adapter", "base"] = "adapter"
    family: Family = "qwen2_5_vl"

    def __str__(self) -> str:
        images = "+".join(map(str, self.images))
        return f"{self.family}-{images}-images-{self.queries}-queries-{self.reference}"


CASES = [
    *(
        Case((images,), queries, reference)
        for images in (1, 5)
        for queries in (1, 4)
        for reference in ("adapter", "base")
    ),
    *(Case((5, 1), 4, family=family) for family in ("qwen2_vl", "qwen2_5_vl", "qwen3_vl")),
    Case((2, 0, 1), reference="base", family="qwen3_vl"),
    Case((0,)),
    Case((2, 0, 1)),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_dpo_step_has_the_loss_and_the_gradients_of_trl(
    case: Case, tmp_path: Path, adapter: Path
) -> None:
    pairs = models.examples(images=case.images, queries=case.queries)
    reference = adapter if case.reference == "adapter" else None
    trees = with_reference(pairs, case.family, reference)
    wanted = step_of(trl_dpo(pairs, tmp_path, reference, case.family))
    assert_same(step_of(ours(pairs, trees, tmp_path, family=case.family)), wanted)


def one_by_one(trainer: Any, examples: Examples) -> dict[str, list[list[float]]]:
    """Per pair, the log-probabilities of (chosen, rejected) by TRL, of policy and reference."""
    dataset, model = examples.dataset(), trainer.model
    found: dict[str, list[list[float]]] = {"policy": [], "reference": []}
    with torch.no_grad():
        for index in range(len(dataset)):
            inputs = trainer.data_collator([dataset[index]])
            reference = trainer.compute_ref_log_probs(model, inputs)
            found["reference"].append([value.item() for value in reference])
            trainer.compute_loss(model, inputs)
            logged = trainer._metrics["train"]
            found["policy"].append([logged[f"logps/{side}"][-1] for side in ("chosen", "rejected")])
    return found


@pytest.mark.parametrize("case", CASES, ids=str)
def test_every_pair_has_the_log_probabilities_of_trl(
    case: Case, tmp_path: Path, adapter: Path
) -> None:
    pairs = models.examples(images=case.images, queries=case.queries)
    reference = adapter if case.reference == "adapter" else None
    wanted = one_by_one(trl_dpo(pairs, tmp_path, reference, case.family), pairs)
    base = policy(case.family).get_base_model()
    prepare_model(base, checkpointing=False)
    batch = collator_of(base, pairs)(with_reference(pairs, case.family, reference))
    assert batch is not None
    logprobs = chain_logprobs(base, batch).detach()
    assert worst(logprobs[batch.examples], torch.tensor(wanted["policy"])) < 1e-6
    said = batch.reference[batch.examples]
    assert worst(said, torch.tensor(wanted["reference"])) < 1e-6
    assert worst(said, torch.tensor(wanted["policy"])) > 1e-3  # two policies indeed


def test_a_chain_that_is_chosen_here_and_rejected_there_is_trained_as_trl_does(
    tmp_path: Path, adapter: Path
) -> None:
    pairs = models.examples(per_query=3)
    swapped = [
        row | {"chosen": row["rejected"], "rejected": other["chosen"]}
        for row, other in zip(pairs.rows[::3], pairs.rows[1::3], strict=True)
    ]
    pairs = replace(pairs, rows=sorted([*pairs.rows, *swapped], key=repr))
    trees = with_reference(pairs, "qwen2_5_vl", adapter)
    assert sum(len(tree.chains) for tree in trees) < 2 * len(pairs.rows)
    found = step_of(ours(pairs, trees, tmp_path))
    assert_same(found, step_of(trl_dpo(pairs, tmp_path, adapter)))


@pytest.mark.parametrize("max_tokens", [150, EVERYTHING])
def test_a_step_logs_the_metrics_of_trl(
    pairs: Examples, trees: list[Tree], tmp_path: Path, adapter: Path, max_tokens: int
) -> None:
    sides = (ours(pairs, trees, tmp_path, max_tokens=max_tokens), trl_dpo(pairs, tmp_path, adapter))
    for side in sides:
        side.train()
    found, wanted = (side.state.log_history[0] for side in sides)
    for name, tolerance in (
        ("loss", 1e-6),
        ("grad_norm", 1e-6),
        ("rewards/margins", 1e-4),
        ("rewards/accuracies", 1e-6),
        ("logps/chosen", 1e-6),
        ("logps/rejected", 1e-6),
    ):
        assert found[name] == pytest.approx(wanted[name], rel=tolerance), name


@pytest.mark.parametrize("family", ["qwen2_5_vl", "qwen3_vl"])
def test_activations_that_are_computed_again_change_nothing(
    pairs: Examples, trees: list[Tree], tmp_path: Path, family: Family
) -> None:
    again = ours(pairs, trees, tmp_path, checkpointing=True, family=family)
    layers = again.model.get_base_model().model.language_model.layers
    passes: list[int] = []
    for index, layer in enumerate(layers):
        layer.self_attn.register_forward_hook(lambda *_, index=index: passes.append(index))
    assert_same(step_of(again), step_of(ours(pairs, trees, tmp_path, family=family)))
    assert passes == [0, 1, 1, 0]


def test_small_packs_accumulate_to_the_step_of_a_single_one(
    pairs: Examples, trees: list[Tree], tmp_path: Path
) -> None:
    small = ours(pairs, trees, tmp_path, max_tokens=max(tree.num_tokens for tree in trees) // 2)
    assert small.args.gradient_accumulation_steps > len(trees)
    assert_same(step_of(small), step_of(ours(pairs, trees, tmp_path)))


class Worker(TrainingArguments):
    """The arguments of one worker of several, where the others are not there."""

    rank, workers = 0, 1

    @property
    def process_index(self) -> int:
        return self.rank

    @property
    def world_size(self) -> int:
        return self.workers


@pytest.mark.parametrize("num_workers", [2, 4])
def test_workers_average_to_the_step_of_a_single_one(
    pairs: Examples, trees: list[Tree], tmp_path: Path, num_workers: int
) -> None:
    laid_out = plan_packs(
        trees,
        batch_size=len(pairs.rows),
        epochs=1,
        num_workers=num_workers,
        max_tokens=EVERYTHING,
        seed=0,
    )
    assert (() in laid_out.steps[0].packs) is (num_workers > len(trees))
    steps = []
    for rank in range(num_workers):
        packs = laid_out.packs_per_step
        settings = Worker(**arguments(tmp_path, gradient_accumulation_steps=packs))
        settings.rank, settings.workers = rank, num_workers
        steps.append(step_of(shared_trainer(pairs, laid_out, settings)))
    average = summed(steps, [1 / num_workers] * num_workers)
    assert_same(average, step_of(ours(pairs, trees, tmp_path)))


def trl_sft(examples: Examples, directory: Path, family: Family) -> Any:
    """All targets at once: accumulating, TRL weighs micro-batches of this family equally."""
    settings = arguments(directory, per_device_train_batch_size=len(examples.rows))
    return SFTTrainer(
        model=policy(family),
        args=SFTConfig(**settings, max_length=None, completion_only_loss=True),
        train_dataset=examples.dataset(),
        processing_class=models.processor(family),
    )


@pytest.mark.parametrize("family", ["qwen2_5_vl", "qwen3_vl"])
def test_a_step_on_targets_has_the_loss_and_the_gradients_of_trl(
    tmp_path: Path, family: Family
) -> None:
    targets = models.examples(images=(2, 5), per_query=3, kind="target")
    targets = replace(targets, rows=sorted([*targets.rows, targets.rows[0]], key=repr))
    trees = trees_of(targets)
    assert len({len(chain.token_ids) for tree in trees for chain in tree.chains}) > 2
    found = step_of(ours(targets, trees, tmp_path, objective="target", family=family))
    assert_same(found, step_of(trl_sft(targets, tmp_path, family)))


def test_targets_in_small_packs_accumulate_to_the_step_of_a_single_one(tmp_path: Path) -> None:
    targets = models.examples(images=(2, 5), per_query=3, kind="target")
    trees = trees_of(targets)
    small = ours(targets, trees, tmp_path, objective="target", max_tokens=100)
    assert small.args.gradient_accumulation_steps > len(trees)
    assert_same(step_of(small), step_of(ours(targets, trees, tmp_path, objective="target")))


def test_a_head_in_parts_gives_the_step_of_a_whole_one(
    pairs: Examples, trees: list[Tree], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = step_of(ours(pairs, trees, tmp_path))
    cut = ours(pairs, trees, tmp_path)
    head = cut.model.get_base_model().lm_head
    monkeypatch.setattr(shared_prefix, "LOGITS_AT_ONCE", 50 * head.weight.shape[0])
    sizes: list[int] = []
    head.register_forward_hook(lambda _, inputs, __: sizes.append(len(inputs[0])))
    assert_same(step_of(cut), wanted)
    assert max(sizes) == 50
    scored = sum(len(chain.token_ids) for tree in trees for chain in tree.chains)
    assert sum(sizes) == 2 * scored


def test_a_bfloat16_base_trains_a_float32_adapter_in_nearly_the_same_direction(
    pairs: Examples,
) -> None:
    gradients = {}
    for dtype in (torch.float32, torch.bfloat16):
        model = models.with_adapter(models.model().to(dtype))
        base = model.get_base_model()
        prepare_model(base, checkpointing=False)
        logprobs = chain_logprobs(base, collator_of(base, pairs)(trees_of(pairs)))
        assert logprobs.dtype == torch.float32
        logprobs.sum().backward()
        found = {name: p.grad for name, p in model.named_parameters() if p.requires_grad}
        assert {gradient.dtype for gradient in found.values()} == {torch.float32}
        gradients[dtype] = torch.cat([gradient.flatten() for gradient in found.values()])
    near = torch.cosine_similarity(*gradients.values(), dim=0)
    assert near > 0.999


def trained(
    pairs: Examples, trees: Sequence[Tree], directory: Path, seed: int
) -> dict[str, torch.Tensor]:
    """The adapter after two epochs of several steps, and of several packs in each."""
    laid_out = plan_packs(trees, batch_size=5, epochs=2, num_workers=1, max_tokens=150, seed=seed)
    settings = arguments(
        directory, gradient_accumulation_steps=laid_out.packs_per_step, learning_rate=1e-3
    )
    trainer = shared_trainer(pairs, laid_out, TrainingArguments(**settings, seed=seed))
    trainer.train()
    assert trainer.state.global_step == len(laid_out.steps)
    parameters = trainer.model.named_parameters()
    return {name: p.detach().clone() for name, p in parameters if p.requires_grad}


def test_the_same_seed_gives_the_same_adapter_to_the_last_bit(
    pairs: Examples, trees: list[Tree], tmp_path: Path
) -> None:
    first, second, other = (trained(pairs, trees, tmp_path, seed) for seed in (0, 0, 1))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not any(torch.equal(first[name], other[name]) for name in first)
    before = dict(policy().named_parameters())
    assert not any(torch.equal(first[name], before[name]) for name in first)
