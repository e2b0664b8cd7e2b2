"""IPO, smoothed labels and weighted pairs: what TRL makes of them, and by default nothing new."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.functional import logsigmoid

from raypipe.config import TrainingConfig, resolve
from raypipe.errors import ConfigError
from raypipe.training.examples import Examples
from raypipe.training.loss import LossOptions, trl_settings
from raypipe.training.shared_prefix import Batch
from raypipe.training.trees import Tree
from tests.fakes import tiny_models as models
from tests.fakes.training_steps import (
    BETA,
    EVERYTHING,
    assert_same,
    ours,
    step_of,
    summed,
    trl_dpo,
    with_reference,
)


def test_smoothed_labels_have_the_loss_and_the_gradients_of_the_stock_step(
    pairs: Examples, trees: list[Tree], tmp_path: Path, adapter: Path
) -> None:
    loss = LossOptions.from_config(TrainingConfig(beta=BETA, label_smoothing=0.1))
    found = step_of(ours(pairs, trees, tmp_path, loss=loss))
    assert_same(found, step_of(trl_dpo(pairs, tmp_path, adapter, **trl_settings(loss))))
    assert found.loss != pytest.approx(step_of(ours(pairs, trees, tmp_path)).loss, rel=1e-3)


def test_ipo_has_the_loss_and_the_gradients_of_the_stock_step(
    pairs: Examples, trees: list[Tree], tmp_path: Path, adapter: Path
) -> None:
    loss = LossOptions.from_config(TrainingConfig(beta=BETA, loss="ipo"))
    found = step_of(ours(pairs, trees, tmp_path, loss=loss))
    assert_same(found, step_of(trl_dpo(pairs, tmp_path, adapter, **trl_settings(loss))))
    assert found.loss != pytest.approx(step_of(ours(pairs, trees, tmp_path)).loss, rel=1e-3)


@pytest.mark.parametrize(
    "ignored", [{"method": "self_learning"}, {"label_smoothing": 0.1}], ids=str
)
def test_ipo_is_refused_where_it_would_be_ignored(ignored: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"training\.loss"):
        resolve({"training": {"loss": "ipo"} | ignored})


def test_smoothed_labels_are_the_conservative_dpo_of_trl(tmp_path: Path, adapter: Path) -> None:
    pair = models.examples(images=(2,), queries=1, per_query=1)
    trees = with_reference(pair, "qwen2_5_vl", adapter)
    # Of one pair alone, alignment by optimal transport has nothing to sort.
    wanted = trl_dpo(pair, tmp_path, adapter, loss_type=["aot"], label_smoothing=0.3)
    found = step_of(ours(pair, trees, tmp_path, loss=LossOptions(BETA, label_smoothing=0.3)))
    assert_same(found, step_of(wanted))


@pytest.mark.parametrize("max_tokens", [150, EVERYTHING])
def test_a_step_of_weighted_pairs_is_the_weighted_sum_of_steps_of_single_ones(
    tmp_path: Path, adapter: Path, max_tokens: int
) -> None:
    plain = models.examples(images=(2, 1), queries=2, per_query=1)
    weights = (0.25, 1.75, 0.5, 1.5)
    rows = [row | {"weight": weight} for row, weight in zip(plain.rows, weights, strict=True)]
    trees = with_reference(replace(plain, rows=rows), "qwen2_5_vl", adapter)
    found = step_of(ours(plain, trees, tmp_path, max_tokens=max_tokens))
    alone = []
    for row in plain.rows:
        single = replace(plain, rows=[row])
        known = with_reference(single, "qwen2_5_vl", adapter)
        alone.append(step_of(ours(single, known, tmp_path)))
    assert_same(found, summed(alone, [weight / len(rows) for weight in weights]))


def test_equal_weights_and_certain_labels_are_the_papers_loss_to_the_last_bit(
    pairs: Examples, trees: list[Tree], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def papers(
        logprobs: torch.Tensor, batch: Batch, options: LossOptions
    ) -> tuple[torch.Tensor, torch.Tensor]:
        gains = logprobs - batch.reference
        margins = options.beta * (gains[batch.examples[:, 0]] - gains[batch.examples[:, 1]])
        return -logsigmoid(margins), margins

    found = step_of(ours(pairs, trees, tmp_path))
    monkeypatch.setattr("raypipe.training.trainer.preference_losses", papers)
    wanted = step_of(ours(pairs, trees, tmp_path))
    assert found.loss == wanted.loss
    for name, gradient in wanted.gradients.items():
        assert torch.equal(found.gradients[name], gradient), name
