"""Names of a run's checkpoints, and the file that a path means; no torch, so that a wrong path is refused at once."""

import os
import re
from pathlib import Path

from fer_ignite.checkpoint.archive import refuse_unreadable
from fer_ignite.checkpoint.atomic_io import shown
from fer_ignite.errors import CheckpointError

__all__ = ["BEST_NAME", "LAST_NAME", "require_checkpoint", "resolve_checkpoint", "step_files"]

BEST_NAME, LAST_NAME = "best.pt", "last.pt"
_STEP_NAME = re.compile(r"step-(\d{1,15})\.pt")


def resolve_checkpoint(path: str | os.PathLike[str]) -> Path:
    """The checkpoint that a path means: the file itself, or of a run's folder the best one, else the last one.

    Raises:
        CheckpointError: a folder that holds no run, or a run without a checkpoint.
    """
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
    try:
        os.lstat(resolve_checkpoint(path))
    except (OSError, ValueError) as error:
        refuse_unreadable(path, error)


def step_files(folder: Path) -> list[tuple[int, Path]]:
    """The resume points of a folder with their iterations, newest first."""
    matches = (
        [(entry, _STEP_NAME.fullmatch(entry.name)) for entry in folder.iterdir()]
        if folder.is_dir()
        else []
    )
    return sorted(((int(match[1]), entry) for entry, match in matches if match), reverse=True)
