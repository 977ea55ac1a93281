"""Validation of flags that are no settings: finite numbers, writable files."""

import math
import os
from pathlib import Path
from typing import Any

import click

from fer_ignite.errors import ConfigError

__all__ = ["FiniteRange", "require_writable"]


class FiniteRange(click.FloatRange):
    """A finite number in a range; click's own takes nan, of which no comparison says that it is outside."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            allowed = (
                f"{self.min:g} or more" if self.max is None else f"{self.min:g} to {self.max:g}"
            )
            self.fail(f"{value} is no finite number; give {allowed}.", param, ctx)
        return number


def require_writable(flag: str, path: str | None) -> None:
    """Fails early where a result could not be written.

    Raises:
        ConfigError: there is no such folder, or a folder of that name.
    """
    if path in (None, "-"):
        return
    target = Path(str(path)).absolute()
    if not target.parent.is_dir():
        raise ConfigError(
            f"{flag}: {path} can't be written: there is no folder {Path(str(path)).parent}; make it first."
        )
    if target.is_dir() or not os.access(target if target.exists() else target.parent, os.W_OK):
        raise ConfigError(
            f"{flag}: {path} can't be written: it is a folder or not yours to write; name another file."
        )
