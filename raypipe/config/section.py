"""A section of the configuration, and the mark of keys that change no outcome."""

from typing import Any

from pydantic import BaseModel, ConfigDict, JsonValue

RESOURCE: dict[str, JsonValue] = {"resource": True}


class Section(BaseModel):
    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        allow_inf_nan=False,
        use_attribute_docstrings=True,
        hide_input_in_errors=True,
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
