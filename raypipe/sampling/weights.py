"""Merge an adapter into the base weights, once per policy and machine.

On the CPU an engine with a LoRA beside the weights is much slower than one with merged weights
(``docs/decisions/merged-weights.md``); in float32 the merge is exact.
"""

import contextlib
import hashlib
import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raypipe import storage
from raypipe.errors import ArtifactError, StorageError
from raypipe.sampling import probe
from raypipe.store.documents import parse_object

_PROBE_FILE = "raypipe_probe.json"


@dataclass(frozen=True)
class MergedCheckpoint:
    """A checkpoint directory and the probe's per-token log-probabilities before and after."""

    path: str
    base_logprobs: tuple[float, ...]
    policy_logprobs: tuple[float, ...]


def merged_checkpoint(
    base: str, revision: str | None, dtype: str, adapter: Path, policy_id: str
) -> MergedCheckpoint:
    """The base model with the adapter merged in, as a directory that vLLM loads.

    The directory is named by the policy's id, so that no policy ever finds another's weights; it
    appears whole or not at all, also when several engines of a machine ask for it at once, and is
    made again when a file of it is no longer what was merged. Every use makes its probe young
    again, so that ``raypipe gc`` of any run knows what is in use.

    Raises:
        StorageError: it cannot be written.
    """
    target = Path.home() / ".cache" / "raypipe" / "merged" / policy_id
    values = _used(target)
    if values is None:
        shutil.rmtree(target, ignore_errors=True)
        with storage.whole(target, replace=False) as partial:
            before, after = write_merged(base, revision, dtype, adapter, partial)
            probed = {"base": before, "policy": after, "sha256": _sums(partial)}
            (partial / _PROBE_FILE).write_text(json.dumps(probed))
        values = _used(target)
    if values is None:
        raise StorageError(f"{target} changes while it is used: its merged weights are not whole")
    return MergedCheckpoint(str(target), tuple(values["base"]), tuple(values["policy"]))


def _used(target: Path) -> dict[str, Any] | None:
    """What the probe of a checkpoint found, which is used from now; None where there is none, or
    where a file of it is no longer what was merged."""
    probe_file = target / _PROBE_FILE
    try:
        with contextlib.suppress(PermissionError):  # another user's, and as good to read
            os.utime(probe_file)
        probed = parse_object(probe_file.read_bytes(), str(probe_file))
        return probed if probed.get("sha256") == _sums(target) else None
    except (FileNotFoundError, ArtifactError):
        return None


def _sums(directory: Path) -> dict[str, str]:
    """The sha256 of every file of a checkpoint but the probe's."""
    found = {}
    for path in sorted(directory.iterdir()):
        if path.is_file() and path.name != _PROBE_FILE:
            with path.open("rb") as file:
                found[path.name] = hashlib.file_digest(file, "sha256").hexdigest()
    return found


def write_merged(
    base: str, revision: str | None, dtype: str, adapter: Path, target: Path
) -> tuple[list[float], list[float]]:
    """Write a checkpoint of the base model with the adapter merged in.

    Returns:
        The probe's per-token log-probabilities (nats) before and after.
    """
    import torch
    from peft import PeftModel
    from transformers import AutoModelForImageTextToText, AutoProcessor

    processor = AutoProcessor.from_pretrained(base, revision=revision)
    model = AutoModelForImageTextToText.from_pretrained(
        base,
        revision=revision,
        dtype=getattr(torch, dtype),
        use_safetensors=True,
        trust_remote_code=False,
    )
    token_ids = torch.tensor([processor.tokenizer(probe.TEXT)["input_ids"]])
    before = _logprobs(model, token_ids)
    merged = PeftModel.from_pretrained(model, str(adapter)).merge_and_unload()
    after = _logprobs(merged, token_ids)
    merged.save_pretrained(target, safe_serialization=True)
    processor.save_pretrained(target)
    return before, after


def _logprobs(model: Any, token_ids: Any) -> list[float]:
    """Log-probability of each token of the text but the first, in nats."""
    import torch

    with torch.no_grad():
        logits = model(input_ids=token_ids).logits[0, :-1].float()
    chosen = logits.log_softmax(-1).gather(-1, token_ids[0, 1:, None])
    return [float(value) for value in chosen[:, 0]]
