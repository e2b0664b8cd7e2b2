"""Whether the base model is there, and whether it will be the same one tomorrow."""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from raypipe.config import ModelConfig, is_on_hub
from raypipe.config.models import COMMIT_ID
from raypipe.doctor.environment import is_on
from raypipe.doctor.finding import Finding, fail, ok, warn
from raypipe.errors import ConfigError, StorageError
from raypipe.models.families import FAMILIES
from raypipe.models.licences import UNKNOWN, describe, licence
from raypipe.models.object_store import GIB, is_in_store, list_model
from raypipe.models.policies import files_digest, model_path

_WEIGHTS = ("*.safetensors", "*.safetensors.index.json")
IsCached = Callable[[str, str | None], bool]


def is_cached(path: str, revision: str | None) -> bool:
    """Whether the hub's cache of this machine holds a model's configuration."""
    from huggingface_hub import try_to_load_from_cache

    return isinstance(try_to_load_from_cache(path, "config.json", revision=revision), str)


def check_model(
    model: ModelConfig, environment: Mapping[str, str], cached: IsCached
) -> Iterator[Finding]:
    """Args:
    cached: whether a hub id at a revision lies in this machine's cache.
    """
    what = "model.path"
    if is_in_store(model.path):
        yield from _stored(what, model)
        return
    for finding in _found(what, model, environment, cached):
        yield _with_licence(finding, model) if finding.what == what else finding


def _with_licence(finding: Finding, model: ModelConfig) -> Finding:
    """The finding on a model that is there, or will be, and what its family or card says of its
    licence."""
    if finding.verdict == "fail" or model.path.startswith("embedded:"):
        return finding  # the embedded one is of this repository
    found = licence(model)
    told = "unknown, no card of it says one here" if found == UNKNOWN else describe(found)
    return replace(finding, detail=f"{finding.detail}; licence {told}")


def _stored(what: str, model: ModelConfig) -> Iterator[Finding]:
    try:
        listed = list_model(model.path)
    except (ConfigError, StorageError) as error:
        yield fail(what, str(error), "see the address and the credentials", error.exit_code)
        return
    told = f"{model.path} ({len(listed.files)} files, {listed.size / GIB:.1f} GiB)"
    if not listed.directory.is_dir():
        yield warn(what, f"{told}: every node copies it first", "nothing, or run a job once")
        return
    for finding in _local(what, told, listed.directory):
        yield _with_licence(finding, model)
    digest = files_digest(listed.directory)
    if model.revision is None:
        remedy = f"model.revision={digest}"
        yield warn("model.revision", "not set: whatever is at the address is taken", remedy)
    elif model.revision != digest:
        yield fail(
            "model.revision", f"the files' digest is {digest}", "the right address or digest"
        )
    else:
        yield ok("model.revision", digest)


def _found(
    what: str, model: ModelConfig, environment: Mapping[str, str], cached: IsCached
) -> Iterator[Finding]:
    try:
        path = model_path(model)
    except ConfigError as error:
        yield fail(what, str(error), "model.path=embedded:nano")
        return
    directory = Path(path)
    if directory.is_dir():
        yield from _local(what, model.path, directory)
    elif not is_on_hub(path):
        yield fail(what, f"{path} is no directory", "name a checkpoint's directory or a hub id")
    else:
        yield from _hub(what, model, environment, cached)


def _local(what: str, place: str, directory: Path) -> Iterator[Finding]:
    try:
        settings = json.loads((directory / "config.json").read_text())
    except (OSError, ValueError) as error:
        yield fail(what, f"{place} holds no readable config.json: {error}", "a whole checkpoint")
        return
    if not any(any(directory.glob(pattern)) for pattern in _WEIGHTS):
        yield fail(what, f"{place} holds no *.safetensors", "a whole checkpoint, in safetensors")
    elif "auto_map" in settings:
        yield fail(
            what,
            f"{place} brings code of its own (auto_map), which raypipe never runs",
            "a model that transformers and vLLM know",
        )
    else:
        kind = str(settings.get("model_type", "unknown type"))
        step = "" if kind in FAMILIES else ", which needs training.step=stock"
        yield ok(what, f"{place} ({kind}{step})")


def _hub(
    what: str, model: ModelConfig, environment: Mapping[str, str], cached: IsCached
) -> Iterator[Finding]:
    offline = is_on(environment, "HF_HUB_OFFLINE") or is_on(environment, "TRANSFORMERS_OFFLINE")
    if cached(model.path, model.revision):
        yield ok(what, f"{model.path} is in the hub's cache")
    elif offline:
        yield fail(
            what,
            f"{model.path} is not in the hub's cache, and HF_HUB_OFFLINE forbids to fetch it",
            f"hf download {model.path}, or unset HF_HUB_OFFLINE and TRANSFORMERS_OFFLINE",
        )
    else:
        yield warn(
            what,
            f"{model.path} is not in the hub's cache: every node fetches it first",
            f"hf download {model.path}",
        )
    if model.revision is None:
        yield warn(
            "model.revision",
            "not set: the newest is taken, and a run cannot be made again",
            "model.revision= the commit that the hub shows",
        )
    elif not COMMIT_ID.fullmatch(model.revision):
        yield warn(
            "model.revision",
            f"'{model.revision}' is a branch or a tag, which may move",
            "model.revision= the commit's forty digits",
        )
    else:
        yield ok("model.revision", model.revision)
