"""A policy as one checkpoint, for servers that know nothing of adapters."""

from dataclasses import dataclass
from pathlib import Path

from raypipe.config import Config
from raypipe.errors import ConfigError
from raypipe.exports.modelcard import model_card
from raypipe.models.licences import CARD
from raypipe.models.policies import check_origin, model_path, policy
from raypipe.sampling.weights import write_merged
from raypipe.storage import whole
from raypipe.store.artifacts import Artifact, Run
from raypipe.store.paths import CATALOG

_CARD_SECTION = """
## Merge

Made in {dtype}: of the adapter's effect on the outputs of the layers that it changes,
{kept:.1%} is kept.
"""


@dataclass(frozen=True)
class Merged:
    """A directory, and the share of the adapter's effect that its weights keep."""

    path: Path
    kept: float


def merge(
    config: Config, run: Run, name: str, target: str | Path, *, dtype: str | None = None
) -> Merged:
    """Write a policy's merged weights with configuration, tokenizer, processor and model card.

    What comes out loads with ``AutoModelForImageTextToText.from_pretrained`` and with plain vLLM,
    and says on its card what rounding to its type lost. It appears whole or not at all.

    Args:
        name: a policy of the run, "best", or the directory of a PEFT adapter.
        target: local directory that is not there yet, or empty.
        dtype: "float32" or "bfloat16"; ``model.dtype`` where None.

    Raises:
        ConfigError: the target holds something, or the policy has no adapter to merge.
        ConfigDriftError: the adapter was made with another base model, LoRA or image size.
        ArtifactError: the policy is not committed.
        AdapterInactiveError: the adapter changes nothing.
        MergeLossError: too little of the adapter's effect survives in this type.
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
    dtype = dtype or model.dtype
    with whole(target) as partial:
        kept = write_merged(model_path(model), model.revision, dtype, adapter, partial)
        (partial / CARD).write_text(
            card.rstrip() + "\n" + _CARD_SECTION.format(dtype=dtype, kept=kept)
        )
    return Merged(target, kept)
