"""Where a run goes and what that costs: engines, cluster, prices."""

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, field_validator

from raypipe.config.engine import ENGINE_RESOURCES, engine_faults, environment_faults
from raypipe.config.section import RESOURCE, Section, changes, resource_entries
from raypipe.errors import ConfigError


class SamplingConfig(Section):
    stages = ("greedy", "sampling")
    num_chains: int = Field(7, ge=1, json_schema_extra=changes("sampling", "consensus", "vote"))
    """Chains per query (paper §4: seven)."""
    temperature: float = Field(1.0, ge=0, json_schema_extra=changes("sampling"))
    """Sampling temperature (paper §4: 1); evaluation is always greedy."""
    top_p: float = Field(1.0, gt=0, le=1, json_schema_extra=changes("sampling"))
    """Nucleus; 1 samples from the whole distribution."""
    max_tokens: int = Field(200, ge=1, json_schema_extra=changes("greedy", "sampling", "endpoint"))
    """Decoding limit of a chain in tokens (paper §3: 200)."""
    adapter: Literal["merged", "lora"] = "merged"
    """Serve the adapter merged into the weights, or beside them through the engine's LoRA, which in
    bfloat16 serves a part of a small adapter's effect only, and is then refused."""
    num_actors: int | None = Field(None, ge=1, json_schema_extra=RESOURCE)
    """vLLM engines that work side by side, at most. None follows the GPUs that the cluster has,
    or that its autoscaler may bring; without GPUs it is one for each node."""
    min_actors: int | None = Field(None, ge=1, json_schema_extra=RESOURCE)
    """Engines to begin with; more are started, up to num_actors, as the cluster has room. None
    waits for all of num_actors, or begins with what there is where that is None too."""
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
    merged_cache_gib: float | None = Field(50, ge=0, json_schema_extra=RESOURCE)
    """Merged weights that a node keeps when an engine is started, in GiB: beyond that the least
    recently used are deleted, but for those in use. None keeps all of them."""
    max_engine_deaths: int = Field(8, ge=0, json_schema_extra=RESOURCE)
    """Engines that may die in one stage before it stops. A listing that kills two is refused."""
    engine_in_actor: bool = Field(False, json_schema_extra=RESOURCE)
    """Step the engine in the actor's own process instead of one beside it: for few cores without
    a GPU."""
    engine: dict[str, Any] = Field(
        default_factory=dict, json_schema_extra=resource_entries(*ENGINE_RESOURCES)
    )
    """Passed to vLLM's engine arguments as they stand, but for those that name code or another
    model, load pickles or open connections: they are refused."""
    environment: dict[str, str | None] = Field(default_factory=dict, json_schema_extra=RESOURCE)
    """Environment variables of the engine's process, such as VLLM_CPU_KVCACHE_SPACE. None (null)
    takes the value that the job's own environment has, as for HF_TOKEN; names alone are written."""

    def variables(self, environment: Mapping[str, str]) -> dict[str, str]:
        """What an engine is started with, the job's own ``environment`` standing in for nulls.

        Raises:
            ConfigError: the job has no such variable.
        """
        for name, value in self.environment.items():
            if value is None and name not in environment:
                raise ConfigError(
                    f"sampling.environment.{name}=null takes the value of the job's own "
                    f"environment, which has none: export {name}=…"
                )
        return {
            name: environment[name] if value is None else value
            for name, value in self.environment.items()
        }

    @field_validator("engine")
    @classmethod
    def _runs_no_code(cls, engine: dict[str, Any]) -> dict[str, Any]:
        if faults := list(engine_faults(engine)):
            raise ValueError("; ".join(faults))
        return engine

    @field_validator("environment")
    @classmethod
    def _keeps_guards(cls, environment: dict[str, str | None]) -> dict[str, str | None]:
        if faults := list(environment_faults(environment)):
            raise ValueError("; ".join(faults))
        return environment


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
    million_prompt_tokens: float = Field(0.0, ge=0, json_schema_extra=RESOURCE)
    """Price of a million tokens that an endpoint reads."""
    million_answer_tokens: float = Field(0.0, ge=0, json_schema_extra=RESOURCE)
    """Price of a million tokens that an endpoint writes."""


class ClusterConfig(Section):
    num_cpus: int | None = Field(None, ge=1, json_schema_extra=RESOURCE)
    """Logical CPUs of a Ray started here; None takes the machine's, at least four. Ignored when
    a cluster is joined."""
    num_train_workers: int | None = Field(None, ge=1, json_schema_extra=RESOURCE)
    """Data-parallel training workers. None takes one for each GPU that the cluster has when a
    training begins, without use_gpu one for each cpus_per_train_worker of its CPUs; at least one,
    and with training.step=stock a number that divides the batch."""
    min_train_workers: int | None = Field(None, ge=1, json_schema_extra=RESOURCE)
    """Train with as few workers as this while the cluster lacks room for more; None waits for
    all. With num_train_workers=null the autoscaler's nodes count as room to grow into. Needs
    training.step=shared_prefix and zero_stage=0."""
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
    The loss of a node does not count; of one that Ray knows to be taken back (a drain, as
    raypipe.runtime.spot asks for on AWS) the training saves a checkpoint first."""
    zero_stage: Literal[0, 1, 2, 3] = Field(0, json_schema_extra=RESOURCE)
    """DeepSpeed ZeRO stage: an adapter's few million weights need none. Only with 0 does a training
    go on from its checkpoint with another number of workers."""
    gradient_checkpointing: bool | None = Field(None, json_schema_extra=RESOURCE)
    """Recompute activations instead of keeping them: less memory, more time. None does so where a
    pack's activations do not fit into the memory that is free; the stock step does it always."""
    capacity_wait_s: int = Field(21_600, ge=-1, json_schema_extra=RESOURCE)
    """How long a stage may wait without progress, for instance for spot capacity, and a training
    for its workers; -1 for ever."""
