"""Environment variables that make Ray, vLLM or the trainers unsafe, slow or otherwise than meant.

Every name here is read by the tested versions of the packages, or was by earlier ones; a value is
told only where it cannot be a secret.
"""

import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

from raypipe.doctor.finding import Finding, fail, ok, warn

UNSAFE = {
    "VLLM_ALLOW_INSECURE_SERIALIZATION": "the engine's processes unpickle what they are sent",
    "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "a vLLM server loads whatever adapter it is told to",
    "VLLM_SERVER_DEV_MODE": "a vLLM server opens its development endpoints",
    "RAY_DATA_AUTOLOAD_PICKLE_OBJECT_SCALAR": "a Parquet file of others may run code when read",
    "RAY_DATA_AUTOLOAD_CLOUDPICKLE_TENSOR_METADATA": "a Parquet file of others may run code when "
    "read",
    "RAY_DATA_AUTOLOAD_PYEXTENSIONTYPE": "a Parquet file of others may run code when read",
    "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": "a checkpoint of others may run code when loaded",
}
COSTLY = {
    "RAY_ENABLE_RECORD_ACTOR_TASK_LOGGING": "Ray writes down the log offsets of every actor call",
    "RAY_record_ref_creation_sites": "Ray walks the stack for every object",
    "RAY_PROFILING": "Ray keeps an event of every call",
    "RAY_DATA_TRACE_ALLOCATIONS": "Ray Data follows every block",
    "VLLM_TRACE_FUNCTION": "vLLM writes down every function call",
    "VLLM_BATCH_INVARIANT": "vLLM leaves its fastest kernels unused",
    "CUDA_LAUNCH_BLOCKING": "the GPU waits for the CPU at every kernel",
    "RAY_OBJECT_STORE_ALLOW_SLOW_STORAGE": "Ray may keep its objects on a disk and say nothing",
}
_VLLM_NAME = re.compile(r'"(VLLM_[A-Z0-9_]+)"')
# Read by vLLM's build, its entry points or its plugins instead of its table of variables.
_ELSEWHERE = ("VLLM_TARGET_DEVICE", "VLLM_VERSION", "VLLM_CI_")


def is_on(environment: Mapping[str, str], name: str) -> bool:
    """Whether a variable is set to something else than "no"."""
    return environment.get(name, "").strip().lower() not in ("", "0", "false", "no", "off")


def check_switches(environment: Mapping[str, str]) -> Iterator[Finding]:
    """Variables that are better left unset on a machine that does real work."""
    found = False
    for meanings, word in ((UNSAFE, "unsafe"), (COSTLY, "slow")):
        for name, meaning in meanings.items():
            if is_on(environment, name):
                found = True
                yield warn(name, f"set, {word}: {meaning}", f"unset {name}")
    if not found:
        yield ok("environment", "no variable that makes Ray, vLLM or torch unsafe or slow")


def known_to_vllm() -> frozenset[str]:
    """The variables that the installed vLLM reads, from its source; empty where there is none."""
    from importlib.util import find_spec

    spec = find_spec("vllm")
    if spec is None or not spec.submodule_search_locations:
        return frozenset()
    source = Path(spec.submodule_search_locations[0]) / "envs.py"
    return frozenset(_VLLM_NAME.findall(source.read_text())) if source.is_file() else frozenset()


def check_stale(environment: Mapping[str, str], known: Collection[str]) -> Iterator[Finding]:
    """Variables of other vLLM versions, and misspelt ones: they do nothing.

    Args:
        known: to the installed vLLM; when empty, nothing is said.
    """
    for name in sorted(environment) if known else ():
        if name.startswith("VLLM_") and not name.startswith(_ELSEWHERE) and name not in known:
            yield warn(name, "set, and unknown to this vLLM: no effect", f"unset {name}")


def check_threads(environment: Mapping[str, str], *, actors: int, cores: int) -> Iterator[Finding]:
    """OMP_NUM_THREADS of an engine beyond this machine's cores, ``actors`` engines at once."""
    text = environment.get("OMP_NUM_THREADS", "")
    if not text:
        return
    # A list, as in "4,2", is of nested regions; the first is the outermost.
    outermost = text.partition(",")[0].strip()
    if not outermost.isdigit() or int(outermost) < 1:
        yield fail("OMP_NUM_THREADS", f"'{text}' is no number of threads", "unset OMP_NUM_THREADS")
    elif int(outermost) * actors > cores:
        engines = f"{actors} engines of " if actors > 1 else ""
        yield warn(
            "OMP_NUM_THREADS",
            f"{engines}{outermost} threads on {cores} cores wait for one another",
            f"set it to {max(1, cores // actors)}",
        )
    else:
        yield ok("OMP_NUM_THREADS", f"{outermost} on {cores} cores")


def check_allocator(
    environment: Mapping[str, str], engine: Mapping[str, object]
) -> Iterator[Finding]:
    """Expandable segments of torch's allocator against ``sampling.engine``."""
    for name in ("PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ALLOC_CONF"):
        if "expandable_segments:true" not in environment.get(name, "").lower():
            continue
        if engine.get("kv_transfer_config") and not engine.get("enable_cumem_allocator"):
            yield fail(
                name,
                "expandable_segments:True moves memory that a KV connector has pinned",
                f"unset {name}, or sampling.engine.enable_cumem_allocator=true",
            )
        elif engine.get("enable_sleep_mode"):
            yield warn(
                name,
                "expandable_segments:True has no effect on the memory pool of vLLM's sleep mode",
                f"unset {name}",
            )


def check_gpus_shown(environment: Mapping[str, str], *, wanted: bool) -> Iterator[Finding]:
    """A CUDA_VISIBLE_DEVICES that hides every GPU from a configuration that wants one."""
    shown = environment.get("CUDA_VISIBLE_DEVICES")
    if wanted and shown is not None and shown.strip() in ("", "-1"):
        yield fail(
            "CUDA_VISIBLE_DEVICES",
            "set, and hides every GPU that the configuration asks for",
            "unset CUDA_VISIBLE_DEVICES",
        )


def check_taken(
    environment: Mapping[str, str], of_engine: Mapping[str, str | None]
) -> Iterator[Finding]:
    """Variables that an engine takes from the job's own environment; their values stay untold.

    Args:
        of_engine: ``sampling.environment``.
    """
    for name, value in of_engine.items():
        if value is None and name not in environment:
            yield fail(
                f"sampling.environment.{name}",
                "null takes the job's own value, and there is none",
                f"export {name}=…",
            )


def check_key(environment: Mapping[str, str], section: str, variable: str | None) -> Finding:
    """Whether an endpoint's key is there; what it is stays untold.

    Args:
        section: of the configuration that names the endpoint.
        variable: that holds the key; None for an endpoint without one.
    """
    what = f"{section}.api_key_variable"
    if variable is None:
        return ok(what, "none is named: the endpoint gets no key")
    if environment.get(variable, "").strip():
        return ok(what, f"{variable} is set")
    return fail(
        what,
        f"{variable} is not set, and {section}.endpoint needs it",
        f"export {variable}=…, or name the endpoint's own variable in {what}",
    )
