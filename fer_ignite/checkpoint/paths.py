"""Names of a run's checkpoints, and the file that a path means; no torch, so that a wrong path is refused at once."""

import math
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from fer_ignite.checkpoint.archive import refuse_unreadable
from fer_ignite.checkpoint.atomic_io import shown
from fer_ignite.errors import CheckpointError
from fer_ignite.imports import split_names
from fer_ignite.stores.store import is_url

__all__ = [
    "BEST_NAME",
    "LAST_NAME",
    "Member",
    "ensemble_members",
    "ensemble_name",
    "network_title",
    "require_checkpoint",
    "require_entry",
    "resolve_checkpoint",
    "step_files",
    "step_of",
    "weighted_name",
]

BEST_NAME, LAST_NAME = "best.pt", "last.pt"
_STEP_NAME = re.compile(r"step-(\d{1,15})\.pt")


class Member(NamedTuple):
    """One checkpoint of an ensemble, and its weight in the average; the weights of an ensemble add up to 1."""

    path: str
    weight: float


def ensemble_members(name: str | os.PathLike[str]) -> tuple[Member, ...]:
    """The checkpoints that a name means: one, or several that are comma separated, each with ``=WEIGHT`` behind it or none.

    A name under which something lies is one checkpoint, whatever characters it has.

    Raises:
        CheckpointError: an empty part, weights for some parts only, or a weight that is not a number above 0.
    """
    text = os.fspath(name)
    names = split_names(text)
    if len(names) == 1:
        return (Member(text, 1.0),)
    # From the right: a path may hold "=" too. A part without one comes back in the last place.
    parts = [part.rpartition("=") for part in names]
    pairs = [(path, weight) if path else (weight, "") for path, _, weight in parts]
    if not all(path for path, _ in pairs) or len({bool(weight) for _, weight in pairs}) > 1:
        raise CheckpointError(
            f"{shown(text)} is no ensemble; name checkpoints as A,B,C, or all with weights as A=0.5,B=0.3,C=0.2."
        )
    try:
        weights = [float(weight or 1.0) for _, weight in pairs]
    except ValueError:
        weights = [math.nan]
    if not all(0 < weight < math.inf for weight in weights):
        raise CheckpointError(
            f"{shown(text)}: each weight of an ensemble needs to be a number above 0."
        )
    total = math.fsum(weights)
    return tuple(
        Member(path, weight / total) for (path, _), weight in zip(pairs, weights, strict=True)
    )


def ensemble_name(paths: Sequence[str], weights: Sequence[float] | None = None) -> str:
    """The name of an ensemble, as :func:`ensemble_members` reads it.

    Raises:
        CheckpointError: another number of weights than of checkpoints.
    """
    if not paths or any("," in path for path in paths):
        raise CheckpointError(
            "an ensemble needs at least one checkpoint, and no comma in their paths."
        )
    if weights is None or len(paths) == len(weights) == 1:
        return ",".join(paths)
    if len(weights) != len(paths):
        raise CheckpointError(
            f"{len(weights)} weights for {len(paths)} checkpoints; give one weight for each checkpoint."
        )
    return ",".join(f"{path}={weight:.6g}" for path, weight in zip(paths, weights, strict=True))


def weighted_name(
    path: str | Path | Sequence[str | Path], weights: Sequence[float] | None = None
) -> str | Path:
    """The name of one checkpoint or of several, as a list or comma separated in a text, with weights where they are given.

    Returns:
        A text, or ``path`` as it is where it is neither a list nor has weights.
    Raises:
        CheckpointError: another number of weights than of checkpoints, or weights in the text as well.
    """
    if isinstance(path, Sequence) and not isinstance(path, str):
        return ensemble_name([str(part) for part in path], weights)
    if weights is None or not isinstance(path, (str, Path)):
        return path
    text = str(path)
    names = split_names(text)
    if [member.path for member in ensemble_members(text)] != list(names):
        raise CheckpointError(
            f"{shown(text)} has weights already; leave them out there, or leave weights out."
        )
    # One name with a comma in it is a file, not an ensemble.
    return text if len(names) == len(weights) == 1 else ensemble_name(names, weights)


def network_title(name: str | os.PathLike[str]) -> str:
    """What a page calls the network under a name: the file, or how many networks an ensemble has."""
    members = ensemble_members(name)
    return (
        Path(members[0].path).name if len(members) == 1 else f"ensemble of {len(members)} networks"
    )


def resolve_checkpoint(path: str | os.PathLike[str]) -> Path:
    """The checkpoint that a path means: the file itself, or of a run's folder the best one, else the last one.

    What a URL names is downloaded.

    Raises:
        CheckpointError: a folder that holds no run, a run without a checkpoint, or a store that can't be read.
    """
    if is_url(path):
        # Not at the top: remote_files imports this module.
        from fer_ignite.checkpoint.remote_files import local_checkpoint

        path = local_checkpoint(str(path))
    folder = Path(path)
    if not folder.is_dir():
        return folder
    checkpoints = folder / "checkpoints"
    if not (folder / "config.yaml").is_file():
        raise CheckpointError(
            f"{shown(path)} is neither a checkpoint nor a run's folder; name one of these."
        )
    named = [checkpoints / name for name in (BEST_NAME, LAST_NAME)]
    found = [file for file in named if file.is_file()] or [
        file for _, file in step_files(checkpoints)
    ]
    if not found:
        raise CheckpointError(
            f"{shown(path)} holds a run without a checkpoint; let it train until it has saved one."
        )
    return found[0]


def require_checkpoint(path: str | os.PathLike[str]) -> None:
    """Refuses a path under which nothing lies, before torch is imported.

    Raises:
        CheckpointError: as :func:`fer_ignite.checkpoint.format.load_checkpoint` words it.
    """
    for member in ensemble_members(path):
        try:
            os.lstat(resolve_checkpoint(member.path))
        except (OSError, ValueError) as error:
            refuse_unreadable(member.path, error)


def require_entry(path: str | os.PathLike[str]) -> None:
    """Refuses a path on this machine under which nothing lies; what lies there is not looked at.

    Raises:
        CheckpointError: as :func:`fer_ignite.checkpoint.format.load_checkpoint` words it.
    """
    try:
        os.lstat(path)
    except (OSError, ValueError) as error:
        refuse_unreadable(path, error)


def step_files(folder: Path) -> list[tuple[int, Path]]:
    """The resume points of a folder with their iterations, newest first."""
    entries = folder.iterdir() if folder.is_dir() else ()
    found = [(step_of(entry.name), entry) for entry in entries]
    # By number: as text, step-5 would be newer than step-10.
    return sorted(((step, entry) for step, entry in found if step is not None), reverse=True)


def step_of(name: str, *, folder: str = "") -> int | None:
    """The iteration of a resume point by its file's name, behind that of a folder; None for other files."""
    match = _STEP_NAME.fullmatch(name.removeprefix(folder)) if name.startswith(folder) else None
    return int(match[1]) if match else None
