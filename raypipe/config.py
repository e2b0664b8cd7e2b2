"""The configuration: YAML, typed, frozen, with dotted overrides from the command line.

Precedence: field defaults < the YAML file < ``section.key=value`` on the command line. An unknown
key is an error that names the nearest known one.

Keys marked as a resource say how fast or where a run goes, never what comes out of it: they stay
out of every fingerprint, so that a run may be resumed on another machine.
"""

import difflib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args
from urllib.parse import urlsplit

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    ValidationError,
    field_validator,
    model_validator,
)

from raypipe.errors import ConfigError
from raypipe.overrides import apply_override
from raypipe.prompts import AnswerFormat

CONFIGS = Path(__file__).resolve().parent.parent / "jobs" / "configs"
RESOURCE: dict[str, JsonValue] = {"resource": True}
PairWeight = Literal["uniform", "margin"]


class Section(BaseModel):
    model_config = ConfigDict(
        extra="forbid", frozen=True, allow_inf_nan=False, use_attribute_docstrings=True
    )

    def outcome(self) -> dict[str, Any]:
        """The keys that change what comes out, as JSON values; resource keys are left out."""
        kept: dict[str, Any] = {}
        dumped = self.model_dump(mode="json")
        for name, field in type(self).model_fields.items():
            extra = field.json_schema_extra
            if isinstance(extra, dict) and extra.get("resource"):
                continue
            value = getattr(self, name)
            kept[name] = value.outcome() if isinstance(value, Section) else dumped[name]
        return kept


class RunConfig(Section):
    name: str = Field("local", pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$", json_schema_extra=RESOURCE)
    """Name of the run's directory: lower-case letters, digits, '.', '_' and '-'."""
    directory: str = Field("runs", json_schema_extra=RESOURCE)
    """Where runs live: a local directory or an object-store URI such as s3://bucket/prefix."""
    seed: int = 0
    """Root of every random draw of the run, chains and pairs included."""
    report_to: tuple[str, ...] = Field(("tensorboard",), json_schema_extra=RESOURCE)
    """Trackers of trainings by transformers' names: tensorboard, mlflow, wandb and others."""


class ModelConfig(Section):
    path: str = "embedded:nano"
    """Base model: 'embedded:nano', a local checkpoint directory, or a Hugging Face model id."""
    revision: str | None = None
    """Commit of the Hugging Face model; None takes the newest, which cannot be reproduced."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Type of the frozen base weights; adapters are always trained in float32."""
    answer_format: AnswerFormat = "reasoning"
    """Reasoning and answer, or the answer alone (paper §3.1.1): template, targets and parser."""


class EmbeddedCatalogConfig(Section):
    seed: int = 20260101
    """Seed of the renderings; another seed is another catalog."""
    num_pool: int = Field(480, ge=1)
    """Unlabeled listings."""
    num_eval: int = Field(320, ge=1)
    """Held-out listings with verified values (about four queries each)."""
    num_anchor: int = Field(96, ge=1)
    """Listings of the small trusted split that guards rounds."""
    seed_per_vertical: int = Field(10, ge=1)
    """Annotated listings per vertical (paper §2: ten)."""


class FetchConfig(Section):
    schemes: tuple[Literal["https", "http", "s3", "gs"], ...] = ("https",)
    """Schemes of image URIs that are fetched; any other is a skipped image."""
    hosts: tuple[str, ...] = ()
    """Hosts (and, for s3 and gs, buckets) that are fetched from: 'cdn.shop.com', or '*.shop.com'
    for all below it. None are allowed until they are named."""
    max_bytes: int = Field(20_000_000, ge=1)
    """An image larger than this is given up while it is read."""
    max_redirects: int = Field(3, ge=0)
    """Redirects followed, each to an allowed scheme, host and public address."""
    concurrency: int = Field(32, ge=1, json_schema_extra=RESOURCE)
    """Images fetched at once by one preparing task."""
    attempts: int = Field(4, ge=1, json_schema_extra=RESOURCE)
    """Tries of an image whose server is busy, slow or broken (429, 5xx, time-outs)."""
    timeout_s: float = Field(20, gt=0, json_schema_extra=RESOURCE)
    """How long a server may be silent, in seconds."""


class CatalogConfig(Section):
    embedded: EmbeddedCatalogConfig | None = None
    """Render the embedded catalog with these sizes; None reads the user's files below."""
    listings: str | None = None
    """Parquet file or directory: listing_id, vertical, images, and optionally group_id and
    seller_values."""
    attribute_schema: str | None = None
    """YAML or Parquet: vertical, attribute, description, values, aliases."""
    seed: str | None = None
    """Parquet of annotated listings (listing_id, answers: attribute, reasoning, answer)."""
    truth: str | None = None
    """Parquet of verified listings (listing_id, answers: attribute, value): eval and anchor."""
    anchor_share: float = Field(0.2, ge=0, le=0.9)
    """Share (0-1) of the verified listings that guards rounds instead of being evaluated on."""
    max_listings: int | None = Field(None, ge=1)
    """Cap on unlabeled listings, chosen by hash of the id; None takes all."""
    image_size: int = Field(224, ge=28, multiple_of=28)
    """Side in pixels that every image is squashed to (paper §3: 224)."""
    max_images: int = Field(5, ge=1, le=16)
    """The first so many decodable, distinct images of a listing are used (paper: five)."""
    max_image_pixels: int = Field(50_000_000, ge=1)
    """An image with more pixels than this is refused before it is decoded."""
    fetch: FetchConfig = FetchConfig()
    """How images that the listings name by URI are fetched."""
    broken_images: Literal["skip", "refuse"] = "skip"
    """What an image that cannot be fetched or decoded does: it is left out (a listing without any
    is refused), or its listing is refused."""
    max_quarantined: float = Field(0.05, ge=0, le=1)
    """Share (0-1) of refused listings above which prepare stops."""
    rows_per_file: int = Field(256, ge=1, json_schema_extra=RESOURCE)
    """Listings per Parquet file of the prepared catalog."""

    @model_validator(mode="after")
    def _one_source(self) -> "CatalogConfig":
        if (self.embedded is None) == (self.listings is None):
            raise ValueError("set exactly one of catalog.embedded and catalog.listings")
        if self.listings is not None:
            for name in ("attribute_schema", "seed", "truth"):
                if getattr(self, name) is None:
                    raise ValueError(f"catalog.{name} is needed beside catalog.listings")
        return self


class LoraConfig(Section):
    rank: int = Field(32, ge=1)
    """Rank of the adapter (paper §3.1: 32)."""
    alpha: int = Field(32, ge=1)
    """Scale of the adapter: alpha / rank (paper §3.1: 32)."""
    targets: tuple[str, ...] = ("q_proj", "v_proj")
    """Projections of the language model that get an adapter (paper §3.1: query and value)."""


class OptimizerConfig(Section):
    learning_rate: float = Field(gt=0)
    """Peak learning rate of AdamW."""
    epochs: int = Field(1, ge=1)
    """Passes over the training examples."""
    batch_size: int = Field(128, ge=1)
    """Examples (pairs for DPO, targets for SFT and self-learning) per optimizer step, over all
    workers."""
    warmup_share: float = Field(0.03, ge=0, le=1)
    """Share (0-1) of the steps over which the rate rises; then it falls as a cosine."""
    max_grad_norm: float = Field(1.0, gt=0)
    """Gradients are clipped to this norm."""


class SftConfig(OptimizerConfig):
    learning_rate: float = Field(3e-5, gt=0)
    """Peak learning rate of AdamW (paper §3.1: 3e-5)."""
    epochs: int = Field(3, ge=1)
    """Passes over the annotated seed."""
    batch_size: int = Field(16, ge=1)
    """Targets per optimizer step, over all workers."""


class SamplingConfig(Section):
    num_chains: int = Field(7, ge=1)
    """Chains per query (paper §4: seven)."""
    temperature: float = Field(1.0, ge=0)
    """Sampling temperature (paper §4: 1); evaluation is always greedy."""
    top_p: float = Field(1.0, gt=0, le=1)
    """Nucleus; 1 samples from the whole distribution."""
    max_tokens: int = Field(200, ge=1)
    """Decoding limit of a chain in tokens (paper §3: 200)."""
    adapter: Literal["merged", "lora"] = "merged"
    """Serve the adapter merged into the weights, or beside them through the engine's LoRA."""
    num_actors: int = Field(1, ge=1, json_schema_extra=RESOURCE)
    """vLLM engines that work side by side, at most."""
    min_actors: int | None = Field(None, ge=1, json_schema_extra=RESOURCE)
    """Engines to begin with; more are started, up to num_actors, as the cluster has room. None
    waits for all of them."""
    cpus_per_actor: float = Field(1, ge=0, json_schema_extra=RESOURCE)
    """Logical CPUs that Ray reserves for an engine's actor."""
    gpus_per_actor: float = Field(0, ge=0, json_schema_extra=RESOURCE)
    """GPUs of an engine, all of one node; a tensor-parallel engine needs as many as
    engine.tensor_parallel_size."""
    listings_per_call: int = Field(32, ge=1, json_schema_extra=RESOURCE)
    """Listings handed to an engine together, and written as one file."""
    calls_in_flight: int = Field(3, ge=1, json_schema_extra=RESOURCE)
    """Calls that an engine works on at once, so that its queue never runs empty; the listings of
    all of them are what a killed run repeats."""
    max_engine_deaths: int = Field(8, ge=0, json_schema_extra=RESOURCE)
    """Engines that may die in one stage before it stops. A listing that kills two is refused."""
    engine_in_actor: bool = Field(False, json_schema_extra=RESOURCE)
    """Step the engine in the actor's own process instead of one beside it: for few cores without
    a GPU."""
    engine: dict[str, Any] = Field(default_factory=dict, json_schema_extra=RESOURCE)
    """Passed to vLLM's engine arguments as they stand."""
    environment: dict[str, str] = Field(default_factory=dict, json_schema_extra=RESOURCE)
    """Environment variables of the engine's process, such as VLLM_CPU_KVCACHE_SPACE."""


class ConsensusConfig(Section):
    threshold: float = Field(0.5, ge=0, lt=1)
    """A query is kept when its confidence exceeds this, strictly (paper §4: 0.5)."""


class TrainingConfig(OptimizerConfig):
    method: Literal["dpo", "self_learning"] = "dpo"
    """DPO on preference pairs, or next-token training on the preferred chains (paper §5)."""
    learning_rate: float = Field(1e-5, gt=0)
    """Peak learning rate of AdamW (paper §4.1: 1e-5)."""
    beta: float = Field(0.2, gt=0)
    """Strength of DPO's pull to the reference (paper §4.1: 0.2)."""
    label_smoothing: float = Field(0.0, ge=0, lt=0.5)
    """Conservative DPO: the probability that a pair's preference is the wrong way round; 0 is the
    paper's DPO."""
    pair_weight: PairWeight = "uniform"
    """What a pair counts in the loss: all the same (the paper), or in proportion to its query's
    margin, the consensus's votes beyond the runner-up's over chains requested. Weights have mean 1
    over a training."""
    step: Literal["shared_prefix", "stock"] = "shared_prefix"
    """How a step is computed, in SFT too: every image, prompt and chain of a listing once (the
    Qwen2-VL and Qwen2.5-VL families), or by TRL's own trainers (any vision-language model)."""
    reference: Literal["start", "round_start"] = "start"
    """The frozen policy DPO compares with: the one before round 1 (the SFT policy, or the base
    model when rounds start from it), or the one that each round starts from."""

    @model_validator(mode="after")
    def _every_option_takes_effect(self) -> "TrainingConfig":
        weighted = self.pair_weight != "uniform"
        if self.method == "self_learning" and (weighted or self.label_smoothing > 0):
            raise ValueError(
                "training.label_smoothing and training.pair_weight are of pairs, and need "
                "training.method=dpo"
            )
        if self.step == "stock" and weighted:
            raise ValueError(
                f"training.pair_weight={self.pair_weight} needs training.step=shared_prefix: "
                "TRL's trainer counts all pairs the same"
            )
        return self


class RoundsConfig(Section):
    num_rounds: int = Field(2, ge=0, json_schema_extra=RESOURCE)
    """Rounds to run; raising it later continues the run."""
    start: Literal["sft", "pretrained"] = "sft"
    """The policy that round 1 starts from."""
    pool_slices: int = Field(1, ge=1)
    """Parts that the pool is cut into; rounds learn from them in turn, so that a round sees fresh
    listings. 1 lets every round see the whole pool, as the paper does."""
    max_anchor_drop: float = Field(0.02, ge=0, le=1)
    """A round is rolled back when its anchor accuracy is below the best by more than this (0-1)."""
    alarm: bool = True
    """Stop the run when a round's policy collapses: surer, no more often right, less varied."""
    alarm_confidence_rise: float = Field(0.05, ge=0, le=1)
    """Surer: mean C and the share of unanimous queries (0-1) have both risen by more than this."""
    alarm_entropy_fall: float = Field(0.1, ge=0)
    """Less varied: the entropy of answers, 1 as the truth's, has fallen by more than this."""


class EvaluationConfig(Section):
    num_resamples: int = Field(1000, ge=100)
    """Bootstrap resamples (of listings) behind every interval."""


class LabelingConfig(Section):
    policy: str = "best"
    """Whose labels: 'best' (what the run's rounds ended with), a policy of the run (pretrained,
    sft, round-1 …), or the directory of a PEFT adapter or of a whole checkpoint."""
    mode: Literal["vote", "greedy"] = "vote"
    """Vote on sampling.num_chains chains per query, or one greedy chain."""
    precision: float = Field(0.95, gt=0, le=1)
    """Share (0-1) of the published values that should be right, by the anchor split."""
    listings: str | None = None
    """Parquet file or directory of the catalog to label, in the form of catalog.listings; None
    labels the run's own listings."""
    num_reviews: int = Field(500, ge=0, json_schema_extra=RESOURCE)
    """Labels that jobs/export.py hands to people: contradicted sellers, then the least probable."""
    constrained: bool = False
    """Let the engine write nothing but the answer format with an allowed value. It changes what
    is drawn, so training chains are never constrained."""


SweepGroup = Literal["claims", "table4", "table5", "table6", "rounds", "control", "option"]
SWEEP_GROUPS: tuple[SweepGroup, ...] = get_args(SweepGroup)


class SweepConfig(Section):
    seeds: tuple[int, ...] = Field((0,), min_length=1, json_schema_extra=RESOURCE)
    """Every arm is run with the first; the groups in sweep.replicated with all of them."""
    groups: tuple[SweepGroup, ...] = Field(SWEEP_GROUPS, json_schema_extra=RESOURCE)
    """What is made: the arms of the main claims (DPO from both starts and with every part of the
    pool, self-learning from SFT), the paper's Tables 4, 5 and 6, several rounds, controls, and
    options beyond the paper."""
    replicated: tuple[SweepGroup, ...] = Field(("claims",), json_schema_extra=RESOURCE)
    """The groups that are repeated with every seed."""
    thresholds: tuple[float, ...] = Field((0.3, 0.5, 0.7, 0.8), json_schema_extra=RESOURCE)
    """Confidences that a query must exceed (paper, Table 5)."""
    pool_shares: tuple[float, ...] = Field(
        (0.2, 0.4, 0.6, 0.8, 1.0), min_length=1, json_schema_extra=RESOURCE
    )
    """Parts (0-1) of the pool that DPO and self-learning see (paper, Table 6: five steps)."""
    num_rounds: int = Field(2, ge=1, json_schema_extra=RESOURCE)
    """Rounds of DPO and of self-learning from SFT."""
    label_smoothing: float = Field(0.1, gt=0, lt=0.5, json_schema_extra=RESOURCE)
    """Of the arm that tries training.label_smoothing."""
    backbones: tuple[str, ...] = Field((), json_schema_extra=RESOURCE)
    """Further base models, as model.path, of which the pretrained and the SFT policy are measured
    (paper, Table 4)."""
    arms_at_once: int = Field(1, ge=1, json_schema_extra=RESOURCE)
    """Independent arms that run side by side, where the cluster has room."""

    @model_validator(mode="after")
    def _shares(self) -> "SweepConfig":
        if not all(0 < share <= 1 for share in self.pool_shares):
            raise ValueError("sweep.pool_shares are parts of the pool, above 0 and at most 1")
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError("sweep.seeds names a seed twice")
        return self


class JudgingConfig(Section):
    policy: str | None = None
    """Whose answers are judged: 'best', a policy of the run, the directory of a PEFT adapter or of
    a whole checkpoint. None is 'best', unless an endpoint is judged."""
    listings: str | None = None
    """Parquet of labeled listings in the form of catalog.listings, of which those with a truth are
    asked; None asks the run's own eval and anchor listings."""
    truth: str | None = None
    """Parquet of their values in the form of catalog.truth; None with judging.listings alone."""
    endpoint: str | None = None
    """Base URL of an OpenAI-compatible server that answers instead of an engine started here, such
    as https://api.openai.com/v1; None starts the engine."""
    endpoint_model: str | None = None
    """Model that the endpoint is asked for; None without an endpoint."""
    api_key_variable: str | None = Field(
        "OPENAI_API_KEY", pattern=r"^[A-Za-z_][A-Za-z0-9_]*$", json_schema_extra=RESOURCE
    )
    """Environment variable that holds the endpoint's key, which is written nowhere; None sends
    no key."""
    concurrency: int = Field(16, ge=1, json_schema_extra=RESOURCE)
    """Requests under way at the endpoint at once."""
    max_attempts: int = Field(5, ge=1, json_schema_extra=RESOURCE)
    """Tries of a request whose server is busy, broken or out of reach (429, 5xx, time-outs)."""

    @model_validator(mode="after")
    def _one_answerer(self) -> "JudgingConfig":
        if (self.endpoint is None) != (self.endpoint_model is None):
            raise ValueError("endpoint and endpoint_model need each other")
        if self.endpoint is not None and self.policy is not None:
            raise ValueError("set one of judging.policy and judging.endpoint")
        if (self.listings is None) != (self.truth is None):
            raise ValueError("listings and truth need each other")
        return self

    @field_validator("endpoint")
    @classmethod
    def _plain_url(cls, endpoint: str | None) -> str | None:
        if endpoint is None:
            return None
        parts = urlsplit(endpoint)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("an endpoint reads https://host/v1")
        if parts.username is not None or parts.query or parts.fragment:
            raise ValueError("keys and passwords belong in an environment variable, not in a URL")
        return endpoint.rstrip("/")


class RatesConfig(Section):
    engine_hour: float = Field(0.0, ge=0, json_schema_extra=RESOURCE)
    """Price of an engine for an hour, with its share of the cluster."""
    currency: str = Field("USD", json_schema_extra=RESOURCE)
    """Of the prices, for what is printed."""
    trainer_hour: float = Field(0.0, ge=0, json_schema_extra=RESOURCE)
    """Price of all training workers together for an hour."""
    examples_per_second: float | None = Field(None, gt=0, json_schema_extra=RESOURCE)
    """Pairs or targets that all training workers together learn from in a second, for a plan; None
    is unknown."""
    chains_per_second: float | None = Field(None, gt=0, json_schema_extra=RESOURCE)
    """Chains that an engine makes in a second, for a plan; None takes what was last measured."""


class ClusterConfig(Section):
    num_cpus: int | None = Field(None, ge=1, json_schema_extra=RESOURCE)
    """Logical CPUs of a Ray started here; None takes the machine's, at least four. Ignored when
    a cluster is joined."""
    num_train_workers: int = Field(2, ge=1, json_schema_extra=RESOURCE)
    """Data-parallel training workers."""
    min_train_workers: int | None = Field(None, ge=1, json_schema_extra=RESOURCE)
    """Train with as few workers as this while the cluster lacks room for more; None waits for
    all. Needs training.step=shared_prefix and zero_stage=0."""
    cpus_per_train_worker: float = Field(1, ge=0, json_schema_extra=RESOURCE)
    """Logical CPUs that Ray reserves for a training worker."""
    use_gpu: bool = Field(False, json_schema_extra=RESOURCE)
    """One GPU for each training worker."""
    micro_batch_size: int = Field(4, ge=1, json_schema_extra=RESOURCE)
    """Stock step: examples that a worker puts through the model at once."""
    tokens_per_pack: int = Field(8192, ge=1, json_schema_extra=RESOURCE)
    """Shared-prefix step: tokens that a worker puts through the model at once."""
    checkpoint_steps: int = Field(50, ge=1, json_schema_extra=RESOURCE)
    """Optimizer steps between checkpoints of a training."""
    max_train_failures: int = Field(3, ge=-1, json_schema_extra=RESOURCE)
    """How often a training goes on from its last checkpoint after a worker died; -1 for ever.
    Nodes that the cloud takes back do not count."""
    zero_stage: Literal[0, 1, 2, 3] = Field(1, json_schema_extra=RESOURCE)
    """DeepSpeed ZeRO stage. Only with 0 does a training go on from its checkpoint with another
    number of workers; but then DeepSpeed tells no gradient norm."""
    gradient_checkpointing: bool = Field(True, json_schema_extra=RESOURCE)
    """Recompute activations instead of keeping them: less memory, more time."""
    capacity_wait_s: int = Field(21_600, ge=-1, json_schema_extra=RESOURCE)
    """How long a stage may wait without progress, for instance for spot capacity; -1 for ever."""


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
    judging: JudgingConfig = JudgingConfig()
    rates: RatesConfig = RatesConfig()
    cluster: ClusterConfig = ClusterConfig()

    @model_validator(mode="after")
    def _engines_fit(self) -> "Config":
        sampling = self.sampling
        if sampling.min_actors is not None and sampling.min_actors > sampling.num_actors:
            raise ValueError(
                f"sampling.min_actors={sampling.min_actors} is more than sampling.num_actors="
                f"{sampling.num_actors}"
            )
        parallel = sampling.engine.get("tensor_parallel_size", 1)
        if sampling.gpus_per_actor and sampling.gpus_per_actor < parallel:
            raise ValueError(
                f"sampling.engine.tensor_parallel_size={parallel} needs as many GPUs in one node: "
                f"sampling.gpus_per_actor={sampling.gpus_per_actor:g}"
            )
        return self

    @model_validator(mode="after")
    def _training_fits(self) -> "Config":
        cluster = self.cluster
        if self.training.step == "shared_prefix":
            if cluster.zero_stage == 3:
                raise ValueError("cluster.zero_stage=3 needs training.step=stock")
            if cluster.min_train_workers is not None and cluster.zero_stage != 0:
                raise ValueError("cluster.min_train_workers needs cluster.zero_stage=0")
            return self
        if cluster.min_train_workers is not None:
            raise ValueError("cluster.min_train_workers needs training.step=shared_prefix")
        workers = cluster.num_train_workers
        for name, size in (("sft", self.sft.batch_size), ("training", self.training.batch_size)):
            if size % workers:
                raise ValueError(
                    f"{name}.batch_size={size} is not a multiple of cluster.num_train_workers="
                    f"{workers}: with training.step=stock every worker takes the same share"
                )
        return self


def load(path: str | Path | None = None, overrides: Sequence[str] = ()) -> Config:
    """Read a configuration file and apply ``section.key=value`` overrides.

    Args:
        path: YAML file; None reads the embedded default, ``jobs/configs/local.yaml``.
        overrides: values are parsed as YAML.

    Raises:
        ConfigError: unreadable file, unknown key (the nearest known one is named), wrong value.
    """
    path = Path(path) if path is not None else CONFIGS / "local.yaml"
    try:
        values = yaml.safe_load(path.read_text())
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not YAML: {error}") from error
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
        lines = [_explain(fault) for fault in error.errors()]
        raise ConfigError("\n".join(lines)) from error


def _explain(fault: Mapping[str, Any]) -> str:
    place = ".".join(str(part) for part in fault["loc"])
    if fault["type"] != "extra_forbidden":
        return f"{place}: {fault['msg']}" if place else str(fault["msg"])
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


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one level of dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat
