"""Validation of flags that are no settings: finite numbers, writable files."""

import contextlib
import math
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, overload

import click

from fer_ignite.errors import ConfigError
from fer_ignite.terminal import status

__all__ = [
    "FiniteRange",
    "loading_torch",
    "require_checkpoints",
    "require_data",
    "require_writable",
    "with_weights",
]


class FiniteRange(click.FloatRange):
    """A finite number in a range; click's own accepts nan, for which every comparison is false."""

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
    named = Path(str(path))
    # A link to a file that is not there yet: the file is made where the link says.
    if named.is_symlink() and not named.exists():
        named = Path(os.path.realpath(named))
    target = named.absolute()
    if not target.parent.is_dir():
        raise ConfigError(
            f"{flag}: {path} can't be written: there is no folder {named.parent}; make it first."
        )
    if target.is_dir() or not os.access(target if target.exists() else target.parent, os.W_OK):
        raise ConfigError(
            f"{flag}: {path} can't be written: it is a folder or not yours to write; name another file."
        )


def require_checkpoints(paths: Iterable[str | None]) -> None:
    """Fails before torch is imported where a checkpoint or run is missing.

    Raises:
        CheckpointError: nothing lies under a path, or no checkpoint in a run's folder.
    """
    from fer_ignite.checkpoint.paths import require_checkpoint

    for path in paths:
        if path is not None:
            require_checkpoint(path)


@overload
def with_weights(name: str, weights: str | None) -> str: ...
@overload
def with_weights(name: str | None, weights: str | None) -> str | None: ...
def with_weights(name: str | None, weights: str | None) -> str | None:
    """The name of an ensemble with the weights of ``--weights``; without them the name as it is.

    Args:
        name: None where no checkpoint was named and the shipped network is used.

    Raises:
        ConfigError: no list of positive numbers, or one checkpoint alone, or none.
        CheckpointError: another number of weights than of checkpoints.
    """
    from fer_ignite.checkpoint.paths import ensemble_members, ensemble_name

    if weights is None:
        return name
    try:
        numbers = [float(part) for part in weights.split(",")]
    except ValueError:
        numbers = []
    # Also false for NaN.
    if not numbers or not all(0 < number < math.inf for number in numbers):
        raise ConfigError(
            f"--weights {weights!r} is no list of numbers above 0; write --weights 0.5,0.3,0.2."
        )
    if name is None:
        raise ConfigError("--weights: no checkpoint is named; name several as A,B,C.")
    paths = [member.path for member in ensemble_members(name)]
    if len(paths) < 2:
        raise ConfigError(f"--weights: {name} is one checkpoint; name several as A,B,C.")
    return ensemble_name(paths, numbers)


def require_data(sources: Iterable[str]) -> None:
    """Fails before torch is imported where a data set is missing.

    Raises:
        DataError: nothing lies under a path.
    """
    from fer_ignite.data.readers.find import require_source  # imports numpy

    for source in sources:
        require_source(source)


def loading_torch() -> contextlib.AbstractContextManager[None]:
    """A line on the terminal while a command imports what it needs of torch, which takes seconds."""
    return status("loading torch")
