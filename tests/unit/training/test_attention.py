"""Attention along branches against plain attention under a mask that is built token by token."""

from dataclasses import dataclass

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from raypipe.training.attention import Layout, tree_attention


@dataclass(frozen=True)
class Forest:
    """Lengths of blocks level by level, and for each block but a trunk the one it hangs on."""

    lengths: tuple[tuple[int, ...], ...]
    parents: tuple[tuple[int, ...], ...]

    @property
    def num_tokens(self) -> int:
        return sum(sum(level) for level in self.lengths)

    def branches(self) -> Tensor:
        """(S, S): whether a token of the row may look at another."""
        blocks = [
            (depth, at) for depth, level in enumerate(self.lengths) for at in range(len(level))
        ]
        owners = [block for block in blocks for _ in range(self.lengths[block[0]][block[1]])]
        size = self.num_tokens
        visible = torch.zeros(size, size, dtype=torch.bool)
        for token, (depth, at) in enumerate(owners):
            above = {(depth, at)}
            for level in range(depth, 0, -1):
                at = self.parents[level - 1][at]
                above.add((level - 1, at))
            for other in range(token + 1):
                visible[token, other] = owners[other] in above
        return visible


@st.composite
def forests(draw: st.DrawFn) -> Forest:
    """Ragged trunks and stems of one token or more; chains may have none left."""
    num_trunks = draw(st.integers(1, 3))
    trunks = draw(st.tuples(*[st.integers(1, 5)] * num_trunks))
    stems = draw(st.lists(st.integers(1, 4), min_size=num_trunks, max_size=5))
    chains = draw(st.lists(st.integers(0, 4), min_size=len(stems), max_size=8))
    on_trunks = [draw(st.integers(0, num_trunks - 1)) for _ in stems]
    on_stems = [draw(st.integers(0, len(stems) - 1)) for _ in chains]
    return Forest((trunks, tuple(stems), tuple(chains)), (tuple(on_trunks), tuple(on_stems)))


def dense_attention(query: Tensor, key: Tensor, value: Tensor, visible: Tensor) -> Tensor:
    """(1, heads, S, width) in, (1, S, heads, width) out; every head of a group sees its key."""
    groups = query.shape[1] // key.shape[1]
    key, value = (each.repeat_interleave(groups, dim=1) for each in (key, value))
    scores = query @ key.transpose(2, 3) * query.shape[-1] ** -0.5
    return (scores.masked_fill(~visible, float("-inf")).softmax(-1) @ value).transpose(1, 2)


def inputs(num_tokens: int, heads: int, groups: int, width: int = 4) -> list[Tensor]:
    generator = torch.Generator().manual_seed(num_tokens)
    shapes = [(1, count, num_tokens, width) for count in (heads, heads // groups, heads // groups)]
    made = [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]
    return [each.requires_grad_() for each in made]


def assert_as_dense(forest: Forest, heads: int, groups: int) -> None:
    tensors = inputs(forest.num_tokens, heads, groups)
    layout = Layout(forest.lengths, forest.parents)
    found, weights = tree_attention(None, *tensors, None, tree=layout, scaling=4**-0.5)
    wanted = dense_attention(*tensors, forest.branches())
    assert weights is None
    torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-12)
    towards = torch.randn(
        wanted.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64
    )
    ours, theirs = (torch.autograd.grad(out, tensors, towards) for out in (found, wanted))
    for gradient, reference in zip(ours, theirs, strict=True):
        torch.testing.assert_close(gradient, reference, rtol=1e-10, atol=1e-12)


@given(forests(), st.sampled_from([(2, 1), (4, 2), (3, 3)]))
@settings(max_examples=60, deadline=None)
def test_outputs_and_gradients_are_those_of_a_dense_mask(
    forest: Forest, heads: tuple[int, int]
) -> None:
    assert_as_dense(forest, *heads)


@pytest.mark.parametrize(
    "forest",
    [
        Forest(((3,), (2,), (0,)), ((0,), (0,))),
        Forest(((1, 6), (1, 3, 1), (0, 0, 0)), ((1, 0, 1), (2, 1, 0))),
        Forest(((4, 2), (2, 5), (3, 0, 1)), ((1, 0), (0, 0, 1))),
        Forest(((7,), (1,), (2, 2, 2, 2, 9)), ((0,), (0, 0, 0, 0, 0))),
    ],
    ids=["chain-of-one", "only-chains-of-one", "crossed", "one-long-chain"],
)
def test_ragged_and_empty_blocks_are_those_of_a_dense_mask(forest: Forest) -> None:
    assert_as_dense(forest, 4, 2)


def test_a_level_is_enough() -> None:
    assert_as_dense(Forest(((3, 5, 1),), ()), 2, 1)


def test_a_layout_serves_every_layer() -> None:
    forest = Forest(((4, 2), (2, 5), (3, 0, 1)), ((1, 0), (0, 0, 1)))
    layout = Layout(forest.lengths, forest.parents)
    first, second = (inputs(forest.num_tokens, 4, 2) for _ in range(2))
    for layer in (first, [each * 3 for each in second]):
        found, _ = tree_attention(None, *layer, None, tree=layout, scaling=4**-0.5)
        wanted = dense_attention(*layer, forest.branches())
        torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-12)


def test_the_scores_are_scaled_as_the_module_says() -> None:
    forest = Forest(((4,), (2, 3), (3, 1)), ((0, 0), (0, 1)))
    query, key, value = inputs(forest.num_tokens, 2, 1)
    layout = Layout(forest.lengths, forest.parents)
    found, _ = tree_attention(None, query, key, value, None, tree=layout, scaling=0.7)
    wanted = dense_attention(query * 0.7 * 4**0.5, key, value, forest.branches())
    torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-12)
