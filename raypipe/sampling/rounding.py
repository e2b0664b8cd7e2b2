"""Rounds weights with an update added, so that the update's effect on outputs survives.

In bfloat16 most entries of a small update are less than half a step of the weight's grid: rounded
to the nearest, the sum loses a part of the update that grows as the update shrinks. Here the error
of each rounded column is made up for by the columns that follow, weighed by how inputs correlate
(GPTQ, Frantar et al. 2023, arXiv:2210.17323, with bfloat16 as the grid).
"""

from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor

DAMPING = 0.01
"""Added to the diagonal of the inputs' second moments, as a share of its mean."""
CORRECTIONS = 3
"""How often at most the update is scaled by what its last rounding lost."""
_CLOSE = 0.01
_BLOCK = 128
_LEAST = 0.25


class Effect(NamedTuple):
    """An update's effect on outputs: what was kept over what was asked, both as inner products with
    the update's own effect."""

    kept: float
    asked: float

    def __add__(self, other: "Effect") -> "Effect":  # type: ignore[override]
        return Effect(self.kept + other.kept, self.asked + other.asked)

    @property
    def share(self) -> float:
        """1 where all is kept, also where nothing was asked."""
        return self.kept / self.asked if self.asked else 1.0


def effect(weight: "Tensor", rounded: "Tensor", update: "Tensor", moments: "Tensor") -> Effect:
    """How much of ``update`` the step from ``weight`` to ``rounded`` makes, on given inputs.

    Args:
        weight, rounded, update: (outputs, inputs), of any type.
        moments: (inputs, inputs), the sum of the inputs' outer products.
    """
    asked = update.float() @ moments
    made = rounded.float() - weight.float()
    return Effect(float((asked * made).sum()), float((asked * update.float()).sum()))


def add_update(weight: "Tensor", update: "Tensor", moments: "Tensor") -> "Tensor":
    """``weight`` + ``update``, rounded to the type of ``weight``.

    Args:
        weight: (outputs, inputs).
        update: (outputs, inputs) float32.
        moments: (inputs, inputs) float32, the sum of outer products of inputs the layer meets.
    """
    factor = _inverse_factor(moments)
    scale = 1.0
    best, best_error = weight, float("inf")
    for _ in range(1 + CORRECTIONS):
        rounded = _rounded(weight.float() + scale * update.float(), weight.dtype, factor)
        share = effect(weight, rounded, update, moments).share
        if abs(share - 1) < best_error:
            best, best_error = rounded, abs(share - 1)
        if best_error < _CLOSE:
            break
        scale /= min(max(share, _LEAST), 1 / _LEAST)
    return best


def _inverse_factor(moments: "Tensor") -> "Tensor":
    """The upper Cholesky factor of the damped moments' inverse."""
    import torch

    damped = moments.double()
    # Inputs that are always 0 leave no moment; 1 in their place keeps the inverse finite.
    mean = damped.diagonal().mean().clamp_min(torch.finfo(torch.float32).tiny)
    damped = damped / mean + DAMPING * torch.eye(len(damped), device=damped.device)
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(damped))
    factor: Tensor = torch.linalg.cholesky(inverse, upper=True).float()
    return factor


def _rounded(wanted: "Tensor", dtype: Any, factor: "Tensor") -> "Tensor":
    """Round column after column; the error goes to the columns that are still to come."""
    import torch

    columns = wanted.T.contiguous()  # what is changed together lies together
    rounded = torch.empty_like(columns, dtype=dtype)
    for start in range(0, len(columns), _BLOCK):
        stop = min(start + _BLOCK, len(columns))
        errors = torch.empty_like(columns[start:stop])
        for column in range(start, stop):
            rounded[column] = columns[column].to(dtype)
            error = (columns[column] - rounded[column].float()) / factor[column, column]
            columns[column:stop].addr_(factor[column, column:stop], error, alpha=-1)
            errors[column - start] = error
        columns[stop:].addmm_(factor[start:stop, stop:].T, errors, alpha=-1)
    return rounded.T.contiguous()
