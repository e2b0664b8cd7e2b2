"""A checkpoint of Qwen2.5-VL-3B's shape with random weights in bfloat16, and an adapter for it."""

import shutil
from pathlib import Path
from typing import Any

import torch
from dpo_models import IMAGE_SIDE, build_config, build_processor
from peft import get_peft_model
from transformers import AutoModelForImageTextToText, Qwen2_5_VLForConditionalGeneration

from raypipe.config import LoraConfig
from raypipe.training.lora import lora_config

ADAPTER_STD = 4e-4
"""Of the entries of B: in the middle of what the paper's learning rates leave."""


def random_model(num_layers: int = 36, device: str = "cpu") -> Any:
    """The model, 7.5 GB with all 36 layers."""
    config = build_config("qwen2.5-vl-3b", build_processor("qwen2.5-vl"))
    config.text_config.num_hidden_layers = num_layers
    config.text_config.layer_types = ["full_attention"] * num_layers
    with torch.device("meta"):
        model = Qwen2_5_VLForConditionalGeneration._from_config(config, dtype=torch.bfloat16)
    model = model.to_empty(device=device)
    torch.manual_seed(0)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if (weight.dim() == 1 and "norm" in name) or name.endswith("ln_q.weight"):
                weight.fill_(1)
            else:
                weight.normal_(0, 0.02)
    _restore_buffers(model, config)
    model.tie_weights()
    return model


def _restore_buffers(model: Any, config: Any) -> None:
    """Rotary frequencies are no weights, and empty after the way over "meta"."""
    small = build_config("qwen2.5-vl-3b", build_processor("qwen2.5-vl"))
    small.text_config.num_hidden_layers = 1
    small.text_config.layer_types = ["full_attention"]
    small.text_config.vocab_size = 1024
    small.vision_config.depth = 1
    donor = dict(Qwen2_5_VLForConditionalGeneration(small).named_buffers())
    for name, buffer in model.named_buffers():
        buffer.copy_(donor[name])


def write_checkpoint(directory: Path, num_layers: int = 36, device: str = "cpu") -> Path:
    """The checkpoint with the nano's tokenizer; what lies there already is taken."""
    if not directory.exists():
        partial = directory.with_name(f"{directory.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        random_model(num_layers, device).save_pretrained(partial)
        processor = build_processor("qwen2.5-vl")
        processor.save_pretrained(partial)
        partial.rename(directory)
    return directory


def write_adapter(checkpoint: Path, directory: Path) -> Path:
    """A PEFT adapter of the paper's rank and targets; what lies there already is taken."""
    if not directory.exists():
        base = AutoModelForImageTextToText.from_pretrained(checkpoint, dtype=torch.bfloat16)
        model = get_peft_model(base, lora_config(LoraConfig()))
        torch.manual_seed(1)
        with torch.no_grad():
            for name, weight in model.named_parameters():
                if "lora_B" in name:
                    weight.normal_(0, ADAPTER_STD)
        model.save_pretrained(directory)
    return directory


__all__ = ["IMAGE_SIDE", "random_model", "write_adapter", "write_checkpoint"]
