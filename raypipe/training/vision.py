"""Attention of a vision tower: all images and windows of one length in one call.

Transformers calls the attention of every image and window by itself in a Python loop: 116 calls for
an image of the 3B, which a GPU waits for. The result is the same.
"""

from collections import defaultdict
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from raypipe.training.attention import attend

NAME = "raypipe_flash_windows"
"""Transformers gives the bounds of all windows to an implementation with "flash" in its name."""


def window_attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    cu_seq_lens_q: Tensor,
    scaling: float | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """For transformers' interface: (1, heads, S, width) in, (1, S, heads, width) out.

    Args:
        cu_seq_lens_q: (windows + 1,): where each window begins, and the last one ends.
    """
    bounds = _bounds(cu_seq_lens_q)
    starts: defaultdict[int, list[int]] = defaultdict(list)
    for first, last in pairwise(bounds):
        starts[last - first].append(first)
    if len(starts) == 1:
        (length,) = starts
        return _windows(query, key, value, length=length, scaling=scaling)[None], None
    attended = torch.empty_like(query[0].transpose(0, 1))
    for length, firsts in starts.items():
        begin = torch.tensor(firsts, device=query.device)
        rows = (begin[:, None] + torch.arange(length, device=query.device)).flatten()
        chosen = (each.index_select(2, rows) for each in (query, key, value))
        attended[rows] = _windows(*chosen, length=length, scaling=scaling)
    return attended[None], None


def _bounds(cumulative: Any) -> list[int]:
    """As numbers, which every layer of a pass asks for: a GPU waits for the first only."""
    if not hasattr(cumulative, "raypipe_bounds"):
        cumulative.raypipe_bounds = cumulative.tolist()
    found: list[int] = cumulative.raypipe_bounds
    return found


def _windows(
    query: Tensor, key: Tensor, value: Tensor, *, length: int, scaling: float | None
) -> Tensor:
    """(S, heads, width): windows of one length, one after the other."""
    heads, width = query.shape[1], query.shape[3]
    cut = [
        each[0].transpose(0, 1).reshape(-1, length, heads, width).transpose(1, 2)
        for each in (query, key, value)
    ]
    attended = attend(*cut, scale=scaling)
    return attended.transpose(1, 2).reshape(-1, heads, width)


def register() -> None:
    """Make the function known to transformers as ``attn_implementation`` :data:`NAME`."""
    from transformers import AttentionInterface

    AttentionInterface.register(NAME, window_attention)
