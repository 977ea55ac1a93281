"""Recipes: YAML files headed by their command, hardware, measured accuracy and time."""

import difflib
from importlib.resources import files
from typing import Any

from fer_ignite.config import read_yaml
from fer_ignite.errors import ConfigError

__all__ = ["read_recipe", "recipe_names"]


def recipe_names() -> list[str]:
    """The shipped recipes."""
    return sorted(
        entry.name.removesuffix(".yaml")
        for entry in files(__name__).iterdir()
        if entry.name.endswith(".yaml")
    )


def read_recipe(name: str) -> dict[str, Any]:
    """A recipe's settings.

    Raises:
        ConfigError: there is no such recipe.
    """
    names = recipe_names()
    if name not in names:
        near = difflib.get_close_matches(name, names, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise ConfigError(
            f"there is no recipe {name!r}; {hint}there are {', '.join(names)}; --config takes a file."
        )
    return read_yaml(str(files(__name__) / f"{name}.yaml"))
