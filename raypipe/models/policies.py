"""A policy: the base model and, unless it is the base itself, a LoRA adapter on it.

Sampler and trainer agree here on what "the policy before round 1" is, so that a policy's id, which
depends on the bytes of both parts, names the same weights everywhere.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raypipe.config import Config, ModelConfig, flatten
from raypipe.errors import ConfigDriftError, ConfigError, InputError
from raypipe.models.object_store import fetched, is_in_store
from raypipe.store.artifacts import Artifact, Run
from raypipe.store.manifest import differing_keys, plain_fingerprint
from raypipe.store.paths import Paths
from raypipe.summaries import Summary

BEST = "best"
PRETRAINED = "pretrained"
SFT = "sft"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
_WHOLE_FILE_BYTES = 64 << 20
_FILES = "model.files"


def round_name(round_index: int) -> str:
    """The scope of a round and the name of the policy that it makes."""
    return Paths.of_round(round_index)


def model_path(model: ModelConfig) -> str:
    """Where transformers and vLLM load the base model from.

    A model in an object store is copied to this machine first, where it is not there yet.

    Raises:
        ConfigError: an unknown embedded model, a directory whose weights are pickles, or a model of
            an object store that is not what model.revision says.
        StorageError: an object store is out of reach.
    """
    if is_in_store(model.path):
        return str(_stored(model))
    if not model.path.startswith("embedded:"):
        _check_weights("model.path", Path(model.path), "pytorch_model*.bin")
        return model.path
    name = model.path.removeprefix("embedded:")
    directory = Path(__file__).parents[1] / "embedded" / name
    if not (directory / "config.json").exists():
        raise ConfigError(f"model.path: there is no embedded model '{name}'")
    return str(directory)


def _stored(model: ModelConfig) -> Path:
    directory = fetched(model.path)
    if model.revision is not None and (found := files_digest(directory)) != model.revision:
        raise ConfigError(
            f"model.path={model.path} is another model than model.revision={model.revision}: the "
            f"digest of its files is {found}"
        )
    return directory


def _check_weights(what: str, directory: Path, pickles: str) -> None:
    """Refuse weights that could only be unpickled."""
    if directory.is_dir() and not any(directory.glob("*.safetensors")):
        found = sorted(path.name for path in directory.glob(pickles))
        if found:
            raise ConfigError(
                f"{what}: {directory} holds {found[0]} and no *.safetensors; a pickle is never "
                "loaded: save the weights as safetensors"
            )


def model_identity(model: ModelConfig) -> dict[str, Any]:
    """What tells two base models apart, for fingerprints.

    A local checkpoint is identified by the bytes of its files (of large ones the size and the
    first 64 MiB), a Hugging Face model by its id and revision.
    """
    identity: dict[str, Any] = flatten(model.outcome_keys(), "model.")
    directory = Path(model_path(model))
    if directory.is_dir():
        identity[_FILES] = files_digest(directory)
    return identity


def files_digest(directory: Path) -> str:
    """Thirty-two hex digits that depend on the names, sizes and beginnings of a checkpoint's files:
    of an object store's model this is its revision."""
    digest = hashlib.sha256()
    for path in sorted(directory.iterdir()):
        if path.is_file():
            digest.update(f"{path.name}\0{path.stat().st_size}\0".encode())
            with path.open("rb") as file:
                digest.update(file.read(_WHOLE_FILE_BYTES))
    return digest.hexdigest()[:32]


def check_origin(config: Config, run: Run, *names: str) -> None:
    """Refuse a configuration that says another base model, LoRA or form of images than artifacts
    were made with: what is told of them from it would not be so.

    A local checkpoint is known by its files, wherever they lie by now.

    Args:
        names: of artifacts; one that is not committed, and keys that its fingerprint does not know,
            are passed over.

    Raises:
        ConfigDriftError: names the keys.
    """
    asked = plain_fingerprint(config.fingerprint_keys("export") | model_identity(config.model))
    for made in map(run.artifact, names):
        commit = made.commit()
        before = commit.fingerprint if commit is not None else {}
        told = {key: before[key] for key in before if key in asked or key == _FILES}
        if told.get(_FILES) is not None and told[_FILES] == asked.get(_FILES):
            told["model.path"] = asked["model.path"]
        lines = differing_keys(told, {key: asked[key] for key in asked if key in told})
        if lines:
            raise ConfigDriftError(
                f"{made.name} was made with other settings than these:\n  "
                + "\n  ".join(lines)
                + "\nName the configuration that the run was made with (--config …)."
            )


@dataclass(frozen=True)
class Policy:
    """One policy; ``adapter`` is an artifact of the run, a PEFT directory from elsewhere, or None
    for a whole model: the base itself, or a checkpoint from elsewhere."""

    name: str
    model: ModelConfig
    adapter: Artifact | Path | None = None

    @property
    def policy_id(self) -> str:
        """Sixteen hex digits that depend on the base model and the adapter's weights."""
        digest = hashlib.sha256(repr(sorted(model_identity(self.model).items())).encode())
        if isinstance(self.adapter, Path):
            weights = (self.adapter / ADAPTER_WEIGHTS).read_bytes()
            digest.update(hashlib.sha256(weights).hexdigest().encode())
        elif self.adapter is not None:
            commit = self.adapter.require_commit()
            files = [file for file in commit.files if file.path.endswith(ADAPTER_WEIGHTS)]
            digest.update(files[0].sha256.encode())
        return digest.hexdigest()[:16]

    def adapter_directory(self) -> Path | None:
        """A local PEFT directory, or None for the base model."""
        if isinstance(self.adapter, Artifact):
            return self.adapter.local_directory()
        return self.adapter


def policy(run: Run, model: ModelConfig, name: str) -> Policy:
    """A policy by its name in a run, or by the directory of a PEFT adapter or a whole checkpoint.

    A policy of the run must be committed unless it is the base model.

    Args:
        run: whose policies are meant.
        model: the base model.
        name: "best" is what the run's rounds ended with.

    Raises:
        InputError: "best" of a run that has no summary yet.
        ArtifactError: its summary cannot be read.
        ConfigError: a path that holds neither an adapter nor a checkpoint, or pickles.
    """
    if name == BEST:
        name = _best(run)
    if name == PRETRAINED:
        return Policy(name, model)
    adapter = run.artifact(Paths(name).adapter)
    if adapter.commit() is not None:
        return Policy(name, model, adapter)
    directory = Path(name).resolve()
    _check_weights("the policy", directory, "*.bin")
    if (directory / ADAPTER_WEIGHTS).is_file():
        return Policy(directory.name, model, directory)
    if (directory / "config.json").is_file():
        whole = model.model_copy(update={"path": str(directory), "revision": None})
        return Policy(directory.name, whole)
    if "/" in name:
        raise ConfigError(
            f"the policy '{name}' is no directory with {ADAPTER_WEIGHTS} or config.json"
        )
    return Policy(name, model, adapter)


def _best(run: Run) -> str:
    summary = Summary.find(run)
    if summary is None:
        raise InputError(
            f"{run.location} has no summary.json yet, so the policy 'best' says nothing: finish a "
            "round first, or name a policy (pretrained, sft, an adapter's directory)"
        )
    return summary.best
