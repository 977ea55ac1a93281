"""Configuration: each setting declared once, as YAML key, flag, help text and validation.

``Config`` is frozen and read only where a run is wired. Defaults are those of the ``quick`` recipe. One module per group
of settings; ``structural`` marks a setting without which a resumed run would be another run.
"""

from fer_ignite.config.data import DATA_SETTINGS, READING_SETTINGS
from fer_ignite.config.fields import parse_duration, parse_image_sizes, parse_yaml
from fer_ignite.config.names import nearest_setting
from fer_ignite.config.optimizer import OF_ONE_OPTIMIZER, OPTIMIZER_DEFAULTS
from fer_ignite.config.reading import check, merged, read_yaml
from fer_ignite.config.schema import json_schema
from fer_ignite.config.settings import (
    GROUPS,
    Config,
    changed_settings,
    default_settings,
    field_facts,
)

__all__ = [
    "DATA_SETTINGS",
    "GROUPS",
    "OF_ONE_OPTIMIZER",
    "OPTIMIZER_DEFAULTS",
    "READING_SETTINGS",
    "Config",
    "changed_settings",
    "check",
    "default_settings",
    "field_facts",
    "json_schema",
    "merged",
    "nearest_setting",
    "parse_duration",
    "parse_image_sizes",
    "parse_yaml",
    "read_yaml",
]
