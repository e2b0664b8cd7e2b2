"""Rounding a small update into bfloat16 keeps its effect on inputs that were not seen."""

import pytest
import torch

from raypipe.sampling.rounding import add_update, effect

WIDTH = 256


def layer(relative: float) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """A weight, an update of rank 8 and moments of correlated inputs, fitted and held out."""
    torch.manual_seed(0)
    mixing, mean = torch.randn(WIDTH, WIDTH) / WIDTH**0.5, 2 * torch.randn(WIDTH)
    drawn = [torch.randn(4 * WIDTH, WIDTH) @ mixing + mean for _ in range(2)]
    weight = (0.05 * torch.randn(WIDTH, WIDTH)).bfloat16()
    update = 0.05 * relative * (torch.randn(WIDTH, 8) @ torch.randn(8, WIDTH)) / 8**0.5
    fitted, held_out = (rows.T @ rows for rows in drawn)
    return weight, update, fitted, held_out


@pytest.mark.parametrize("relative", [2e-4, 5e-4, 1e-3, 5e-3])
def test_the_effect_is_kept_on_inputs_that_were_not_seen(relative: float) -> None:
    weight, update, fitted, held_out = layer(relative)
    merged = add_update(weight, update, fitted)
    assert merged.dtype == torch.bfloat16
    assert effect(weight, merged, update, held_out).share == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize("relative", [2e-4, 5e-4, 1e-3])
def test_rounding_to_the_nearest_loses_it(relative: float) -> None:
    weight, update, _, held_out = layer(relative)
    nearest = (weight.float() + update).bfloat16()
    assert effect(weight, nearest, update, held_out).share < 0.7


def test_outputs_are_nearer_than_with_rounding_to_the_nearest() -> None:
    weight, update, fitted, held_out = layer(1e-3)
    wanted = weight.float() + update

    def error(rounded: torch.Tensor) -> float:
        missed = rounded.float() - wanted
        return float((missed @ held_out * missed).sum())

    assert error(add_update(weight, update, fitted)) < 0.5 * error(wanted.bfloat16())


def test_no_update_leaves_the_weight_as_it_is() -> None:
    weight, update, fitted, _ = layer(0.0)
    assert torch.equal(add_update(weight, update, fitted), weight)
    assert effect(weight, weight, update, fitted).share == 1


@pytest.mark.parametrize("moments", ["none", "one input", "silent inputs"])
def test_inputs_that_say_little_are_no_obstacle(moments: str) -> None:
    weight, update, fitted, _ = layer(5e-3)
    match moments:
        case "none":
            fitted = torch.zeros_like(fitted)
        case "one input":
            row = torch.randn(WIDTH)
            fitted = torch.outer(row, row)
        case _:
            fitted[: WIDTH // 2] = 0
            fitted[:, : WIDTH // 2] = 0
    merged = add_update(weight, update, fitted)
    assert (merged.float() - weight.float() - update).abs().max() < 0.01


def test_effects_add_up_over_layers() -> None:
    weight, update, fitted, _ = layer(1e-3)
    half = effect(weight, weight.float() + update / 2, update, fitted)
    whole = effect(weight, weight.float() + update, update, fitted)
    assert half.share == pytest.approx(0.5, abs=1e-3)
    assert (half + whole).share == pytest.approx(0.75, abs=1e-3)
