"""Table of a run's settings: value, default, meaning, changed or not."""

from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from fer_ignite.config import Config, default_settings, field_facts

__all__ = ["differing_settings", "setting_rows"]


def setting_rows(config: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One row per setting in the order of their declaration: name, group, value, default, help, whether it was changed.

    Settings of another version of the program come last, without help.
    """
    plain = default_settings(config)
    rows = []
    for name in Config.model_fields:
        if name in config:
            facts = field_facts(name)
            value, default = format_value(config[name]), format_value(plain[name])
            rows.append(
                {
                    "name": name,
                    "group": facts["group"],
                    "value": value,
                    "default": default,
                    "help": facts["help"],
                    "changed": value != default,
                }
            )
    for name in sorted(str(key) for key in config if key not in Config.model_fields):
        rows.append(
            {
                "name": name,
                "group": "unknown",
                "value": format_value(config[name]),
                "default": "",
                "help": "",
                "changed": True,
            }
        )
    return rows


def differing_settings(configs: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The settings in which runs differ, by name, with each run's value; where a run writes to doesn't count."""
    names = [
        name
        for name in Config.model_fields
        if name not in ("out", "name", "quiet", "verbose", "summary")
    ]
    rows = []
    for name in names:
        values = [format_value(config.get(name)) for config in configs]
        if len(set(values)) > 1:
            rows.append({"name": name, "values_of": values, "help": field_facts(name)["help"]})
    return rows


def format_value(value: Any) -> str:
    """A setting's value as YAML writes it, on one line."""
    text: str = yaml.safe_dump(
        value, default_flow_style=True, allow_unicode=True, width=10_000, sort_keys=False
    )
    # YAML ends a single plain value with "..." on a line of its own.
    return text.removesuffix("\n").removesuffix("...").strip()
