"""Resolution of a run's folder or a checkpoint's path to checkpoint and run."""

from dataclasses import dataclass
from pathlib import Path

from fer_ignite.checkpoint.format import BEST_NAME, LAST_NAME, step_files
from fer_ignite.checkpoint.run_dir import RunDir
from fer_ignite.data.images import printable
from fer_ignite.errors import ConfigError
from fer_ignite.inference.loaded_model import find_run_dir

__all__ = ["RunReference", "resolve_run"]


@dataclass(frozen=True)
class RunReference:
    """One network of a report; ``folder`` is None for a checkpoint that was copied out of its run."""

    checkpoint: Path
    folder: RunDir | None

    @property
    def name(self) -> str:
        """What people call it: the run's name, else the file's, as one printable line."""
        return printable(
            self.folder.path.resolve().name if self.folder is not None else self.checkpoint.name
        )


def resolve_run(path: str | Path) -> RunReference:
    """The checkpoint that a path means: itself, or a run's best one, its last one where there is no best.

    Raises:
        ConfigError: it is neither a file nor a run's folder, or a run that has not saved a checkpoint yet.
    """
    path = Path(path)
    if path.is_file():
        return RunReference(path, find_run_dir(path))
    folder = RunDir(path)
    if not path.is_dir() or not folder.holds_a_run:
        raise ConfigError(
            f"{printable(path)} is neither a checkpoint nor a run's folder; name one of these."
        )
    named = [folder.checkpoints / BEST_NAME, folder.checkpoints / LAST_NAME]
    found = [file for file in named if file.is_file()] or [
        file for _, file in step_files(folder.checkpoints)
    ]
    if not found:
        raise ConfigError(
            f"{printable(path)} holds a run without a checkpoint; let it train until it has saved one."
        )
    return RunReference(found[0], folder)
