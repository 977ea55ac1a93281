"""Resolution of a run's folder, a checkpoint's path or an ensemble's name to checkpoints and run."""

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fer_ignite.checkpoint.format import load_checkpoint
from fer_ignite.checkpoint.paths import ensemble_members, ensemble_name, resolve_checkpoint
from fer_ignite.checkpoint.run_dir import RunDir
from fer_ignite.data.images import printable
from fer_ignite.errors import CheckpointError
from fer_ignite.inference.loaded_model import find_run_dir

__all__ = ["RunReference", "resolve_run"]


@dataclass(frozen=True)
class RunReference:
    """One network of a report.

    Attributes:
        source: what ``evaluate`` and ``load_model`` take: the checkpoint, or an ensemble's name.
        checkpoint: the file; of an ensemble the first one, whose settings count.
        folder: None for a checkpoint that was copied out of its run, and for an ensemble.
    """

    source: str
    checkpoint: Path
    folder: RunDir | None

    @property
    def is_ensemble(self) -> bool:
        """Whether the probabilities of several checkpoints are averaged."""
        return len(ensemble_members(self.source)) > 1

    # It writes into __dict__, so a frozen dataclass may have one.
    @functools.cached_property
    def config(self) -> Mapping[str, Any]:
        """The run's settings, read out of the checkpoint once."""
        config: Mapping[str, Any] = load_checkpoint(self.checkpoint)["config"]
        return config

    @property
    def name(self) -> str:
        """What people call it: the run's name, else the file's, as one printable line; of an ensemble all names."""
        if self.is_ensemble:
            paths = [Path(member.path) for member in ensemble_members(self.source)]
            return "ensemble of " + ", ".join(resolve_run(path).name for path in paths)
        return printable(
            self.folder.path.resolve().name if self.folder is not None else self.checkpoint.name
        )


def resolve_run(path: str | Path) -> RunReference:
    """The checkpoint that a path means: itself, or a run's best one, its last one where there is no best.

    Several, comma separated, are an ensemble; see :func:`ensemble_members`.

    Raises:
        CheckpointError: it is neither a file nor a run's folder, or a run that has not saved a checkpoint yet.
    """
    members = ensemble_members(path)
    if len(members) > 1:
        files = [resolve_run(member.path).checkpoint for member in members]
        name = ensemble_name([str(file) for file in files], [member.weight for member in members])
        return RunReference(name, files[0], None)
    checkpoint = resolve_checkpoint(path)
    if not checkpoint.is_file():
        raise CheckpointError(
            f"{printable(path)} is neither a checkpoint nor a run's folder; name one of these."
        )
    return RunReference(str(checkpoint), checkpoint, find_run_dir(checkpoint))
