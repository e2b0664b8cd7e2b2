"""Attention along the branches of token trees that lie in one row.

The tokens of a pack are one row without padding: all trunks, then all stems, then all chains.
Everything but attention treats them as a row. Attention gathers each level into blocks and lets a
block look at its ancestors and, causally, at itself; what a trunk's keys and values cost is paid
once. No cache is involved, so activation checkpointing works as in any other model.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

NAME = "raypipe_tree"
LENGTH_MULTIPLE = 16
"""On a GPU: masks whose rows are aligned, and fewer shapes."""
_BACKENDS = (
    SDPBackend.FLASH_ATTENTION,
    SDPBackend.EFFICIENT_ATTENTION,
    SDPBackend.CUDNN_ATTENTION,
    SDPBackend.MATH,
)


def attend(query: Tensor, key: Tensor, value: Tensor, **options: Any) -> Tensor:
    """``scaled_dot_product_attention``, on a GPU with cuDNN near the end.

    On Hopper torch tries cuDNN first, which makes a plan for every new shape, and packs change
    shape all the time.
    """
    if not query.is_cuda:
        return scaled_dot_product_attention(query, key, value, **options)
    with sdpa_kernel(list(_BACKENDS), set_priority=True):
        return scaled_dot_product_attention(query, key, value, **options)


@dataclass(frozen=True)
class TreeLevel:
    """N blocks of at most L tokens; padding comes last in a block."""

    rows: Tensor  # (N, L): where the tokens are in the row; padding names the row's first
    lengths: Tensor  # (N,)
    ancestors: tuple[Tensor, ...]  # per level above, (N,): which of its blocks is the ancestor


class Layout:
    """How a pack's tokens lie in its row.

    Args:
        lengths: per level, the number of tokens of each block in the order of the row.
        parents: per level but the first, the block of the level above that each block hangs on.
        multiple: blocks are padded to one of it.
    """

    def __init__(
        self,
        lengths: Sequence[Sequence[int]],
        parents: Sequence[Sequence[int]],
        multiple: int = 1,
    ) -> None:
        self._biases: tuple[Tensor, ...] = ()
        levels: list[TreeLevel] = []
        order, first, padded = [], 0, 0
        for depth, sizes in enumerate(lengths):
            starts = torch.tensor(list(accumulate(sizes, initial=first))[:-1])
            held = torch.tensor(sizes)
            longest = -(-max(1, *sizes) // multiple) * multiple
            columns = torch.arange(longest)
            real = columns < held[:, None]
            rows = torch.where(real, starts[:, None] + columns, 0)
            order.append(padded + real.flatten().nonzero().flatten())
            ancestors: tuple[Tensor, ...] = ()
            if depth:
                parent = torch.tensor(parents[depth - 1])
                ancestors = (*(block[parent] for block in levels[-1].ancestors), parent)
            levels.append(TreeLevel(rows, held, ancestors))
            first += sum(sizes)
            padded += len(sizes) * longest
        self.levels = tuple(levels)
        self.order = torch.cat(order)
        """(S,): where each token of the row is among the padded blocks of all levels."""

    def to(self, device: Any) -> "Layout":
        """The layout on a device."""
        moved = copy.copy(self)
        moved.levels = tuple(
            TreeLevel(
                level.rows.to(device),
                level.lengths.to(device),
                tuple(block.to(device) for block in level.ancestors),
            )
            for level in self.levels
        )
        moved.order = self.order.to(device)
        return moved

    def biases(self, groups: int, dtype: torch.dtype) -> tuple[Tensor, ...]:
        """What to add to the scores of each level but the first, (N, 1, groups * L, keys).

        Minus infinity hides padding and what comes later. Made once, for all layers.
        """
        if not self._biases:
            self._biases = tuple(
                torch.zeros(mask.shape, dtype=dtype, device=mask.device)
                .masked_fill_(~mask, float("-inf"))
                .repeat(1, groups, 1)
                .unsqueeze(1)
                for mask in map(self._visible, self.levels[1:])
            )
        return self._biases

    def _visible(self, level: TreeLevel) -> Tensor:
        """(N, L, keys): which keys of its branch a token may look at."""
        size, longest = level.rows.shape
        parts = []
        for above, block in zip(self.levels, level.ancestors, strict=False):
            columns = torch.arange(above.rows.shape[1], device=block.device)
            seen = columns < above.lengths[block][:, None]
            parts.append(seen[:, None, :].expand(size, longest, -1))
        causal = torch.ones(longest, longest, dtype=torch.bool, device=level.rows.device)
        return torch.cat([*parts, causal.tril().expand(size, -1, -1)], dim=2)


def tree_attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    tree: Layout,
    scaling: float | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """For transformers' interface: (1, heads, S, width) in, (1, S, heads, width) out."""
    num_heads, width = query.shape[1], query.shape[3]
    groups = num_heads // key.shape[1]
    flat = [
        each[0].transpose(0, 1).flatten(1) for each in (query, key, value)
    ]  # (S, heads * width)
    keys: list[Tensor] = []
    values: list[Tensor] = []
    attended = []
    for depth, level in enumerate(tree.levels):
        own_query, own_key, own_value = (_blocks(each, level.rows, width) for each in flat)
        above = list(enumerate(level.ancestors))
        seen_keys = torch.cat([*(keys[d].index_select(0, b) for d, b in above), own_key], dim=2)
        seen_values = torch.cat(
            [*(values[d].index_select(0, b) for d, b in above), own_value], dim=2
        )
        if depth == 0:
            out = attend(
                own_query, seen_keys, seen_values, is_causal=True, scale=scaling, enable_gqa=True
            )
        else:
            out = _grouped(
                own_query,
                seen_keys,
                seen_values,
                tree.biases(groups, query.dtype)[depth - 1],
                scaling,
            )
        attended.append(out.transpose(1, 2).reshape(-1, num_heads * width))
        keys.append(own_key)
        values.append(own_value)
    row = torch.cat(attended).index_select(0, tree.order)
    return row.view(1, -1, num_heads, width), None


def _blocks(flat: Tensor, rows: Tensor, width: int) -> Tensor:
    """Gather rows of (S, heads * width) into blocks (N, heads, L, width)."""
    gathered = flat.index_select(0, rows.flatten())
    return gathered.view(*rows.shape, -1, width).transpose(1, 2)


def _grouped(
    query: Tensor, key: Tensor, value: Tensor, bias: Tensor, scaling: float | None
) -> Tensor:
    """Grouped-query attention with a mask, and no key repeated: heads of a group lie end to end."""
    size, heads, length, width = query.shape
    folded = query.reshape(size, key.shape[1], -1, width)
    out = attend(folded, key, value, attn_mask=bias, scale=scaling)
    return out.reshape(size, heads, length, width)


def register() -> None:
    """Make the function known to transformers as ``attn_implementation="raypipe_tree"``."""
    from transformers import AttentionInterface

    AttentionInterface.register(NAME, tree_attention)
