"""Whether activations fit into memory, or are computed again in the backward pass."""

from typing import Any

_RESERVED = 3 << 30
"""Bytes for logits, the vision tower, gradients and the allocator's gaps."""
_PER_HIDDEN = 26
"""Bytes that a decoder layer keeps for a token and unit of its width, for the backward pass: norms,
attention and LoRA, partly in float32."""
_MLP_TENSORS = 3


def activation_bytes(config: Any, item_bytes: int, num_tokens: int) -> int:
    """What the language model keeps of ``num_tokens`` for the backward pass.

    Args:
        config: of the language model.
        item_bytes: of one number of its weights' type.
    """
    a_layer = _MLP_TENSORS * item_bytes * config.intermediate_size
    a_layer += _PER_HIDDEN * config.hidden_size
    return int(a_layer) * int(config.num_hidden_layers) * num_tokens


def is_short(needed: int, free: int) -> bool:
    """Whether activations of ``needed`` bytes are better computed again."""
    return needed + _RESERVED > free


def free_bytes(device: Any) -> int:
    """Of a GPU, or of this machine's memory."""
    import torch

    if torch.device(device).type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    import psutil

    return int(psutil.virtual_memory().available)
