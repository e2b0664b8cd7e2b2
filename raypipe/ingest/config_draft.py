"""A first configuration with a comment on every key.

What a key means is taken from its own docstring in :mod:`raypipe.config`; why it is set as it is
from here; the values for the machine, from the shipped configurations.
"""

import re
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from raypipe.config import CONFIGS, Config, ModelConfig, Section
from raypipe.ingest.hosts import Server, doubted, proposed
from raypipe.models.licences import describe, licence

NANO, GPU = "local.yaml", "qwen2.5-vl-3b.yaml"
MAX_HOSTS = 10
_WIDTH = 96
_HOSTS = re.compile(" +#?hosts:")
# Keys that stand in the file, commented out, at their default.
_OFFERED: dict[str, tuple[str, ...]] = {
    "run": ("seed",),
    "model": ("revision", "answer_format"),
    "catalog": ("anchor_share", "max_listings", "image_size", "max_images", "broken_images",
                "max_quarantined"),
    "catalog.fetch": ("schemes", "hosts"),
    "sft": ("epochs", "learning_rate"),
    "sampling": ("num_chains", "temperature"),
    "consensus": ("threshold",),
    "training": ("learning_rate", "beta", "label_smoothing"),
    "rounds": ("num_rounds", "max_anchor_drop", "pool_slices"),
    "labeling": ("mode", "precision", "num_reviews"),
    "annotation": ("endpoint", "endpoint_model", "listings_per_vertical", "max_cost"),
    "rates": ("engine_hour", "million_prompt_tokens", "million_answer_tokens"),
    "cluster": ("num_train_workers", "tokens_per_pack"),
}  # fmt: skip
_NANO_MODEL = """\
FOR TRYING THE PIPELINE ONLY. This nano model of a few megabytes ships with raypipe, runs on two
CPU cores and KNOWS NOTHING OF YOUR GOODS: it has seen drawings, never a photo. Expect wrong
values. On a machine with a GPU run 'raypipe init' again (--gpus 1 --force): your catalog.yaml and
schema.yaml are kept beside the new ones as catalog.yaml.bak and schema.yaml.bak, and
'mv schema.yaml.bak schema.yaml' takes your questions back. Or take over the settings of
jobs/configs/qwen2.5-vl-3b.yaml."""
_WHY = {
    "run.name": "Named after this directory; its run is runs/<name>. Another name is another run.",
    "run.directory": "Where runs are written; for a cluster an address such as s3://bucket/runs.",
    "catalog.listings": "Your listings.",
    "catalog.attribute_schema": "Your questions. Read it and edit it before anything is trained.",
    "catalog.seed": "Annotated listings, about ten of each vertical: 'raypipe annotate' or "
    "'raypipe init --seed seed.csv' puts them there.",
    "catalog.truth": "Listings whose values a person verified; they judge every policy and are "
    "never trained on: 'raypipe init --truth verified.csv' puts them there.",
    "catalog.image_roots": "Where the photos are that your listings name.",
    "catalog.fetch.schemes": "Found in your listings.",
    "catalog.fetch.hosts": "Found in your listings. Strike out those that you do not trust: "
    "nothing else is asked for an image.",
    "catalog.max_listings": "The paper's pool: rounds gain little from more unlabeled listings.",
    "labeling.listings": "The whole catalog, the listings beyond catalog.max_listings included; "
    "labeling again labels what has changed.",
    f"{NANO}:model.path": _NANO_MODEL,
    f"{NANO}:model.dtype": "The nano's own; CPUs are slow in bfloat16.",
    f"{NANO}:catalog.image_size": "The side that the nano was made for: 16 tokens an image.",
    f"{NANO}:sft.learning_rate": "The nano's; large models take the default.",
    f"{NANO}:sampling.max_tokens": "The nano's answers are short.",
    f"{NANO}:sampling.environment": "vLLM on a laptop: 2 GB for its cache, both cores, no process "
    "beside the engine's.",
    f"{NANO}:sampling.engine_in_actor": "Two cores are too few for processes beside it.",
    f"{NANO}:sampling.engine": "vLLM's arguments for a nano on a CPU: no compilation, small blocks "
    "for prefix reuse, no chunked prefill (it cannot rewind a seeded request's generator).",
    f"{NANO}:training.learning_rate": "The nano's; large models take the default.",
    f"{NANO}:training.batch_size": "Small, so that a small pool still makes several steps.",
    f"{NANO}:cluster.micro_batch_size": "Fits into a laptop's memory.",
    f"{NANO}:cluster.tokens_per_pack": "Fits into a laptop's memory.",
    f"{NANO}:cluster.gradient_checkpointing": "The nano's activations fit; recomputing them would "
    "take time.",
    f"{GPU}:model.path": "The paper's model, for GPUs with 40 GB or more; with 24 GB take path and "
    "revision of jobs/configs/qwen2-vl-2b.yaml.",
    f"{GPU}:model.revision": "The commit that was tried; what the hub shows later may differ.",
    f"{GPU}:model.dtype": "Half the memory of float32; GPUs are made for it.",
    f"{GPU}:catalog.image_size": "The paper's: 64 tokens an image.",
    f"{GPU}:sampling.num_actors": "One engine for each GPU.",
    f"{GPU}:sampling.gpus_per_actor": "The model fits on one GPU.",
    f"{GPU}:sampling.listings_per_call": "Large calls keep a GPU's queue full.",
    f"{GPU}:sampling.engine": "vLLM's arguments: room for five images, the question and a chain; "
    "nearly all of the GPU.",
    f"{GPU}:rounds.num_rounds": "The paper's.",
    f"{GPU}:cluster.num_train_workers": "One for each GPU.",
    f"{GPU}:cluster.use_gpu": "Training needs them too.",
    f"{GPU}:cluster.micro_batch_size": "Of training.step=stock alone.",
}
_HEAD = """\
# The configuration of your catalog, made by 'raypipe init'. Give it to every command:
#     raypipe round --config catalog.yaml
# Every key may also be set on the command line (rounds.num_rounds=1). Paths are relative to the
# directory in which a command is started.
#
# A line that begins with '#' and no space is a key at its default: take the '#' away to set it,
# and that of the section above it if there is one. What comments call None is null here.
"""


@dataclass(frozen=True)
class Place:
    """What the configuration is for: where the listings are, on how many GPUs, who serves images,
    most first, and below which other directories they lie."""

    name: str
    listings: str
    gpus: int
    hosts: tuple[Server, ...] = ()
    image_roots: tuple[str, ...] = ()


def draft_config(place: Place) -> str:
    """The text of a configuration that :func:`raypipe.config.load` reads."""
    base = GPU if place.gpus else NANO
    lines = [_HEAD.rstrip(), *_section(Config, _values(place, base), base, "", 0)]
    hosts = next(number for number, line in enumerate(lines, 1) if _HOSTS.match(line))
    lines[hosts:hosts] = _refused(place.hosts)
    return "\n".join(lines) + "\n"


def drafted_model(*, gpus: int) -> ModelConfig:
    """The base model that a drafted configuration names."""
    values = yaml.safe_load((CONFIGS / (GPU if gpus else NANO)).read_text())
    return ModelConfig.model_validate(values["model"])


def run_name(directory: str) -> str:
    """A run's name after a directory's."""
    word = re.sub(r"[^a-z0-9._-]+", "-", directory.lower()).strip("-._")[:64]
    return word or "catalog"


def _values(place: Place, base: str) -> dict[str, Any]:
    values: dict[str, Any] = yaml.safe_load((CONFIGS / base).read_text())
    values.pop("sweep", None)
    values["run"] = {"name": place.name, "directory": "runs"}
    catalog = values["catalog"]
    catalog.pop("embedded", None)
    catalog |= {
        "listings": place.listings,
        "attribute_schema": "schema.yaml",
        "seed": "seed/",
        "truth": "truth/",
    }
    if place.image_roots:
        catalog["image_roots"] = list(place.image_roots)
    hosts = proposed(place.hosts)
    if 0 < len(hosts) <= MAX_HOSTS:
        catalog["fetch"] = {"schemes": ["https"], "hosts": list(hosts)}
    values["labeling"] = {"listings": place.listings}
    if place.gpus:
        values["sampling"]["num_actors"] = place.gpus
        values["cluster"]["num_train_workers"] = place.gpus
    return values


def _refused(servers: tuple[Server, ...]) -> Iterator[str]:
    """Comments on the servers that are not proposed."""
    others = doubted(servers)
    if others:
        yield from _comment(
            "Found too and not proposed. If you trust one, add it to hosts and its scheme to "
            "schemes:",
            "    ",
        )
        yield from (f"    #   - {name}  # {reason}" for name, reason in others[:MAX_HOSTS])
    if len(others) > MAX_HOSTS:
        yield f"    #   and {len(others) - MAX_HOSTS} more"


def _section(
    section: type[Section], values: Mapping[str, Any], base: str, prefix: str, depth: int
) -> Iterator[str]:
    indent = "  " * depth
    for name, field in section.model_fields.items():
        key = f"{prefix}{name}"
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, Section):
            inner = values.get(name)
            lines = list(_section(kind, inner or {}, base, f"{key}.", depth + 1))
            if not lines:
                continue
            if depth == 0:
                yield ""
            yield f"{indent}{name}:" if inner else f"{indent}#{name}:"
            yield from lines
        elif name in values:
            why = _WHY.get(f"{base}:{key}") or _WHY.get(key) or field.description or ""
            if key == "model.path" and base == GPU:
                why += f" Licence: {describe(licence(drafted_model(gpus=1)))}."
            yield from _comment(why, indent)
            yield from (f"{indent}{line}" for line in _dumped(name, values[name]))
        elif name in _OFFERED.get(prefix.rstrip("."), ()):
            yield from _comment(field.description or "", indent)
            default = field.get_default(call_default_factory=True)
            yield from (f"{indent}#{line}" for line in _dumped(name, default))


def _comment(text: str, indent: str) -> list[str]:
    plain = " ".join(text.split())
    return textwrap.wrap(
        plain, _WIDTH, initial_indent=f"{indent}# ", subsequent_indent=f"{indent}# "
    )


def _dumped(name: str, value: Any) -> list[str]:
    plain = list(value) if isinstance(value, tuple) else value
    text: str = yaml.safe_dump(
        {name: plain},
        sort_keys=False,
        allow_unicode=True,
        width=1 << 30,
        default_flow_style=None if isinstance(plain, list) else False,
    )
    return text.rstrip("\n").splitlines()
