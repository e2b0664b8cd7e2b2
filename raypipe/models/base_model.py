"""The base model that a configuration names: whether it is there, asked before anything is started,
and its weights."""

import contextlib
from pathlib import Path
from typing import Any

from raypipe.config import ModelConfig, is_on_hub
from raypipe.errors import ConfigError, StorageError
from raypipe.models.licences import CARD
from raypipe.models.policies import model_path
from raypipe.security.textfiles import MalformedError, parse_json


def check_base_model(model: ModelConfig) -> None:
    """Find the model's configuration: in its directory, in the hub's cache, or on the hub.

    Raises:
        ConfigError: a directory that holds no model, an id or a revision that the hub does not
            know or does not give to this user, or one that is not in the cache while the hub must
            not be asked.
        StorageError: the hub, or an object store, is out of reach.
    """
    path = model_path(model)
    directory = Path(path)
    if directory.is_dir():
        _check_settings(f"model.path={model.path}", directory / "config.json")
    elif not is_on_hub(path):
        raise ConfigError(f"model.path={model.path} is no directory, and no model id of the hub")
    else:
        _check_settings(f"model.path={model.path}", _on_hub(model))


def _check_settings(what: str, file: Path) -> None:
    try:
        settings: Any = parse_json(file.read_bytes())
    except (OSError, MalformedError) as error:
        raise ConfigError(f"{what} is no model: its config.json is unreadable ({error})") from error
    if not isinstance(settings, dict) or not isinstance(settings.get("model_type"), str):
        raise ConfigError(f"{what} is no model: its config.json names no model_type")


def _on_hub(model: ModelConfig) -> Path:
    """Its config.json in this machine's cache, fetched where it is not there yet."""
    import httpx
    from huggingface_hub import errors, hf_hub_download, try_to_load_from_cache

    what = f"model.path={model.path}"
    if model.revision is not None:
        what += f" at model.revision={model.revision}"
    try:
        cached = try_to_load_from_cache(model.path, "config.json", revision=model.revision)
        if isinstance(cached, str):
            return Path(cached)
        settings = Path(hf_hub_download(model.path, "config.json", revision=model.revision))
        with contextlib.suppress(errors.EntryNotFoundError, httpx.HTTPError):
            # For the licence that doctor and model cards tell.
            hf_hub_download(model.path, CARD, revision=model.revision)
        return settings
    except errors.GatedRepoError as error:
        raise ConfigError(
            f"{what} is gated: ask for access on its page, and set HF_TOKEN or run 'hf auth login'"
        ) from error
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError) as error:
        raise ConfigError(
            f"{what} is not on the hub, or not for this user: look at the spelling, and at HF_TOKEN"
            " where it is a private one"
        ) from error
    except (
        errors.OfflineModeIsEnabled,
        errors.LocalEntryNotFoundError,
        httpx.HTTPError,
        OSError,
    ) as error:
        raise _out_of_reach(what, error) from error
    except errors.EntryNotFoundError as error:
        raise ConfigError(f"{what} has no config.json on the hub: it is no model") from error
    except errors.HFValidationError as error:
        raise ConfigError(f"{what} is no directory, and no model id of the hub") from error


def _out_of_reach(what: str, error: BaseException) -> ConfigError | StorageError:
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return ConfigError(
            f"{what} is not in the hub's cache, and HF_HUB_OFFLINE forbids to fetch it: "
            f"'hf download', or unset HF_HUB_OFFLINE"
        )
    return StorageError(
        f"{what} is not in the hub's cache, and the hub is out of reach: "
        f"{(str(error).strip().splitlines() or [type(error).__name__])[0][:200]}"
    )


def load_base_model(path: str, revision: str | None, dtype: str) -> Any:
    """A checkpoint as transformers loads it: from safetensors, and never with code of its own.

    Args:
        dtype: name of a torch type that the weights get.
    """
    import torch
    from transformers import AutoModelForImageTextToText

    return AutoModelForImageTextToText.from_pretrained(
        path,
        revision=revision,
        dtype=getattr(torch, dtype),
        use_safetensors=True,
        trust_remote_code=False,
    )
