"""A section of the configuration, and which stages each key belongs to.

A section names the stages whose outcome its keys change; a field with other stages says so with
:func:`changes`, :data:`RESOURCE` or :data:`UPSTREAM`. A stage takes its keys from here, so that a
new key is part of its fingerprint without another line.
"""

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, JsonValue
from pydantic.fields import FieldInfo

Stage = Literal[
    "prepare",
    "images",  # of listings that are not the run's own
    "greedy",
    "sampling",
    "endpoint",
    "consensus",
    "subset",
    "sft",
    "training",
    "reference",
    "evaluation",
    "vote",  # evaluated instead of a greedy answer
    "labels",
    "calibration",
    "quality",
    "annotation",
    "export",
]
"""What a fingerprint is made for."""
RESOURCE: dict[str, JsonValue] = {"resource": True}
"""How fast, where and at what price: in no fingerprint."""
UPSTREAM: dict[str, JsonValue] = {"upstream": True}
"""Chooses what the stages get (files, policies, listings): fingerprints hold that by its digest,
and the key itself in none."""


def changes(*names: Stage) -> dict[str, JsonValue]:
    """Marks a field whose key changes the outcome of these stages."""
    return {"stages": list(names)}


def resource_entries(*names: str) -> dict[str, JsonValue]:
    """Marks a field that is a mapping, of which these entries are resources."""
    return {"resource_entries": list(names)}


class Section(BaseModel):
    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        allow_inf_nan=False,
        use_attribute_docstrings=True,
        hide_input_in_errors=True,
    )
    stages: ClassVar[tuple[Stage, ...]] = ()
    """The stages whose outcome a key changes when its field is not marked."""

    def outcome_keys(self) -> dict[str, Any]:
        """The keys that change what comes out, as JSON values; resource keys are left out."""
        return dict(self._kept(None))

    def fingerprint_keys(self, stage: Stage) -> dict[str, Any]:
        """The dotted keys that change the outcome of a stage, as JSON values."""
        return flatten(dict(self._kept(stage)))

    @classmethod
    def stages_of(cls, name: str) -> tuple[Stage, ...]:
        """The stages whose outcome a key of this section changes."""
        mark = _mark(cls.model_fields[name])
        if mark.get("resource") or mark.get("upstream"):
            return ()
        return tuple(mark.get("stages", cls.stages))

    def _kept(self, stage: Stage | None) -> Iterator[tuple[str, Any]]:
        """Names and JSON values of the keys of a stage; None takes those of any outcome."""
        dumped = self.model_dump(mode="json")
        for name, field in type(self).model_fields.items():
            value, mark = getattr(self, name), _mark(field)
            if mark.get("resource"):
                continue
            if isinstance(value, Section):
                yield name, dict(value._kept(stage))
            elif stage is None or stage in self.stages_of(name):
                resources = mark.get("resource_entries")
                yield name, dumped[name] if resources is None else _but(dumped[name], resources)


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one level of dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def _mark(field: FieldInfo) -> dict[str, Any]:
    extra = field.json_schema_extra
    return dict(extra) if isinstance(extra, dict) else {}


def _but(values: Mapping[str, Any], names: list[str]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if key not in names}
