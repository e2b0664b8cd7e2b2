"""The configuration: YAML, typed, frozen, with dotted overrides from the command line.

Precedence: field defaults < the YAML file < ``section.key=value`` on the command line. An unknown
key is an error that names the nearest known one.

Each key names the stages whose outcome it changes (``section.py``): ``Config.fingerprint_keys``
gives a stage its keys. Keys marked as a resource say how fast or where a run goes, never what comes
out of it: they are in no fingerprint, so that a run may be resumed on another machine.
"""

import difflib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

from pydantic import Field, ValidationError, model_validator

from raypipe.config import credentials, models
from raypipe.config.catalog import CatalogConfig, EmbeddedCatalogConfig, FetchConfig
from raypipe.config.jobs import (
    AnnotationConfig,
    EndpointConfig,
    EvalConfig,
    LabelingConfig,
    SweepConfig,
)
from raypipe.config.learning import (
    ConsensusConfig,
    EvaluationConfig,
    LoraConfig,
    OptimizerConfig,
    PairWeight,
    RoundsConfig,
    SftConfig,
    TrainingConfig,
)
from raypipe.config.machines import ClusterConfig, RatesConfig, SamplingConfig
from raypipe.config.models import ModelConfig, is_on_hub, split_backbone
from raypipe.config.overrides import apply_override
from raypipe.config.section import RESOURCE, Section, flatten
from raypipe.errors import ConfigError
from raypipe.security import textfiles

CONFIGS = Path(__file__).parent / "shipped"
"""The configurations that come with the package; ``jobs/configs`` is a link to them."""
__all__ = [
    "CONFIGS",
    "AnnotationConfig",
    "CatalogConfig",
    "ClusterConfig",
    "Config",
    "ConsensusConfig",
    "EmbeddedCatalogConfig",
    "EndpointConfig",
    "EvaluationConfig",
    "FetchConfig",
    "JudgingConfig",
    "LabelingConfig",
    "LoraConfig",
    "ModelConfig",
    "OptimizerConfig",
    "PairWeight",
    "RatesConfig",
    "RoundsConfig",
    "RunConfig",
    "SamplingConfig",
    "Section",
    "SftConfig",
    "SweepConfig",
    "TrainingConfig",
    "flatten",
    "is_on_hub",
    "key_names",
    "load",
    "resolve",
    "split_backbone",
]


class RunConfig(Section):
    stages = (
        "prepare",
        "sampling",
        "consensus",
        "subset",
        "sft",
        "training",
        "evaluation",
        "quality",
    )
    name: str = Field("local", pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$", json_schema_extra=RESOURCE)
    """Name of the run's directory: lower-case letters, digits, '.', '_' and '-'."""
    directory: str = Field("runs", json_schema_extra=RESOURCE)
    """Where runs live: a local directory or an object-store URI such as s3://bucket/prefix."""
    seed: int = 0
    """Root of every random draw of the run, chains and pairs included."""
    report_to: tuple[str, ...] = Field(("tensorboard",), json_schema_extra=RESOURCE)
    """Trackers by transformers' names: tensorboard, mlflow and wandb are told of the run as a whole
    and of its trainings, others of trainings alone; an empty list reports nothing."""


class Config(Section):
    run: RunConfig = RunConfig()
    model: ModelConfig = ModelConfig()
    catalog: CatalogConfig = CatalogConfig(embedded=EmbeddedCatalogConfig())
    lora: LoraConfig = LoraConfig()
    sft: SftConfig = SftConfig()
    sampling: SamplingConfig = SamplingConfig()
    consensus: ConsensusConfig = ConsensusConfig()
    training: TrainingConfig = TrainingConfig()
    rounds: RoundsConfig = RoundsConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    labeling: LabelingConfig = LabelingConfig()
    sweep: SweepConfig = SweepConfig()
    evals: EvalConfig = EvalConfig()
    annotation: AnnotationConfig = AnnotationConfig()
    rates: RatesConfig = RatesConfig()
    cluster: ClusterConfig = ClusterConfig()

    def shown(self) -> dict[str, Any]:
        """The configuration as it is written and told: of the engine's variables the names alone,
        since nothing says what a variable holds."""
        values = self.model_dump(mode="json")
        values["sampling"]["environment"] = dict.fromkeys(self.sampling.environment)
        return values

    @model_validator(mode="before")
    @classmethod
    def _without_credentials(cls, values: Any) -> Any:
        found = list(credentials.refusals(cls, values))
        if found:
            raise ValueError("\n".join(found))
        return values

    @model_validator(mode="after")
    def _models_are_pinned(self) -> "Config":
        engine = self.sampling.engine
        found = list(models.unpinned(self.model, self.sweep.backbones, engine))
        if found and not self.model.allow_unpinned:
            raise ValueError("\n".join(found))
        return self

    @model_validator(mode="after")
    def _engines_fit(self) -> "Config":
        sampling = self.sampling
        least, most = sampling.min_actors, sampling.num_actors
        if least is not None and most is not None and least > most:
            raise ValueError(f"sampling.min_actors={least} is more than sampling.num_actors={most}")
        parallel = sampling.engine.get("tensor_parallel_size", 1)
        if sampling.gpus_per_actor and sampling.gpus_per_actor < parallel:
            raise ValueError(
                f"sampling.engine.tensor_parallel_size={parallel} needs as many GPUs in one node: "
                f"sampling.gpus_per_actor={sampling.gpus_per_actor:g}"
            )
        return self

    @model_validator(mode="after")
    def _money_is_counted(self) -> "Config":
        rates = self.rates
        if self.annotation.max_cost is not None and not (
            rates.million_prompt_tokens or rates.million_answer_tokens
        ):
            raise ValueError(
                "annotation.max_cost needs rates.million_prompt_tokens and "
                "rates.million_answer_tokens"
            )
        return self

    @model_validator(mode="after")
    def _training_fits(self) -> "Config":
        cluster = self.cluster
        least, workers = cluster.min_train_workers, cluster.num_train_workers
        if least is not None and workers is not None and least > workers:
            raise ValueError(
                f"cluster.min_train_workers={least} is more than cluster.num_train_workers="
                f"{workers}"
            )
        if self.training.step == "shared_prefix":
            if cluster.zero_stage == 3:
                raise ValueError("cluster.zero_stage=3 needs training.step=stock")
            if least is not None and cluster.zero_stage != 0:
                raise ValueError("cluster.min_train_workers needs cluster.zero_stage=0")
            return self
        if least is not None:
            raise ValueError("cluster.min_train_workers needs training.step=shared_prefix")
        for name, size in (("sft", self.sft.batch_size), ("training", self.training.batch_size)):
            if workers is not None and size % workers:
                raise ValueError(
                    f"{name}.batch_size={size} is not a multiple of cluster.num_train_workers="
                    f"{workers}: with training.step=stock every worker takes the same share"
                )
        return self


def load(path: str | Path | None = None, overrides: Sequence[str] = ()) -> Config:
    """Read a configuration file and apply ``section.key=value`` overrides.

    Args:
        path: YAML file; None reads the embedded default, ``local.yaml`` of ``CONFIGS``.
        overrides: values are parsed as YAML.

    Raises:
        ConfigError: unreadable file, unknown key (the nearest known one is named), wrong value.
    """
    path = Path(path) if path is not None else CONFIGS / "local.yaml"
    try:
        with path.open("rb") as stream:
            values = textfiles.parse_yaml(stream.read(textfiles.MAX_YAML_BYTES + 1))
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from error
    except textfiles.MalformedError as error:
        raise ConfigError(f"{path} is not YAML: {error}") from None
    if values is None:
        values = {}
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: expected sections, found a {type(values).__name__}")
    for override in overrides:
        apply_override(values, override)
    return resolve(values)


def resolve(values: Mapping[str, Any]) -> Config:
    """Validate plain values. Raises ConfigError with one line per fault."""
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        lines = [_explain(fault) for fault in error.errors(include_input=False)]
        raise ConfigError("\n".join(lines)) from None  # its own words repeat names as given


def _explain(fault: Mapping[str, Any]) -> str:
    place = ".".join(str(part) for part in fault["loc"])
    if fault["type"] != "extra_forbidden":
        said = str(fault["msg"]).removeprefix("Value error, ")
        return f"{place}: {said}" if place else said
    known = sorted(key_names(Config))
    near = difflib.get_close_matches(place, known, n=1, cutoff=0.0)
    return f"unknown key '{place}'; the nearest known key is '{near[0]}'"


def key_names(section: type[Section], prefix: str = "") -> Iterator[str]:
    """Every dotted key of a section and of the sections inside it."""
    for name, field in section.model_fields.items():
        yield prefix + name
        for kind in (field.annotation, *get_args(field.annotation)):
            if isinstance(kind, type) and issubclass(kind, Section):
                yield from key_names(kind, f"{prefix}{name}.")
