"""What may not be said of vLLM's engine: code to import, weights to unpickle, doors to open.

``sampling.engine`` is for sizes and speed. Which model is served is said by ``model`` and by the
policy, and is part of what labels and chains are known by.
"""

from collections.abc import Iterator, Mapping
from typing import Any

# Arguments that say how fast, never what; any other one is part of a fingerprint.
ENGINE_RESOURCES = (
    "block_size",
    "distributed_executor_backend",
    "enable_chunked_prefill",
    "enforce_eager",
    "gpu_memory_utilization",
    "kv_cache_memory_bytes",
    "max_num_batched_tokens",
    "max_num_seqs",
    "mm_processor_cache_gb",
    "pipeline_parallel_size",
    "tensor_parallel_size",
)
_CODE = "names code that the engine would import and run"
_DOOR = "opens a connection beyond the engine"
_MODEL = "changes the model; set model.path, model.revision or the policy"
_REFUSED = {
    "worker_cls": _CODE,
    "worker_extension_cls": _CODE,
    "scheduler_cls": _CODE,
    "logits_processors": _CODE,
    "model_class_overrides": _CODE,
    "io_processor_plugin": _CODE,
    "reasoning_parser_plugin": _CODE,
    "logging_config": _CODE,
    "log_config_file": _CODE,
    "allowed_local_media_path": "lets a prompt read files of the machine",
    "allowed_media_domains": "lets a prompt fetch addresses",
    "kv_transfer_config": _DOOR,
    "kv_events_config": _DOOR,
    "ec_transfer_config": _DOOR,
    "weight_transfer_config": _DOOR,
    "otlp_traces_endpoint": _DOOR,
    "master_addr": _DOOR,
    "master_port": _DOOR,
    "data_parallel_address": _DOOR,
    "data_parallel_rpc_port": _DOOR,
    "model": _MODEL,
    "model_weights": _MODEL,
    "revision": _MODEL,
    "code_revision": _MODEL,
    "tokenizer": _MODEL,
    "tokenizer_revision": _MODEL,
    "hf_config_path": _MODEL,
    "dtype": "is the type that weights are merged and proved in; set model.dtype",
}
_ALLOWED = {
    # pt, npcache and what auto falls back to are pickles.
    "load_format": {"safetensors", "fastsafetensors", "runai_streamer", "bitsandbytes", "dummy"},
    "tokenizer_mode": {"auto", "hf", "slow"},
    "distributed_executor_backend": {"mp", "ray", "uni"},
}
_UNSAFE = {
    "VLLM_ALLOW_INSECURE_SERIALIZATION",
    "VLLM_ALLOW_RUNTIME_LORA_UPDATING",
    "VLLM_PLUGINS",
    "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD",
}
# What Ray unpickles of files.
_UNPICKLING = "RAY_DATA_AUTOLOAD_"


def engine_faults(engine: Mapping[str, Any]) -> Iterator[str]:
    """What of ``sampling.engine`` is refused, and why."""
    for key, value in engine.items():
        if key == "trust_remote_code" and value:
            yield "trust_remote_code runs code that lies beside a model's weights; it stays false"
        elif key in _REFUSED and value is not None:
            yield f"{key} {_REFUSED[key]}"
        elif key in _ALLOWED and str(value) not in _ALLOWED[key]:
            yield f"{key} is one of {', '.join(sorted(_ALLOWED[key]))}"


def environment_faults(environment: Mapping[str, str | None]) -> Iterator[str]:
    """What of ``sampling.environment`` is refused: variables that switch a guard off."""
    for name in environment:
        if name in _UNSAFE or name.startswith(_UNPICKLING):
            yield f"{name} lets an engine run code from elsewhere"
