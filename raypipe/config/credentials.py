"""Refuses credentials in the configuration, whatever the key.

The configuration is written to the run, told to trackers and shown on pages, so that nothing in it
may be a secret. What is looked at are the plain values before they are validated: a new key is
covered as it is added, and no other error repeats a value that is a secret.
"""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, get_args
from urllib.parse import unquote

from raypipe.config.section import Section
from raypipe.security.secrets import is_secret_name, secret_in

# What the address of a storage may say beside the place: options of Arrow's file systems.
_OPTIONS = frozenset(
    {
        "allow_bucket_creation",
        "allow_bucket_deletion",
        "allow_delayed_open",
        "background_writes",
        "blob_storage_authority",
        "blob_storage_scheme",
        "buffer_size",
        "check_directory_existence_before_creation",
        "client_id",
        "connect_timeout",
        "default_block_size",
        "dfs_storage_authority",
        "dfs_storage_scheme",
        "enable_tls",
        "endpoint_override",
        "force_virtual_addressing",
        "project_id",
        "region",
        "replication",
        "request_timeout",
        "retry_limit_seconds",
        "scheme",
        "smart_defaults",
        "tenant_id",
        "tls_ca_dir_path",
        "tls_ca_file_path",
        "tls_verify_certificates",
    }
)
_QUERY = re.compile(r"//[^?#\s]*\?(?P<query>[^#\s]*)")
_REMEDY = (
    "the configuration is written to the run and told to trackers. Credentials belong in "
    "environment variables (AWS_SECRET_ACCESS_KEY, HF_TOKEN …) or in the role of the machine"
)
_REMEDIES = {
    "sampling.environment": "write null instead of the value, which is then taken from the "
    "environment of the job",
    "sampling.engine": "set it in the environment of the job (HF_TOKEN …), and name it as "
    "sampling.environment.HF_TOKEN=null for the engine",
    "annotation": "name the environment variable that holds it in annotation.api_key_variable",
    "evals": "name the environment variable that holds it in evals.api_key_variable",
}


def refusals(section: type[Section], values: Any) -> Iterator[str]:
    """A line for every secret in plain values of a section: the key, what it is, and where it
    belongs instead; never the value.

    Args:
        section: of which ``values`` are, nested as its fields are.
    """
    for key, found in _walk(section, values, ""):
        yield f"{key} holds {found}: {_remedy(key, values)}"


def _walk(section: type[Section] | None, value: Any, key: str) -> Iterator[tuple[str, str]]:
    """Args: section: None for what is below a key, such as a dictionary of options."""
    if isinstance(value, Section):
        section, value = type(value), dict(value)
    if isinstance(value, Mapping):
        for name, inner in value.items():
            below = f"{key}.{name}".lstrip(".")
            kind = _section(section, str(name))
            if section is None and is_secret_name(str(name)) and _says_something(inner):
                yield below, "a secret by its name"
            else:
                yield from _walk(kind, inner, below)
    elif isinstance(value, list | tuple | set | frozenset):
        for inner in value:
            yield from _walk(None, inner, key)
    elif isinstance(value, str):
        found = secret_in(value) or _unknown_option(value, key)
        if found:
            yield key, found
        elif value.lstrip()[:1] in ("{", "["):
            yield from _walk(None, _parsed(value), key)


def _section(section: type[Section] | None, name: str) -> type[Section] | None:
    """The section that a key of a section is, if it is one."""
    field = section.model_fields.get(name) if section else None
    kinds = (field.annotation, *get_args(field.annotation)) if field else ()
    return next((it for it in kinds if isinstance(it, type) and issubclass(it, Section)), None)


def _says_something(value: Any) -> bool:
    """Whether a value can be a secret: a flag, null and an empty text cannot."""
    return value is not None and not isinstance(value, bool) and value not in ("", [], {})


def _unknown_option(value: str, key: str) -> str | None:
    """A parameter of an address that no storage has: it may be a credential of any name."""
    if key.startswith(tuple(_REMEDIES)) or key.startswith("catalog.iceberg"):
        return None  # other addresses; those of endpoints have no parameters at all
    for found in _QUERY.finditer(value):
        for parameter in re.split("[&;]", found["query"]):
            name = unquote(parameter.partition("=")[0])
            if name and name not in _OPTIONS:
                return f"the parameter '{name[:40]}' in an address, which no storage has"
    return None


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return None


def _remedy(key: str, values: Any) -> str:
    section, _, rest = key.partition("catalog.iceberg.")
    if not section and rest:
        name = str(dict(dict(values)["catalog"])["iceberg"].get("name", "default")).upper()
        variable = rest.upper().replace(".", "__").replace("-", "_")
        return f"set PYICEBERG_CATALOG__{name}__{variable} in the environment instead"
    near = (advice for prefix, advice in _REMEDIES.items() if key.startswith(f"{prefix}."))
    return next(near, _REMEDY)
