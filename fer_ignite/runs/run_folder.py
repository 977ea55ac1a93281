"""The folder of a run: its name, and whether a start continues the run that lies in it."""

import contextlib
import os
import re
from collections.abc import Sequence
from pathlib import Path

from fer_ignite.checkpoint.format import load_checkpoint
from fer_ignite.checkpoint.paths import resolve_checkpoint, step_files
from fer_ignite.checkpoint.remote_run import runs_in_store, working_copies
from fer_ignite.checkpoint.run_dir import RunDir
from fer_ignite.config import Config, read_yaml
from fer_ignite.distributed import requeue_count, restart_count
from fer_ignite.errors import CheckpointError, ConfigError, FerError, FolderInUseError
from fer_ignite.imports import is_object_name
from fer_ignite.runs.hold import ask_store
from fer_ignite.stores.store import file_name, is_url

__all__ = [
    "began_with",
    "choose_folder",
    "default_name",
    "holds_a_run_error",
    "is_begun_again",
    "lies_in",
    "local_out",
    "repeats",
    "require_free_folders",
]


def choose_folder(config: Config) -> tuple[RunDir, bool]:
    """``out/name``; without a name, ``out/<model>-<data>`` with a number where that is taken, one more than the highest. And whether it was there.

    Without a name, ``--resume`` of a run's folder or of a file in it continues there, and of another file in a new folder, which
    torchrun's restart finds again. An unnamed new folder is made at once: two runs that start together get two. Where ``out`` is a URL, the
    folder is a working copy, and a name is also taken where the store has it.
    """
    out = local_out(config.out)
    # Also where a name is given: a file that isn't there is refused before anything is made.
    checkpoint = _named_checkpoint(config)
    own = None if checkpoint is None or config.name is not None else _own_run(checkpoint)
    if own is not None:
        return own, True
    if config.name is not None:
        return RunDir(out / config.name), (out / config.name).exists()
    names = [path.name for path in out.iterdir()] if out.is_dir() else []
    if is_url(config.out):
        names += ask_store("--out", lambda: runs_in_store(config.out), wait_s=config.store_wait)
    base = default_name(config)
    # Behind the highest number, also where a lower one is free again: the numbers keep the order of the starts.
    highest = max((_number(name, base) for name in names), default=0)
    # A restarted attempt and --resume auto continue in the newest folder, all else gets a new one.
    if highest > 0 and (config.resume in ("auto", "last") or repeats(config)):
        newest = _numbered(out, base, number=highest)
        return RunDir(newest), newest.exists()
    try:
        out.mkdir(parents=True, exist_ok=True)
    except FileExistsError:  # also a link whose target is missing
        raise ConfigError(
            f"--out {config.out}: it is there and is no folder; mount or remove it, or name another folder."
        ) from None
    while True:
        highest += 1
        # mkdir is atomic: of two runs that start together one gets the name.
        with contextlib.suppress(FileExistsError):
            _numbered(out, base, number=highest).mkdir()
            return RunDir(_numbered(out, base, number=highest)), False


def default_name(config: Config) -> str:
    """What an unnamed run's folder is called, before its number."""
    return f"{_plain_name(config.model)}-{_plain_name(config.data)}"


def _numbered(out: Path, base: str, *, number: int) -> Path:
    return out / (base if number == 1 else f"{base}-{number}")


def _number(name: str, base: str) -> int:
    """What :func:`_numbered` was given for a name; 0 for the name of another run."""
    if name == base:
        return 1
    match = re.fullmatch(re.escape(base) + r"-([2-9]|[1-9]\d+)", name)
    return 0 if match is None else int(match[1])


def _plain_name(text: str) -> str:
    text = file_name(text) if is_url(text) else text.removeprefix("timm:")
    stem = Path(text.split(":")[0]).stem if not is_object_name(text) else text.split(":")[1]
    return "".join(c if c.isalnum() or c in "_." else "_" for c in stem)[:60] or "data"


def local_out(out: str) -> Path:
    """The folder of runs on this machine: ``--out`` itself, or for a URL that of the working copies."""
    return working_copies(out) if is_url(out) else Path(out)


def require_free_folders(configs: Sequence[Config]) -> None:
    """Refuses several named runs of which one's folder holds a run already, before the first of them trains.

    Raises:
        FolderInUseError: naming the folder.
    """
    for config in configs:
        folder = RunDir(local_out(config.out) / str(config.name))
        continues = (
            config.resume in ("auto", "last") or repeats(config) or is_begun_again(folder, config)
        )
        if folder.holds_a_run and not (continues or config.exist_ok):
            raise holds_a_run_error(folder.path)


def holds_a_run_error(place: str | Path) -> FolderInUseError:
    """The error for a start in a folder, or under a URL, where a run lies that it does not continue."""
    return FolderInUseError(
        f"{place} holds a run; continue it with --resume auto, start a new run in it with --exist-ok, "
        "or choose another --name."
    )


def is_begun_again(folder: RunDir, config: Config) -> bool:
    """Whether the run in the folder was killed before its first checkpoint, and ``--resume`` names what to begin with."""
    begun = any(folder.checkpoints.glob("*.pt"))
    return config.resumes_from_named and not begun and not folder.summary.exists()


def _own_run(checkpoint: Path) -> RunDir | None:
    """The run in whose folder a checkpoint lies; None for a copy elsewhere, also in a folder that is called ``checkpoints``."""
    folder = RunDir(checkpoint.parent.parent)
    return folder if checkpoint.parent.name == "checkpoints" and folder.config.is_file() else None


def began_with(folder: RunDir, requested: str) -> bool:
    """Whether the newest start in a folder had this text as ``--resume``."""
    try:
        return read_yaml(folder.config).get("resume") == requested
    except (OSError, FerError):
        return False


def repeats(config: Config) -> bool:
    """Whether this start repeats an earlier one's command line, and continues what that one has saved."""
    if restart_count() > 0:
        return True
    # A requeued job may run several lines, also from a notebook: a run is this line's if it began with the same checkpoint.
    if requeue_count() == 0 or not config.resumes_from_named:
        return False
    if config.name is not None:
        folder: RunDir | None = RunDir(local_out(config.out) / config.name)
    else:
        folder = None if is_url(config.resume) else _own_run(Path(str(config.resume)))
    return folder is not None and began_with(folder, str(config.resume))


def _named_checkpoint(config: Config) -> Path | None:
    """The file on this machine that ``--resume`` names; None for a newest resume point, and for a URL.

    Raises:
        CheckpointError: there is no such file.
    """
    if not config.resumes_from_named or is_url(config.resume):
        return None
    try:
        path = _resume_file(str(config.resume))
        # The attempt before may have removed it, as one of the older resume points.
        if not os.path.lexists(path) and not repeats(config):
            load_checkpoint(path)  # raises, in the words of all commands
    except CheckpointError as error:
        raise CheckpointError(f"--resume: {error}") from None
    return path


def _resume_file(requested: str) -> Path:
    """The file itself, or of a run's folder the newest resume point by its name; it is not read."""
    newest_first = step_files(Path(requested) / "checkpoints")
    return newest_first[0][1] if newest_first else resolve_checkpoint(requested)


def lies_in(folder: RunDir, checkpoint: Path) -> bool:
    """Whether a checkpoint is one of the run in a folder."""
    return checkpoint.parent.resolve() == folder.checkpoints.resolve()
