"""Whether activations fit, by what a decoder layer keeps for the backward pass."""

import pytest
import torch
from transformers import Qwen2_5_VLTextConfig
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VLTextModel

from raypipe.training.memory import activation_bytes, is_short


def text_config(**settings: int) -> Qwen2_5_VLTextConfig:
    """The 3B's proportions."""
    return Qwen2_5_VLTextConfig(
        **{
            "hidden_size": 256,
            "intermediate_size": 1376,
            "num_hidden_layers": 2,
            "num_attention_heads": 8,
            "num_key_value_heads": 1,
            "vocab_size": 64,
            "rope_parameters": {"rope_type": "default", "mrope_section": [8, 4, 4]},
            **settings,
        }
    )


def kept_bytes(model: torch.nn.Module, num_tokens: int) -> int:
    """Storage that autograd keeps of a forward pass, weights left out."""
    weights = {weight.untyped_storage().data_ptr() for weight in model.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    embedded = torch.randn(1, num_tokens, 256).to(model.dtype).requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        hidden = model(inputs_embeds=embedded, use_cache=False).last_hidden_state
    assert hidden.requires_grad
    return sum(kept.values())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_the_estimate_is_what_autograd_keeps(dtype: torch.dtype) -> None:
    config = text_config()
    model = Qwen2_5_VLTextModel._from_config(config, dtype=dtype).requires_grad_(False)
    kept = kept_bytes(model, 256) - kept_bytes(model, 128)
    assert 0.7 * kept < activation_bytes(config, dtype.itemsize, 128) < 1.6 * kept


def test_the_3b_keeps_a_pack_on_80_gb_and_not_on_40() -> None:
    config = text_config(hidden_size=2048, intermediate_size=11008, num_hidden_layers=36)
    needed = activation_bytes(config, 2, 8192)
    weights = 8 << 30
    assert not is_short(needed, (80 << 30) - weights)
    assert is_short(needed, (40 << 30) - weights)
