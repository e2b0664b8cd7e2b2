"""A policy as one checkpoint, for servers that know nothing of adapters."""

from pathlib import Path

from raypipe.config import Config
from raypipe.errors import AdapterInactiveError, ConfigError
from raypipe.exports.modelcard import model_card
from raypipe.models.licences import CARD
from raypipe.models.policies import check_origin, model_path, policy
from raypipe.sampling import probe
from raypipe.sampling.weights import write_merged
from raypipe.storage import whole
from raypipe.store.artifacts import Artifact, Run
from raypipe.store.paths import CATALOG


def merge(config: Config, run: Run, name: str, target: str | Path) -> Path:
    """Write a policy's merged weights with configuration, tokenizer, processor and model card.

    What comes out loads with ``AutoModelForImageTextToText.from_pretrained`` and with plain vLLM,
    in ``model.dtype``. It appears whole or not at all.

    Args:
        name: a policy of the run, "best", or the directory of a PEFT adapter.
        target: local directory that is not there yet, or empty.

    Raises:
        ConfigError: the target holds something, or the policy has no adapter to merge.
        ConfigDriftError: the adapter was made with another base model, LoRA or image size.
        ArtifactError: the policy is not committed.
        AdapterInactiveError: the adapter changes nothing.
    """
    target = Path(target)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ConfigError(f"{target} is not empty: name another --target, or delete it")
    chosen = policy(run, config.model, name)
    adapter = chosen.adapter_directory()
    if adapter is None:
        raise ConfigError(f"the policy '{name}' has no adapter: serve {chosen.model.path} itself")
    if isinstance(chosen.adapter, Artifact):
        check_origin(config, run, CATALOG.listings, chosen.adapter.name)
    card = model_card(config, run, chosen, "merged")  # first: what is wrong with it costs no merge
    model = config.model
    with whole(target) as partial:
        before, after = write_merged(
            model_path(model), model.revision, model.dtype, adapter, partial
        )
        if probe.distance(before, after) == 0:
            raise AdapterInactiveError(f"merging '{name}' changes nothing: all its updates are 0")
        (partial / CARD).write_text(card)
    return target
