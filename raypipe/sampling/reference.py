"""What a policy and its base should say of the probe's texts, by transformers in float32."""

import contextlib
import dataclasses
import math
from collections.abc import Iterator
from functools import partial
from itertools import takewhile
from typing import TYPE_CHECKING, Any

from raypipe.errors import AdapterInactiveError
from raypipe.sampling.calibration import texts
from raypipe.sampling.probe import Reference, difference, rms, tokens_needed

if TYPE_CHECKING:
    from torch import Tensor

LEAST_TOKENS = 1024
FIRST_TOKENS = 4096
MOST_TOKENS = 50_000
_BATCH_TOKENS = 2048
_NOISE_FLOOR = 1e-4
"""Nats a token; engines in float32 are nearer than that to transformers."""
_CPU_OPERATIONS = 2e13
"""What a CPU may spend on a reference, additions and multiplications."""


def make_reference(model: Any, processor: Any) -> Reference:
    """Log-probabilities of rendered listings' texts with and without the adapter.

    The engine's noise is taken to be the model's own: what its type's arithmetic differs from
    float32 by. Where more tokens are needed than may be spent, the first are kept.

    Args:
        model: a PEFT model, its base in the type it is served in.

    Raises:
        AdapterInactiveError: the adapter changes nothing.
    """
    most = _affordable(model)
    found = texts(processor, max(LEAST_TOKENS, min(FIRST_TOKENS, most)))
    first = _compared(model, found)
    if first.effect == 0:
        raise AdapterInactiveError("the adapter does not change the model: all its updates are 0")
    errors = _arithmetic(model, found, first)
    first = dataclasses.replace(first, noise=max(rms(errors), _NOISE_FLOOR))
    needed = tokens_needed(errors, first.change)
    if not sum(map(len, first.change)) < needed <= most:
        return first
    # What all texts begin with is not scored.
    more = texts(processor, needed + first.shared * math.ceil(needed * len(found) / FIRST_TOKENS))
    return dataclasses.replace(_compared(model, more), noise=first.noise)


def _compared(model: Any, rows: list[list[int]]) -> Reference:
    with _float32(model):
        policy = logprobs(model, rows)
        with model.disable_adapter():
            base = logprobs(model, rows)
    # What all texts begin with would count once for each of them.
    shared = max(1, _common(rows))
    return Reference(
        token_ids=tuple(map(tuple, rows)),
        shared=shared,
        policy=tuple(tuple(row[shared - 1 :]) for row in policy),
        base=tuple(tuple(row[shared - 1 :]) for row in base),
        noise=0.0,
    )


def _common(rows: list[list[int]]) -> int:
    """Length of the beginning that all rows have."""
    same = takewhile(lambda column: len(set(column)) == 1, zip(*rows, strict=False))
    return sum(1 for _ in same)


def _arithmetic(model: Any, rows: list[list[int]], exact: Reference) -> list[list[float]]:
    """What the model's own arithmetic differs from float32 by, in nats."""
    plain = [row[exact.shared - 1 :] for row in logprobs(model, rows)]
    return difference(plain, exact.policy)


def _affordable(model: Any) -> int:
    if model.device.type != "cpu":
        return MOST_TOKENS
    # Two passes, two operations a weight and token.
    return min(MOST_TOKENS, int(_CPU_OPERATIONS / (4 * model.num_parameters())))


@contextlib.contextmanager
def _float32(model: Any) -> Iterator[None]:
    """Compute in float32, one block at a time: a bfloat16 weight survives the way there and back,
    and the memory is that of the largest block."""
    import torch

    handles = []
    for unit in _units(model):
        weights = list(unit.parameters())
        exact = partial(_convert, [(weight, torch.float32) for weight in weights])
        back = partial(_convert, [(weight, weight.dtype) for weight in weights])
        handles += [unit.register_forward_pre_hook(exact), unit.register_forward_hook(back)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _units(module: Any) -> Iterator[Any]:
    """The blocks of a model, and outside of them the modules that have weights of their own."""
    from torch.nn import ModuleList

    for child in module.children():
        owns = next(child.parameters(recurse=False), None) is not None
        if owns or isinstance(module, ModuleList):
            yield child
        else:
            yield from _units(child)


def _convert(weights: "list[tuple[Tensor, Any]]", *_: object) -> None:
    for weight, dtype in weights:
        weight.data = weight.data.to(dtype)


def logprobs(model: Any, rows: list[list[int]]) -> list[list[float]]:
    """Log-probability of each token of each row but its first, in nats."""
    import torch

    found: list[list[float]] = []
    for batch in _batches(rows):
        longest = max(map(len, batch))
        padded = torch.tensor([row + [0] * (longest - len(row)) for row in batch])
        mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in batch])
        padded, mask = padded.to(model.device), mask.to(model.device)
        with torch.no_grad():
            logits = model(input_ids=padded, attention_mask=mask).logits[:, :-1]
            chosen = _chosen(logits, padded[:, 1:]).tolist()
        found += [values[: len(row) - 1] for values, row in zip(chosen, batch, strict=True)]
    return found


def _chosen(logits: "Tensor", token_ids: "Tensor") -> "Tensor":
    """Row by row: all logits in float32 at once would double them."""
    import torch

    rows = []
    for row, ids in zip(logits, token_ids, strict=True):
        row = row.float()
        rows.append(row.gather(-1, ids[:, None])[:, 0] - row.logsumexp(-1))
    return torch.stack(rows)


def _batches(rows: list[list[int]]) -> Iterator[list[list[int]]]:
    """Consecutive rows, as many as make at most ``_BATCH_TOKENS`` when padded."""
    batch: list[list[int]] = []
    for row in rows:
        longest = max(len(row), *map(len, batch)) if batch else len(row)
        if batch and longest * (len(batch) + 1) > _BATCH_TOKENS:
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch
