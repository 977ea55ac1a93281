"""The settings as a JSON schema."""

from collections.abc import Sequence
from typing import Any, get_args

from pydantic import BeforeValidator

from fer_ignite.config.settings import Config, field_facts

__all__ = ["json_schema"]


def json_schema() -> dict[str, Any]:
    """The settings as a JSON schema (draft 2020-12): types, ranges, choices, defaults and descriptions."""
    schema = Config.model_json_schema()
    properties = {}
    for name, entry in schema["properties"].items():
        facts, field = field_facts(name), Config.model_fields[name]
        unit = f" ({facts['unit']})" if facts["unit"] else ""
        shape = {key: value for key, value in entry.items() if key not in _REPLACED}
        default = {"default": shape.pop("default")}
        if _takes_text((field.annotation, *field.metadata)):
            kinds = shape.get("anyOf", [shape])
            # One number stands for a list of it.
            single = [
                kind["items"]
                for kind in kinds
                if kind.get("items", {}).get("type") in ("integer", "number")
            ]
            shape = {"anyOf": [*kinds, *single, {"type": "string"}]}
        described = {"title": facts["group"], "description": facts["help"] + unit}
        properties[name] = {**described, **default, **shape}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "fer_ignite configuration",
        "description": "Settings of `fer-ignite train --config FILE`.",
        "type": "object",
        "additionalProperties": False,
        "properties": properties,
        **({"$defs": schema["$defs"]} if "$defs" in schema else {}),
    }


def _takes_text(parts: Sequence[Any]) -> bool:
    """Whether a setting's type also reads a text: a list with commas, a duration, a mapping in YAML."""
    return any(isinstance(part, BeforeValidator) or _takes_text(get_args(part)) for part in parts)


# What `setting` adds to a field, and what is said in the settings' own words.
_REPLACED = ("unit", "structural", "repeat", "title", "description")
