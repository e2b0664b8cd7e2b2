"""The base model, and which one of the Hugging Face Hub it is."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from raypipe.config.section import RESOURCE, Section, Stage, changes

AnswerFormat = Literal["reasoning", "answer_only"]

COMMIT_ID = re.compile(r"[0-9a-f]{40}")
_ENGINE_AND_TRAINER: tuple[Stage, ...] = (
    "greedy",
    "sampling",
    "sft",
    "training",
    "reference",
    "export",
)
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?")


class ModelConfig(Section):
    stages = _ENGINE_AND_TRAINER
    path: str = "embedded:nano"
    """Base model: 'embedded:nano', a local checkpoint directory, a Hugging Face model id, or the
    address of a checkpoint in an object store (s3://, gs://, abfs://), which each machine copies
    once."""
    revision: str | None = None
    """Commit of the Hugging Face model, forty hex digits; None for a local one. A branch or a tag
    may move, and is refused unless allow_unpinned says so. Of an object store's model the digest
    of its files, thirty-two hex digits, which 'raypipe doctor' prints; None takes what is there."""
    allow_unpinned: bool = Field(False, json_schema_extra=RESOURCE)
    """Take Hugging Face models without a commit, as they are when they are loaded: then the run
    cannot be made again, and whoever may write to the model changes it."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Type of the frozen base weights; adapters are always trained in float32."""
    answer_format: AnswerFormat = Field(
        "reasoning",
        json_schema_extra=changes(
            *_ENGINE_AND_TRAINER, "endpoint", "consensus", "evaluation", "annotation"
        ),
    )
    """Reasoning and answer, or the answer alone (paper §3.1.1): template, targets and parser."""


def is_on_hub(path: str) -> bool:
    """Whether a model is of the Hugging Face Hub: no embedded one, no path, no directory here."""
    return _HUB_ID.fullmatch(path) is not None and not Path(path).is_dir()


def split_backbone(text: str) -> tuple[str, str | None]:
    """Path and commit of a model written as ``path@commit``; a path alone has no commit."""
    path, _, commit = text.rpartition("@")
    return (path, commit) if COMMIT_ID.fullmatch(commit) else (text, None)


def unpinned(
    model: ModelConfig, backbones: tuple[str, ...], engine: Mapping[str, Any]
) -> Iterator[str]:
    """A line for every model of the Hub that is named without a commit.

    Args:
        backbones: further models (``sweep.backbones``).
        engine: arguments of vLLM's engine (``sampling.engine``).
    """
    remedy = "or model.allow_unpinned=true takes whatever is there"
    if _moves(model.path, model.revision):
        yield (
            f"model.path: '{model.path}' is no directory here, so it is a model of the Hugging "
            f"Face Hub, and model.revision is no commit: set the forty hex digits that the hub "
            f"shows, {remedy}"
        )
    for backbone in backbones:
        if _moves(*split_backbone(backbone)):
            yield f"sweep.backbones: '{backbone}' lacks its commit: {backbone}@<commit>, {remedy}"
    for key, place, revision in _beside(engine, "sampling.engine"):
        if _moves(place, revision):
            yield f"{key}: '{place}' lacks its commit: set revision beside it, {remedy}"


def _moves(path: str, revision: object) -> bool:
    return is_on_hub(path) and not COMMIT_ID.fullmatch(str(revision))


def _beside(engine: Mapping[str, Any], key: str) -> Iterator[tuple[str, str, object]]:
    """Models within the engine's arguments, such as a draft model, with their revisions."""
    for name, value in engine.items():
        if isinstance(value, Mapping):
            yield from _beside(value, f"{key}.{name}")
        elif name in ("model", "spec_model") and isinstance(value, str):
            yield f"{key}.{name}", value, engine.get("revision")
