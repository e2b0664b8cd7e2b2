"""An adapter as others take it: PEFT's files with a model card, ready for the Hub."""

import json
import shutil
from pathlib import Path

from raypipe.config import Config
from raypipe.exports.modelcard import model_card
from raypipe.models.licences import CARD
from raypipe.models.policies import Policy, check_origin
from raypipe.storage import whole
from raypipe.store.artifacts import Run
from raypipe.store.checksums import plain_name
from raypipe.store.documents import parse_object
from raypipe.store.paths import CATALOG, Paths

_PEFT_CONFIG = "adapter_config.json"


def export_adapter(config: Config, run: Run, name: str, directory: str | Path) -> Path:
    """Write ``<name>/adapter`` with a model card, in place of an earlier export.

    ``adapter_config.json`` names the base model as the configuration does, not by the directory
    that it was loaded from.

    Args:
        name: of a policy of the run.
        directory: local directory that is made.

    Raises:
        ArtifactError: the adapter is not committed.
        ConfigDriftError: it was made with another base model, LoRA or image size than configured.
    """
    made = run.artifact(Paths(name).adapter)
    policy = Policy(name, config.model, made)
    check_origin(config, run, CATALOG.listings, Paths(name).adapter)
    source = policy.adapter_directory()
    assert source is not None
    target = Path(directory)
    card = model_card(config, run, policy, "adapter")
    with whole(target) as partial:
        for file in map(plain_name, made.files("files")):  # what else lies there is nobody's
            (partial / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source / file, partial / file)
        adapter = parse_object((partial / _PEFT_CONFIG).read_bytes(), str(source / _PEFT_CONFIG))
        adapter |= {
            "base_model_name_or_path": config.model.path,
            "revision": config.model.revision,
        }
        (partial / _PEFT_CONFIG).write_text(json.dumps(adapter, indent=2, sort_keys=True))
        (partial / CARD).write_text(card)
    return target
