"""LoRA adapters on the language model's projections (paper §3.1), checked by count and by name."""

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from raypipe.config import LoraConfig
from raypipe.errors import ConfigError
from raypipe.models.families import QWEN2_5_VL, ModelFamily, family_of

POLICY_ADAPTER = "default"
REFERENCE_ADAPTER = "ref"


def lora_config(lora: LoraConfig, family: ModelFamily = QWEN2_5_VL) -> Any:
    """PEFT's configuration of a fresh adapter."""
    from peft import LoraConfig as PeftLoraConfig

    return PeftLoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=0.0,
        bias="none",
        target_modules=family.lora_pattern(lora.targets),
        task_type="CAUSAL_LM",
    )


def expected_parameters(model: Any, lora: LoraConfig) -> int:
    """Trainable parameters that the model should have, from the modules that it is made of.

    A projection of ``i`` inputs and ``o`` outputs gets ``rank * (i + o)``; Qwen2.5-VL-3B with
    rank 32 on query and value has 36 * 32 * (4096 + 2304) = 7,372,800. Not all layers need to have
    every target: Qwen3.5's linear attention has no ``q_proj``.

    Raises:
        ConfigError: a target that no linear module of the language model is called.
    """
    family = family_of(model)
    found = dict(_linear_modules(model, rf".*{family.language_model}\..*"))
    named = {name.rpartition(".")[2] for name in found}
    unknown = [name for name in lora.targets if name not in named]
    if unknown:
        raise ConfigError(f"lora.targets: {unknown} are not among {sorted(named)}")
    adapted = dict(_linear_modules(model, family.lora_pattern(lora.targets)))
    return lora.rank * sum(int(m.in_features + m.out_features) for m in adapted.values())


def _linear_modules(model: Any, pattern: str) -> Iterator[tuple[str, Any]]:
    """Linear modules by name; one with an adapter is the one around both."""
    inner = {f"{name}.base_layer" for name, m in model.named_modules() if hasattr(m, "base_layer")}
    for name, module in model.named_modules():
        is_part = name in inner or ".lora_" in name
        if hasattr(module, "in_features") and not is_part and re.fullmatch(pattern, name):
            yield name, module


def check_targets(settings: Any, lora: LoraConfig) -> None:
    """Refuse a model that transformers cannot build, or that has no place for the adapter.

    The model is built without weights, in a second or two whatever its size.

    Args:
        settings: the model's configuration.

    Raises:
        ConfigError: names the model's type, or the targets.
    """
    import torch
    from transformers import AutoModelForImageTextToText

    try:
        with torch.device("meta"):
            model = AutoModelForImageTextToText.from_config(settings)
    except Exception as error:  # what a configuration that does not fit raises is any error at all
        reason = (str(error).strip().splitlines() or [""])[0][:200]
        raise ConfigError(
            f"'{settings.model_type}' is no vision-language model that transformers can train: "
            f"{reason or type(error).__name__}"
        ) from error
    expected_parameters(model, lora)


def check_trainable(model: Any, lora: LoraConfig) -> int:
    """The number of trainable parameters, once it and their names are as expected.

    Raises:
        ConfigError: another count, or a trainable parameter outside the targets: an adapter on
            the wrong modules trains without an error.
    """
    trainable = {name: p.numel() for name, p in model.named_parameters() if p.requires_grad}
    pattern = re.compile(rf"{family_of(model).lora_pattern(lora.targets)}\.lora_[AB]\..*")
    others = [name for name in trainable if not pattern.fullmatch(name)]
    if others:
        raise ConfigError(f"parameters outside lora.targets would be trained: {others[:3]}")
    expected, actual = expected_parameters(model, lora), sum(trainable.values())
    if actual != expected:
        raise ConfigError(f"the adapter has {actual:,} parameters instead of {expected:,}")
    return int(actual)


def with_adapter(model: Any, lora: LoraConfig, start: Path | None) -> Any:
    """The model with a trainable adapter: a fresh one, or a copy of ``start``.

    The adapter is in float32 whatever the base's type is.
    """
    from peft import PeftModel, get_peft_model

    if start is None:
        return get_peft_model(model, lora_config(lora, family_of(model)))
    return PeftModel.from_pretrained(model, str(start), is_trainable=True)


@contextlib.contextmanager
def use_adapter(model: Any, adapter: Path | None) -> Iterator[None]:
    """While the body runs, the model is another policy: ``adapter``'s, or None for the base's."""
    if adapter is None:
        with model.disable_adapter():
            yield
        return
    model.load_adapter(str(adapter), adapter_name=REFERENCE_ADAPTER)
    model.set_adapter(REFERENCE_ADAPTER)
    try:
        yield
    finally:
        model.set_adapter(POLICY_ADAPTER)
        model.delete_adapter(REFERENCE_ADAPTER)


def load_reference(model: Any, reference: Path | None) -> None:
    """Make the frozen adapter "ref", which TRL copied from the start, the reference policy.

    TRL's reference is where training starts; ours is the policy before round 1 unless the
    configuration says otherwise. None makes the base model the reference.
    """
    import torch
    from peft import load_peft_weights, set_peft_model_state_dict

    with torch.no_grad():
        if reference is None:
            for name, parameter in model.named_parameters():
                if f".lora_B.{REFERENCE_ADAPTER}." in name:
                    parameter.zero_()
            return
    weights = load_peft_weights(str(reference), device="cpu")
    loaded = set_peft_model_state_dict(model, weights, adapter_name=REFERENCE_ADAPTER)
    missing = [key for key in loaded.missing_keys if f".{REFERENCE_ADAPTER}." in key]
    if missing or loaded.unexpected_keys:
        keys = [*missing, *loaded.unexpected_keys][:3]
        raise ConfigError(f"the reference adapter does not fit the model: {keys}")


def same_adapter(start: Path | None, trained: Path) -> bool:
    """Whether training left the policy as it was: all weights equal, or every B still zero.

    Args:
        start: weights of the adapter before training; None for a fresh one, which adds nothing to
            the base as long as every B is zero.
        trained: weights of the adapter after it.
    """
    from safetensors.numpy import load_file

    after = load_file(trained)
    if start is None:
        return not any(weight.any() for name, weight in after.items() if ".lora_B." in name)
    before = load_file(start)
    return before.keys() == after.keys() and all(
        bool((before[name] == weight).all()) for name, weight in after.items()
    )
