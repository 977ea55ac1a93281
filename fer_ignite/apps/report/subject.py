"""Resolution of a run's folder or a checkpoint's path to checkpoint and run."""

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fer_ignite.checkpoint.format import load_checkpoint
from fer_ignite.checkpoint.paths import resolve_checkpoint
from fer_ignite.checkpoint.run_dir import RunDir
from fer_ignite.data.images import printable
from fer_ignite.errors import CheckpointError
from fer_ignite.inference.loaded_model import find_run_dir

__all__ = ["RunReference", "resolve_run"]


@dataclass(frozen=True)
class RunReference:
    """One network of a report; ``folder`` is None for a checkpoint that was copied out of its run."""

    checkpoint: Path
    folder: RunDir | None

    @functools.cached_property
    def config(self) -> Mapping[str, Any]:
        """The run's settings, read out of the checkpoint once."""
        config: Mapping[str, Any] = load_checkpoint(self.checkpoint)["config"]
        return config

    @property
    def name(self) -> str:
        """What people call it: the run's name, else the file's, as one printable line."""
        return printable(
            self.folder.path.resolve().name if self.folder is not None else self.checkpoint.name
        )


def resolve_run(path: str | Path) -> RunReference:
    """The checkpoint that a path means: itself, or a run's best one, its last one where there is no best.

    Raises:
        CheckpointError: it is neither a file nor a run's folder, or a run that has not saved a checkpoint yet.
    """
    checkpoint = resolve_checkpoint(path)
    if not checkpoint.is_file():
        raise CheckpointError(
            f"{printable(path)} is neither a checkpoint nor a run's folder; name one of these."
        )
    return RunReference(checkpoint, find_run_dir(checkpoint))
