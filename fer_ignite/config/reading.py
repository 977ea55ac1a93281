"""Configurations out of files and layers of settings, with one sentence for what is wrong."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from fer_ignite.config.fields import parse_yaml
from fer_ignite.config.names import nearest_setting
from fer_ignite.config.optimizer import OF_ONE_OPTIMIZER
from fer_ignite.config.settings import Config
from fer_ignite.errors import ConfigError

__all__ = ["check", "merged", "read_yaml"]

_LARGEST_YAML = 1_000_000  # bytes


def check(values: Mapping[str, Any]) -> Config:
    """The configuration that ``values`` and the defaults make.

    Raises:
        ConfigError: an unknown key (with the nearest known one), or the first wrong value.
    """
    # Before pydantic, whose message for an unknown key names no near one.
    unknown = [key for key in values if key not in Config.model_fields]
    if unknown:
        name = str(unknown[0])
        near = nearest_setting(name)
        hint = f"did you mean {near!r}?" if near else "--print-config lists all settings."
        raise ConfigError(f"there is no setting {unknown[0]!r}; {hint}")
    try:
        return Config(**values)
    except ValidationError as error:
        raise ConfigError(_sentence(error)) from None


def _sentence(error: ValidationError) -> str:
    first = error.errors()[0]
    message = first["msg"].removeprefix("Value error, ")
    # Of a check across settings, whose text names them.
    if not first["loc"]:
        return f"{message}."
    message = message.replace("Input should be", "needs to be").rstrip(".")
    if first["type"] == "string_type" and not isinstance(first["input"], (list, tuple, dict)):
        message = "needs to be text; write it in quotes"  # name: 5 is a number in YAML
    name = str(first["loc"][0])
    flag = "--" + name.replace("_", "-")
    return f"{flag} (setting {name}): got {first['input']!r}, {message}."


def read_yaml(path: str | Path) -> dict[str, Any]:
    """The settings in a YAML file.

    Raises:
        ConfigError: no such file, no regular file, above 1 MB, not YAML, not a mapping of settings, or one twice.
    """
    try:
        # a device or a pipe could be read for ever
        if Path(path).exists() and not Path(path).is_file():
            raise ConfigError(
                f"{path} can't be read as a configuration: it is no regular file; name a YAML file."
            )
        if Path(path).stat().st_size > _LARGEST_YAML:
            raise ConfigError(
                f"{path} is above {_LARGEST_YAML:,} bytes, and a configuration has at most that."
            )
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise ConfigError(f"{path} can't be read as a configuration: {reason}.") from None
    try:
        values = parse_yaml(text)
    except ValueError as error:
        raise ConfigError(f"{path} is not valid YAML: {error}.") from None
    if values is None:
        return {}
    if not isinstance(values, dict) or not all(isinstance(key, str) for key in values):
        raise ConfigError(
            f"{path} holds no settings; write one 'name: value' per line, as --print-config does."
        )
    settings: dict[str, Any] = {}
    for key, value in values.items():
        if (name := key.replace("-", "_")) in settings:
            raise ConfigError(
                f"{path} has {name} twice, with a dash and with an underscore; keep one of them."
            )
        settings[name] = value
    return settings


def merged(*layers: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of all layers, the later ones winning.

    Learning rates, weight decay, momentum and ``opt_eps`` belong to the optimizer that their layer names: where a later layer
    names another optimizer, they are dropped, so that its own values or that optimizer's defaults hold.
    """
    values: dict[str, Any] = {}
    for layer in layers:
        if "opt" in values and layer.get("opt", values["opt"]) != values["opt"]:
            values = {name: value for name, value in values.items() if name not in OF_ONE_OPTIMIZER}
        values.update(layer)
    return values
