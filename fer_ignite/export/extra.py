"""Libraries that only exports need, imported when they are asked for, with one sentence where they are missing."""

import importlib
from typing import Any

from fer_ignite.errors import ConfigError

__all__ = ["optional_library"]


def optional_library(name: str, *, purpose: str) -> Any:
    """The module ``name``.

    Args:
        purpose: what needs it, the sentence's beginning.
    Raises:
        ConfigError: it is not installed; the sentence says what to install.
    """
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] != name.split(".")[0]:
            raise
        raise ConfigError(
            f'{purpose} needs {name.split(".")[0]}, which is not installed: pip install "fer-ignite[export]".'
        ) from None
