"""The licence of a base model: what its family says, or its own card."""

from pathlib import Path
from typing import Any

import yaml

from raypipe.config import ModelConfig, is_on_hub
from raypipe.errors import ConfigError, StorageError
from raypipe.models.families import LICENCES
from raypipe.models.object_store import is_in_store, list_model
from raypipe.models.policies import model_path

CARD = "README.md"
UNKNOWN = {"license": "unknown"}
_KEYS = ("license", "license_name", "license_link")
_MOST_BYTES = 1 << 20


def licence(model: ModelConfig) -> dict[str, str]:
    """The base model's licence in the keys of the Hub's front matter; ``UNKNOWN`` where neither
    the families nor a card on this machine say it. Nothing is fetched."""
    if model.path in LICENCES:
        return dict(LICENCES[model.path])
    card = _card(model)
    if card is None:
        return UNKNOWN
    front = _front_matter(card[:_MOST_BYTES].decode(errors="replace"))
    own = {
        key: value
        for key, value in front.items()
        if key in _KEYS and isinstance(value, str) and value.strip()
    }
    return own if "license" in own else UNKNOWN


def describe(found: dict[str, str]) -> str:
    """A licence in a line: its name, and where its text is."""
    name = found.get("license_name", found["license"])
    return f"{name} ({found['license_link']})" if "license_link" in found else name


def _card(model: ModelConfig) -> bytes | None:
    """The README of a model's directory, of this machine's copy, or of the hub's cache."""
    if is_on_hub(model.path):
        from huggingface_hub import try_to_load_from_cache

        cached = try_to_load_from_cache(model.path, CARD, revision=model.revision)
        card = Path(cached) if isinstance(cached, str) else None
    else:
        try:
            card = (_copy_of(model.path) or Path(model_path(model))) / CARD
        except (ConfigError, StorageError):
            return None
    return card.read_bytes() if card is not None and card.is_file() else None


def _copy_of(path: str) -> Path | None:
    return list_model(path).directory if is_in_store(path) else None


def _front_matter(card: str) -> dict[str, Any]:
    """A card's YAML front matter; empty where there is none."""
    front, end, _ = card.removeprefix("---\n").partition("\n---")
    if not card.startswith("---\n") or not end:
        return {}
    try:
        found = yaml.safe_load(front)
    except yaml.YAMLError:
        return {}
    return found if isinstance(found, dict) else {}
