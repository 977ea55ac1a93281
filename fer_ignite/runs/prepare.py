"""Preparation of a run before any process starts: folder, lock, resume point, data.

Whatever is wrong here ends the program with one sentence and leaves the disk as it was.
"""

import contextlib
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from fer_ignite.checkpoint.atomic_io import clean_temporary
from fer_ignite.checkpoint.remote_files import run_url
from fer_ignite.checkpoint.remote_run import RemoteRun
from fer_ignite.checkpoint.run_dir import RunDir
from fer_ignite.checkpoint.run_lock import lock_folder
from fer_ignite.config import Config, check, merged
from fer_ignite.data.cache.format import open_cache
from fer_ignite.data.classes import number_warning
from fer_ignite.data.open import find_cache, require_shard_settings, resolve_exclude_list
from fer_ignite.distributed import restart_count
from fer_ignite.errors import ConfigError, FerError, StorageError
from fer_ignite.imports import load_object
from fer_ignite.runs.hold import RunHold, ask_store
from fer_ignite.runs.resume import (
    OF_ONE_START,
    best_is_lost,
    check_changes,
    find_resume_point,
    require_user_code,
    was_killed_early,
    why_finished,
)
from fer_ignite.runs.run_folder import (
    choose_folder,
    holds_a_run_error,
    is_begun_again,
    lies_in,
    local_out,
)
from fer_ignite.runs.unused_settings import unused_settings
from fer_ignite.runs.validate import check_handlers, check_names
from fer_ignite.stores.store import is_url, join_url, last_part, parent_url, refused_as
from fer_ignite.training.objects import find_objects

__all__ = ["RunSpec", "made_in_vain", "prepare", "run_guard", "undo"]

logger = logging.getLogger("fer_ignite")


@dataclass(frozen=True)
class RunSpec:
    """What every process of a run is given; it pickles.

    Attributes:
        config: the whole resolved configuration.
        cache_path: of the dataset cache; None for a user's data set.
        resume: the checkpoint to continue from.
        notes: sentences that are logged at the start.
        warnings: likewise, and shown under ``quiet`` too.
        finished: why there is nothing left to do, where that is so.
        made: folders that did not exist before, the innermost first.
        objects: Python objects that settings name, see :func:`fer_ignite.training.objects.with_objects`.
        best_lost: best.pt of the run that continues can't be used; the best epoch is chosen among those that follow.
        store: URL of the run's folder where ``--out`` is one; ``folder`` is its working copy then.
    """

    config: Mapping[str, Any]
    folder: str
    cache_path: str | None
    resume: str | None = None
    handlers: tuple[Callable[[Any], Any], ...] = ()
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    finished: str | None = None
    made: tuple[str, ...] = ()
    best_lost: bool = False
    store: str | None = None
    objects: Mapping[str, Any] = field(default_factory=dict)


def prepare(
    config: Config, given: Mapping[str, Any], *, handlers: Sequence[Callable[[Any], Any]] = ()
) -> tuple[RunSpec, RunHold]:
    """Finds or makes the folder, locks it, reads the resume point, builds the dataset cache.

    Where ``--out`` is a URL, the folder is a working copy, and what the store has more is downloaded to it.

    Args:
        config: the configuration of recipe, file and command line.
        given: the settings among them that were really given; a resumed run's own come before defaults.
    Raises:
        ConfigError, DataError, CheckpointError, FolderInUseError: one sentence; nothing was started.
        StorageError: at the restart of a failed attempt, the store of ``--out`` stays away.
    """
    check_handlers(config.handlers)
    config, given = _in_the_runs_store(config, given)
    out = local_out(config.out)
    # Noted before anything is made: a refused run removes what it has made, and nothing else.
    above = [path for path in (out, *out.parents) if not path.exists()]
    try:
        folder, existed = choose_folder(config)  # its StorageError is the store's
    except OSError as error:
        raise _not_made(config, out, str(error.strerror)) from None
    elsewhere = folder.path.parent.resolve() != out.resolve()
    if elsewhere and "out" in given:
        raise ConfigError(
            f"--out {config.out}: without a name, --resume {config.resume} continues in its own run's folder, {folder.path}; "
            "leave --out out, or add --name to continue in a new folder of it."
        )
    made = (
        ()
        if existed
        else (folder.tensorboard, folder.checkpoints, folder.plots, folder.path, *above)
    )
    try:
        folder.create()
    except (OSError, StorageError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error).split(". What was")[0]
        raise _not_made(config, folder.path, str(reason), elsewhere=elsewhere) from None
    # From here on no other run writes here; a second one gets FolderInUseError.
    hold = RunHold(lock_folder(folder.path))
    try:
        # Under the lock: another run's unfinished writes look the same.
        for place in (folder.path, folder.checkpoints, folder.tensorboard):
            clean_temporary(place)
        url = join_url(config.out, folder.path.name) if is_url(config.out) else None
        if url is not None:
            _open_store(url, folder, config, hold=hold)
        run_spec = _prepare_in(
            folder, config, given=given, handlers=tuple(handlers), remote=hold.remote
        )
        locking = () if hold.lock.warning is None else (hold.lock.warning,)
        return replace(
            run_spec,
            made=tuple(str(path) for path in made),
            warnings=(*locking, *run_spec.warnings),
            store=url,
        ), hold
    except BaseException:
        hold.release()
        _remove(folder, made)
        raise


def _not_made(config: Config, place: Path, reason: str, *, elsewhere: bool = False) -> ConfigError:
    """The error for a run's folder that can't be made or written to.

    Args:
        place: the folder, or that of all runs.
        elsewhere: it is that of the checkpoint, wherever ``--out`` is.
    """
    remedy = "set FER_IGNITE_CACHE" if is_url(config.out) else "choose another with --out"
    if elsewhere:
        remedy = "add --name to continue in a new folder of --out"
    return ConfigError(f"the run can't write to {place}: {reason}; {remedy}.")


def _in_the_runs_store(
    config: Config, given: Mapping[str, Any]
) -> tuple[Config, Mapping[str, Any]]:
    """``--resume s3://B/runs/NAME``, or one of its checkpoints, without a name continues in that run's own folder."""
    url = run_url(str(config.resume)) if is_url(config.resume) else None
    if url is None or config.name is not None:
        return config, given
    place = {"out": parent_url(url), "name": last_part(url)}
    return config.model_copy(update=place), {**given, **place}


def _open_store(url: str, folder: RunDir, config: Config, *, hold: RunHold) -> None:
    """Takes the run's folder in the store, and downloads what is there where the run is to continue."""
    resumes = config.resume is not None or restart_count() > 0
    with refused_as(ConfigError, "--out"):
        remote = hold.remote = RemoteRun(url, folder)
    ask_store("--out", remote.open, wait_s=config.store_wait)
    if resumes:
        ask_store("--out", remote.fetch, wait_s=config.store_wait)
        # Where the resume point is another run's, this one is replaced.
        hold.replaces = folder.holds_a_run
    elif ask_store("--out", remote.holds_a_run, wait_s=config.store_wait):
        if not config.exist_ok:
            raise holds_a_run_error(url)
        hold.replaces = True


@contextlib.contextmanager
def run_guard(run_spec: RunSpec, hold: RunHold | None) -> Iterator[None]:
    """Within the block a prepared run is executed; where it is refused, the files made for it are removed.

    Args:
        hold: from :func:`prepare`, given back at the end; None in a process that prepared nothing and cleans nothing up.
            Where ``--out`` is a URL, the run is uploaded meanwhile; ``hold.problem`` says what did not arrive.
    Raises:
        FerError: the block's own, handed on.
    """
    refused = failed = False
    if hold is not None:
        hold.start()
    try:
        yield
    except BaseException as error:
        failed = True
        # By the code, not the class: DataError and CheckpointError refuse a start too.
        refused = isinstance(error, FerError) and error.exit_code == ConfigError.exit_code
        raise
    finally:
        if hold is not None:
            if refused and made_in_vain(run_spec):
                hold.discard()
            hold.deliver(run_spec.config["store_wait"])
            # Logged, not raised: the block's own error is the one to be handed on.
            if failed and hold.problem is not None:
                logger.error(hold.problem)
            # After the upload: the next run in this folder changes the files.
            hold.lock.release()
            if refused:
                undo(run_spec)


def made_in_vain(run_spec: RunSpec) -> bool:
    """Whether the run's folder is new, and nothing of worth is in it."""
    folder = RunDir(run_spec.folder)
    begun = (
        folder.history.exists() or folder.summary.exists() or any(folder.checkpoints.glob("*.pt"))
    )
    return bool(run_spec.made) and not begun


def undo(run_spec: RunSpec) -> None:
    """Removes what was made for a run that was refused or left before its first epoch ended; the lock is given back first."""
    folder = RunDir(run_spec.folder)
    if made_in_vain(run_spec):
        folder.clear()
        for file in (folder.config, folder.schema):
            file.unlink(missing_ok=True)
        _remove(folder, [Path(path) for path in run_spec.made])


def _prepare_in(
    folder: RunDir,
    config: Config,
    *,
    given: Mapping[str, Any],
    handlers: tuple[Any, ...],
    remote: RemoteRun | None = None,
) -> RunSpec:
    found = find_resume_point(config, folder, remote=remote)
    notes: list[str] = [] if remote is None else remote.notes
    warned = folder.take_warnings()
    if found is not None:
        warned += [
            f"{path.name} is damaged and passed over: {reason}" for path, reason in found.skipped
        ]
        require_user_code(found.mapping["config"], given)
        own = {
            name: value
            for name, value in found.mapping["config"].items()
            if name not in OF_ONE_START
        }
        # A checkpoint of another version may hold settings that this one doesn't have.
        config = check(merged({k: v for k, v in own.items() if k in Config.model_fields}, given))
    # A run that continues in its own folder replaces nothing; one from a copied file would replace what is there.
    replaces = (
        not (found is not None and lies_in(folder, found.path))
        and folder.holds_a_run
        and not was_killed_early(folder, config)
    )
    if replaces and not (config.exist_ok or is_begun_again(folder, config)):
        raise holds_a_run_error(folder.path)
    # Before find_cache, which may read data for minutes.
    check_names(config)
    warned += unused_settings(config)
    # A run that is over opens no tracker, so that its server need not answer.
    if found is None or why_finished(found.mapping, config, folder=folder) is None:
        # By name, because the core imports no application.
        check_trackers = load_object(
            "fer_ignite.apps.trackers.registry:check_trackers", setting="--track"
        )
        check_trackers(config.track, None if replaces else folder.trackers)
    cache_path, fingerprint = find_cache(config)
    require_shard_settings(config, cache_path)
    config, said = resolve_exclude_list(config, cache_path)
    notes += said
    if cache_path is not None and (warning := number_warning(open_cache(cache_path).classes)):
        warned.append(warning)
    if found is not None:
        notes += check_changes(found.mapping, config, fingerprint=fingerprint)
    # Ignite's run() starts a finished state over from epoch 1 and would train it all again.
    finished = None if found is None else why_finished(found.mapping, config, folder=folder)
    best_lost = found is not None and finished is None and best_is_lost(found, folder)
    warned += folder.take_warnings()
    if replaces:
        folder.clear()  # last: a start that is refused keeps the earlier run
    # JSON's types: yaml.safe_dump, which writes config.yaml, refuses tuples.
    values = config.model_dump(mode="json")
    return RunSpec(
        values,
        str(folder.path),
        None if cache_path is None else str(cache_path),
        None if found is None else str(found.path),
        handlers,
        tuple(notes),
        tuple(warned),
        finished,
        best_lost=best_lost,
        objects=find_objects(config),
    )


def _remove(folder: RunDir, made: Sequence[Path]) -> None:
    """Removes the folders among ``made`` that hold nothing but a lock."""
    for path in made:
        with contextlib.suppress(OSError):
            if path == folder.path:
                (path / "run.lock").unlink(missing_ok=True)
                folder.working_copy.unlink(missing_ok=True)
            # rmdir refuses a folder in which something lies by now, such as a second run's.
            path.rmdir()
