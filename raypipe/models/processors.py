"""The processor of a base model: what it has to bring, asked before anything is started."""

from collections.abc import Mapping, Sequence
from typing import Any

from raypipe.errors import ConfigError


def load_processor(path: str, revision: str | None) -> Any:
    """The processor of a checkpoint, a directory or a model of the Hub; never code of its own.

    Raises:
        ConfigError: it has none, or one that needs a package that is not installed.
    """
    from transformers import AutoProcessor

    try:
        return AutoProcessor.from_pretrained(path, revision=revision, trust_remote_code=False)
    except Exception as error:  # what a malformed file raises is any error at all
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        raise ConfigError(f"model.path={path}: its processor cannot be loaded: {reason}") from error


def check_processor(processor: Any, path: str, turns: Sequence[Mapping[str, Any]]) -> None:
    """Refuse a processor without images or chat template, or whose template loses part of a prompt.

    Args:
        path: of the model, for messages.
        turns: a conversation with images, as chat templates take it.

    Raises:
        ConfigError: names the model and what it lacks.
    """
    from jinja2 import TemplateError

    tokenizer = getattr(processor, "tokenizer", None)
    if getattr(processor, "image_processor", None) is None or tokenizer is None:
        raise ConfigError(f"model.path={path} has no image processor: it reads no images")
    if not tokenizer.chat_template:
        raise ConfigError(
            f"model.path={path} has no chat template (chat_template.jinja): take a model that "
            "follows instructions"
        )
    try:
        text = tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
    except TemplateError as error:
        raise ConfigError(
            f"model.path={path}: its chat template does not take system turn and images: {error}"
        ) from error
    parts = [(turn["role"], part) for turn in turns for part in turn["content"]]
    shown = {"image": getattr(processor, "image_token", "")}
    lost = [
        f"the {role}'s {part['type']}"
        for role, part in parts
        if (part.get("text") or shown[part["type"]]) not in text
    ]
    if lost:
        raise ConfigError(f"model.path={path}: its chat template leaves out {' and '.join(lost)}")
