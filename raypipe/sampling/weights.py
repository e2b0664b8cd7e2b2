"""Merge an adapter into the base weights, once per policy and machine.

An engine with a LoRA beside the weights is slower than one with merged weights, and in bfloat16 it
loses as much of a small adapter as plain rounding does (``docs/decisions/merged-weights.md``).
"""

import contextlib
import dataclasses
import hashlib
import json
import math
import os
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from raypipe import storage
from raypipe.errors import (
    AdapterInactiveError,
    ArtifactError,
    ConfigError,
    MergeLossError,
    StorageError,
)
from raypipe.models.base_model import load_base_model
from raypipe.models.processors import load_processor
from raypipe.sampling.calibration import Moments, input_moments
from raypipe.sampling.probe import Reference
from raypipe.sampling.reference import make_reference
from raypipe.sampling.rounding import Effect, add_update, effect
from raypipe.store.documents import parse_object

MIN_KEPT = 0.9
"""A merge that keeps a smaller share of the adapter's effect is refused."""
_PROBE_FILE = "raypipe_probe.json"
_MOMENT_BYTES = 4 << 30
_LARGE_BYTES = 1 << 30


@dataclass(frozen=True)
class MergedCheckpoint:
    """A checkpoint directory, what the probe should find, and the share of the adapter's effect
    that rounding to the weights' type kept."""

    path: str
    reference: Reference
    kept: float


def merged_checkpoint(
    base: str, revision: str | None, dtype: str, adapter: Path, policy_id: str
) -> MergedCheckpoint:
    """The base model with the adapter merged in, as a directory that vLLM loads.

    The directory is named by the policy's id, so that no policy ever finds another's weights; it
    appears whole or not at all, is made once when several engines of a machine ask for it at once,
    and made again when a file of it is no longer what was merged. Every use makes its probe young
    again, so that ``raypipe gc`` of any run knows what is in use.

    Raises:
        AdapterInactiveError: the adapter changes nothing.
        ConfigError: it cannot be loaded, or is more than LoRA on linear layers.
        MergeLossError: too little of its effect survives in ``dtype``.
        StorageError: it cannot be written.
    """
    target, settings = _cached(policy_id), _settings(adapter)
    found = _used(target, settings)
    if found is None:
        with storage.one_at_a_time(target.parent):  # a merge holds the model in memory
            found = _used(target, settings)  # by now another engine may have made it
            if found is None:
                _make_whole(base, revision, dtype, adapter, target, settings)
                found = _used(target, settings)
    if found is None:
        raise StorageError(f"{target} changes while it is used: its merged weights are not whole")
    return found


def _make_whole(
    base: str, revision: str | None, dtype: str, adapter: Path, target: Path, settings: str
) -> None:
    shutil.rmtree(target, ignore_errors=True)
    with storage.whole(target, replace=False) as partial_target:
        reference, kept = _apart(_proved, base, revision, dtype, adapter, partial_target)
        probed = {"kept": kept, "reference": dataclasses.asdict(reference)}
        probed["adapter_config"] = settings
        probed["sha256"] = _sums(partial_target)
        (partial_target / _PROBE_FILE).write_text(json.dumps(probed))


def adapter_reference(
    base: str, revision: str | None, dtype: str, adapter: Path, policy_id: str
) -> Reference:
    """What the probe of an engine that serves the adapter beside the weights should find.

    Raises:
        AdapterInactiveError: the adapter changes nothing.
        StorageError: it cannot be written.
    """
    target = _cached(f"{policy_id}.lora")
    file = target / _PROBE_FILE
    settings = _settings(adapter)
    with contextlib.suppress(FileNotFoundError, ArtifactError, KeyError, TypeError):
        probed = parse_object(file.read_bytes(), str(file))
        if probed["adapter_config"] == settings:
            return Reference.of(probed["reference"])
    reference: Reference = _apart(_reference, base, revision, dtype, adapter)
    with storage.whole(target) as partial_target:
        partial_target.mkdir()
        probed = {"adapter_config": settings, "reference": dataclasses.asdict(reference)}
        (partial_target / _PROBE_FILE).write_text(json.dumps(probed))
    return reference


def write_merged(base: str, revision: str | None, dtype: str, adapter: Path, target: Path) -> float:
    """Write a checkpoint of the base model with the adapter merged in.

    Returns:
        The share of the adapter's effect on the outputs of the layers it changes that is kept, on
        listings that the weights were not rounded for; 1 up to float32's precision in float32.

    Raises:
        AdapterInactiveError: the adapter changes nothing.
        ConfigError: it cannot be loaded, or is more than LoRA on linear layers.
        MergeLossError: less than ``MIN_KEPT`` survives in ``dtype``.
    """
    kept: float = _apart(_merged, base, revision, dtype, adapter, target)
    return kept


def _cached(name: str) -> Path:
    return Path.home() / ".cache" / "raypipe" / "merged" / name


def _settings(adapter: Path) -> str:
    """Digest of an adapter's configuration: weights are another policy with another scale."""
    try:
        content = (adapter / "adapter_config.json").read_bytes()
    except OSError:
        content = b""  # PEFT says what is wrong with it
    return hashlib.sha256(content).hexdigest()


def _used(target: Path, settings: str) -> MergedCheckpoint | None:
    """A checkpoint, used from now; None where there is none, or one that is no longer what was
    merged."""
    probe_file = target / _PROBE_FILE
    try:
        with contextlib.suppress(PermissionError):  # another user's, and as good to read
            os.utime(probe_file)
        probed = parse_object(probe_file.read_bytes(), str(probe_file))
        if probed["sha256"] != _sums(target) or probed["adapter_config"] != settings:
            return None
        reference = Reference.of(probed["reference"])
        return MergedCheckpoint(str(target), reference, float(probed["kept"]))
    except (FileNotFoundError, ArtifactError, KeyError, TypeError):
        return None


def _sums(directory: Path) -> dict[str, str]:
    """The sha256 of every file of a checkpoint but the probe's."""
    found = {}
    for path in sorted(directory.iterdir()):
        if path.is_file() and path.name != _PROBE_FILE:
            with path.open("rb") as file:
                found[path.name] = hashlib.file_digest(file, "sha256").hexdigest()
    return found


def _apart(work: Callable[..., Any], base: str, *arguments: object) -> Any:
    """Run ``work`` of a large base, or with a GPU, in a process of its own: its memory is the
    engine's afterwards."""
    import torch

    if not torch.cuda.is_available() and _size(Path(base)) < _LARGE_BYTES:
        return work(base, *arguments)
    import multiprocessing
    from concurrent.futures import ProcessPoolExecutor

    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(work, base, *arguments).result()


def _size(directory: Path) -> float:
    """Bytes of the weights; unknown, and large, for a model of the Hub."""
    if not directory.is_dir():
        return math.inf
    return sum(path.stat().st_size for path in directory.glob("*.safetensors"))


def _proved(
    base: str, revision: str | None, dtype: str, adapter: Path, target: Path
) -> tuple[Reference, float]:
    model, processor = _adapted(base, revision, dtype, adapter)
    return make_reference(model, processor), _merge(model, processor, dtype, target)


def _reference(base: str, revision: str | None, dtype: str, adapter: Path) -> Reference:
    return make_reference(*_adapted(base, revision, dtype, adapter))


def _merged(base: str, revision: str | None, dtype: str, adapter: Path, target: Path) -> float:
    model, processor = _adapted(base, revision, dtype, adapter)
    return _merge(model, processor, dtype, target)


def _adapted(base: str, revision: str | None, dtype: str, adapter: Path) -> tuple[Any, Any]:
    """The base with the adapter beside it, and its processor."""
    import torch
    from peft import PeftModel

    device = "cuda" if torch.cuda.is_available() else "cpu"
    processor = load_processor(base, revision)
    model = load_base_model(base, revision, dtype).to(device)
    try:
        adapted = PeftModel.from_pretrained(model, str(adapter)).eval()
    except Exception as error:  # what a malformed file raises is any error at all
        reason = " ".join(str(error).split())[:200]
        raise ConfigError(f"the adapter {adapter} cannot be loaded: {reason}") from error
    if not all(w.isfinite().all() for name, w in adapted.named_parameters() if ".lora_" in name):
        raise ConfigError(f"the adapter {adapter} has weights that are no finite numbers")
    return adapted, processor


def _merge(model: Any, processor: Any, dtype: str, target: Path) -> float:
    import torch

    merge = _merge_exactly if dtype == "float32" else partial(_merge_rounded, processor=processor)
    with torch.no_grad():
        total = merge(model)
    if total.asked == 0:
        raise AdapterInactiveError("merging the adapter changes nothing: all its updates are 0")
    if not total.share >= MIN_KEPT:
        raise MergeLossError(
            f"merged into {dtype}, the weights keep {total.share:.2f} of the adapter's effect, and "
            f"at least {MIN_KEPT} is needed: set model.dtype=float32, or train further"
        )
    model.unload().save_pretrained(target, safe_serialization=True)
    processor.save_pretrained(target)
    return total.share


def _merge_exactly(model: Any) -> Effect:
    """Add every update as it is; the effect is taken on uncorrelated inputs."""
    import torch

    total = Effect(0.0, 0.0)
    for layer in _lora_layers(model).values():
        weight = layer.base_layer.weight
        update = layer.get_delta_weight("default").float()
        merged = weight.float() + update
        total += effect(weight, merged, update, torch.eye(update.shape[1], device=update.device))
        weight.data = merged.to(weight.dtype)
    return total


def _merge_rounded(model: Any, processor: Any) -> Effect:
    """Round every sum for the inputs that its layer meets. Raises ConfigError for modules that were
    trained whole: what rounding loses of them is not measured."""
    from peft.utils import AuxiliaryTrainingWrapper

    if any(isinstance(module, AuxiliaryTrainingWrapper) for module in model.modules()):
        raise ConfigError("an adapter with modules_to_save is merged in float32 only")
    total = Effect(0.0, 0.0)
    for group in filter(None, _groups(_lora_layers(model))):
        inner = {name: layer.base_layer for name, layer in group.items()}
        with model.disable_adapter():
            moments = input_moments(model, processor, inner)
        for name, layer in group.items():
            total += _round_layer(layer, moments[name])
    return total


def _round_layer(layer: Any, moments: Moments) -> Effect:
    weight = layer.base_layer.weight
    update = layer.get_delta_weight("default").float()
    merged = add_update(weight.data, update, moments.fitted)
    found = effect(weight.data, merged, update, moments.held_out)
    weight.data = merged
    return found


def _lora_layers(model: Any) -> dict[str, Any]:
    """The layers to merge by name. Raises ConfigError where one is more than weight + B A."""
    from peft.tuners.lora import Linear
    from peft.tuners.tuners_utils import BaseTunerLayer

    found = {name: m for name, m in model.named_modules() if isinstance(m, BaseTunerLayer)}
    users = Counter(id(w) for _, w in model.named_parameters(remove_duplicate=False))
    for name, layer in found.items():
        is_plain = isinstance(layer, Linear) and not layer.lora_variant
        if not is_plain or any(layer.lora_bias.values()) or users[id(layer.base_layer.weight)] > 1:
            raise ConfigError(
                f"the adapter cannot be merged: '{name}' is no plain LoRA of a linear layer with "
                "a weight of its own (DoRA, a bias, an embedding, a head tied to one)"
            )
    return found


def _groups(layers: dict[str, Any]) -> list[dict[str, Any]]:
    """Layers whose moments fit into memory together, in the model's order."""
    groups: list[dict[str, Any]] = [{}]
    size = 0
    for name, layer in layers.items():
        needed = 8 * int(layer.base_layer.weight.shape[1]) ** 2
        if groups[-1] and size + needed > _MOMENT_BYTES:
            groups.append({})
            size = 0
        groups[-1][name] = layer
        size += needed
    return groups
