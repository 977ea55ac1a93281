"""Preparation of a run before any process starts: folder, lock, resume point, data.

Whatever is wrong here ends the program with one sentence and leaves the disk as it was.
"""

import contextlib
import functools
import logging
import os
import re
import shlex
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from fer_ignite.checkpoint.atomic_io import clean_temporary
from fer_ignite.checkpoint.format import Found, load_checkpoint, newest_valid, require_resumable
from fer_ignite.checkpoint.paths import BEST_NAME, resolve_checkpoint, step_files
from fer_ignite.checkpoint.remote_files import is_run_url, local_run, run_url
from fer_ignite.checkpoint.remote_run import RemoteRun, runs_in_store, working_copies
from fer_ignite.checkpoint.run_dir import RunDir
from fer_ignite.checkpoint.run_lock import lock_folder
from fer_ignite.config import (
    OF_ONE_OPTIMIZER,
    Config,
    changed_settings,
    check,
    field_facts,
    merged,
    read_yaml,
)
from fer_ignite.data.cache.format import open_cache
from fer_ignite.data.classes import number_warning
from fer_ignite.data.exclude_list import is_same_list
from fer_ignite.data.open import find_cache, require_shard_settings, resolve_exclude_list
from fer_ignite.data.readers.find import is_user_dataset
from fer_ignite.distributed import requeue_count, restart_count
from fer_ignite.errors import (
    CheckpointError,
    ConfigError,
    DataError,
    FerError,
    FolderInUseError,
    StorageError,
)
from fer_ignite.imports import OBJECT, is_object_name, load_object, which_again
from fer_ignite.runs.hold import RunHold
from fer_ignite.runs.unused_settings import unused_settings
from fer_ignite.runs.validate import check_handlers, check_names
from fer_ignite.stores.store import (
    StoreProblem,
    file_name,
    is_url,
    join_url,
    last_part,
    parent_url,
    refused_as,
)
from fer_ignite.training.early_stopping import has_patience_left, stopped_by_patience
from fer_ignite.training.objects import find_objects

__all__ = [
    "LAUNCH_SETTINGS",
    "USER_CODE",
    "RunSpec",
    "default_name",
    "is_user_code",
    "local_out",
    "made_in_vain",
    "prepare",
    "require_free_folders",
    "run_guard",
    "undo",
]

logger = logging.getLogger("fer_ignite")

T = TypeVar("T")

_STORE_RETRY_S = 2.0
# sync_bn stands among the launch flags, but changes the results.
LAUNCH_SETTINGS = tuple(
    name
    for name in Config.model_fields
    if field_facts(name)["group"] == "Launch" and name != "sync_bn"
)
# Settings that belong to one start of the program, not to the run: a checkpoint's are never taken up.
_OF_ONE_START = frozenset(
    {
        "resume",
        "name",
        "out",
        "store_wait",
        "exist_ok",
        "override",
        "max_time",
        "handlers",
        "quiet",
        "verbose",
        "summary",
        "init_from",
        "cache",
        "profile",
    }
    | set(LAUNCH_SETTINGS)
)
# Settings that may name a user's code; code is never imported because a checkpoint names it.
USER_CODE = (
    "data",
    "model",
    "loss",
    "optimizer_factory",
    "sample_transform",
    "batch_transform",
    "collate_fn",
)


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


def local_out(out: str) -> Path:
    """The folder of runs on this machine: ``--out`` itself, or for a URL that of the working copies."""
    return working_copies(out) if is_url(out) else Path(out)


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
    _ask_store(config, "--out", remote.open)
    if resumes:
        _ask_store(config, "--out", remote.fetch)
        # Where the resume point is another run's, this one is replaced.
        hold.replaces = folder.holds_a_run
    elif _ask_store(config, "--out", remote.holds_a_run):
        if not config.exist_ok:
            raise _holds_a_run(url)
        hold.replaces = True


def _ask_store(
    config: Config, setting: str, action: Callable[[], T], *, refused: type[FerError] = ConfigError
) -> T:
    """The action's result. A restart of a failed attempt waits for a store that is away: a start by hand is refused at once.

    Raises:
        StorageError: at a restart, the store stays away for ``store_wait``.
        FerError: at a start by hand, of the kind ``refused``.
    """
    restarted = restart_count() > 0
    until = time.monotonic() + (config.store_wait if restarted else 0)
    with refused_as(StorageError if restarted else refused, setting):
        while True:
            try:
                return action()
            except StoreProblem:
                if time.monotonic() >= until:
                    raise
            time.sleep(_STORE_RETRY_S)


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
    found = _resume_point(config, folder, remote=remote)
    notes: list[str] = [] if remote is None else remote.notes
    warned = folder.take_warnings()
    if found is not None:
        warned += [
            f"{path.name} is damaged and passed over: {reason}" for path, reason in found.skipped
        ]
        _require_user_code(found.mapping["config"], given)
        own = {
            name: value
            for name, value in found.mapping["config"].items()
            if name not in _OF_ONE_START
        }
        # A checkpoint of another version may hold settings that this one doesn't have.
        config = check(merged({k: v for k, v in own.items() if k in Config.model_fields}, given))
    # A run that continues in its own folder replaces nothing; one from a copied file would replace what is there.
    replaces = (
        not (found is not None and _lies_in(folder, found.path))
        and folder.holds_a_run
        and not _was_killed_early(folder, config)
    )
    if replaces and not (config.exist_ok or _is_begun_again(folder, config)):
        raise _holds_a_run(folder.path)
    # Before find_cache, which may read data for minutes.
    check_names(config)
    warned += unused_settings(config)
    # A run that is over opens no tracker, so that its server need not answer.
    if found is None or _finished(found.mapping, config, folder=folder) is None:
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
        notes += _check_changes(found.mapping, config, fingerprint=fingerprint)
    # Ignite's run() starts a finished state over from epoch 1 and would train it all again.
    finished = None if found is None else _finished(found.mapping, config, folder=folder)
    best_lost = found is not None and finished is None and _best_is_lost(found, folder)
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


def _best_is_lost(found: Found, folder: RunDir) -> bool:
    """Whether the resume point's best.pt can't be used; a damaged one is set aside."""
    best = folder.checkpoints / BEST_NAME
    known = (found.mapping["best"] or {}).get("value") is not None
    # A run that continues in another folder has no best.pt there before an epoch is better.
    if not known or (not best.exists() and not _lies_in(folder, found.path)):
        return False
    try:
        weights = load_checkpoint(best)["model"]
        problem = None if set(weights) == set(found.mapping["model"]) else "holds another network"
    except CheckpointError as error:
        problem = f"can't be used ({str(error).rstrip('.')})"
    if problem is None:
        return False
    remedy = "the best network is chosen among the epochs from here on"
    if best.exists():
        folder.set_aside(best, f"{problem}; {remedy}")
    else:
        folder.warnings.append(f"{best} is missing; {remedy}.")
    return True


def _lies_in(folder: RunDir, checkpoint: Path) -> bool:
    """Whether a checkpoint is one of the run in a folder."""
    return checkpoint.parent.resolve() == folder.checkpoints.resolve()


def _named_checkpoint(config: Config) -> Path | None:
    """The file on this machine that ``--resume`` names; None for a newest resume point, and for a URL.

    Raises:
        CheckpointError: there is no such file.
    """
    if not _names_a_checkpoint(config) or is_url(config.resume):
        return None
    try:
        path = _resume_file(str(config.resume))
        # The attempt before may have removed it, as one of the older resume points.
        if not os.path.lexists(path) and not _repeats(config):
            load_checkpoint(path)  # raises, in the words of all commands
    except CheckpointError as error:
        raise CheckpointError(f"--resume: {error}") from None
    return path


def _resume_file(requested: str) -> Path:
    """The file itself, or of a run's folder the newest resume point by its name; it is not read."""
    newest_first = step_files(Path(requested) / "checkpoints")
    return newest_first[0][1] if newest_first else resolve_checkpoint(requested)


def _names_a_checkpoint(config: Config) -> bool:
    """Whether ``--resume`` names what to continue from, a file, a run's folder or a URL."""
    return config.resume not in (None, "auto", "last")


def _repeats(config: Config) -> bool:
    """Whether this start repeats an earlier one's command line, and continues what that one has saved."""
    if restart_count() > 0:
        return True
    # A requeued job may run several lines, also from a notebook: a run is this line's if it began with the same checkpoint.
    if requeue_count() == 0 or not _names_a_checkpoint(config):
        return False
    if config.name is not None:
        folder: RunDir | None = RunDir(local_out(config.out) / config.name)
    else:
        folder = None if is_url(config.resume) else _own_run(Path(str(config.resume)))
    return folder is not None and _began_with(folder, str(config.resume))


def _own_run(checkpoint: Path) -> RunDir | None:
    """The run in whose folder a checkpoint lies; None for a copy elsewhere, also in a folder that is called ``checkpoints``."""
    folder = RunDir(checkpoint.parent.parent)
    return folder if checkpoint.parent.name == "checkpoints" and folder.config.is_file() else None


def _began_with(folder: RunDir, requested: str) -> bool:
    """Whether the newest start in a folder had this text as ``--resume``."""
    try:
        return read_yaml(folder.config).get("resume") == requested
    except (OSError, FerError):
        return False


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
        names += _ask_store(config, "--out", lambda: runs_in_store(config.out))
    base = default_name(config)
    # Behind the highest number, also where a lower one is free again: the numbers keep the order of the starts.
    highest = max((_number(name, base) for name in names), default=0)
    # A restarted attempt and --resume auto continue in the newest folder, all else gets a new one.
    if highest > 0 and (config.resume in ("auto", "last") or _repeats(config)):
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


def _remove(folder: RunDir, made: Sequence[Path]) -> None:
    """Removes the folders among ``made`` that hold nothing but a lock."""
    for path in made:
        with contextlib.suppress(OSError):
            if path == folder.path:
                (path / "run.lock").unlink(missing_ok=True)
                folder.working_copy.unlink(missing_ok=True)
            # rmdir refuses a folder in which something lies by now, such as a second run's.
            path.rmdir()


def _resume_point(
    config: Config, folder: RunDir, *, remote: RemoteRun | None = None
) -> Found | None:
    # torchrun repeats the first command line, which need not have --resume.
    requested = config.resume or ("auto" if restart_count() > 0 else None)
    if requested is None:
        return None
    if requested in ("auto", "last"):
        found = newest_valid(folder.checkpoints)
        if found is None and requested == "last":
            raise CheckpointError(
                f"{folder.path} holds no resume point; start one without --resume, or name it with --name."
            )
        return found
    # What an earlier attempt has saved here is further on than what it began with. Where that is an older resume point of this
    # folder, the newer ones may be those that the run was to go back from.
    if _repeats(config) and (
        not _is_in_folder(requested, folder, remote=remote)
        or (remote is None and _has_saved_since(folder, requested))
    ):
        own = newest_valid(folder.checkpoints)
        if own is not None:
            return own
    if is_url(requested):
        requested = _local_resume_point(config, requested, remote=remote)
    try:
        # Of a run's folder the newest, not the best one, which may lie epochs back.
        newest = newest_valid(Path(requested) / "checkpoints") if Path(requested).is_dir() else None
        if newest is not None:
            return newest
        path = resolve_checkpoint(requested)
        mapping = load_checkpoint(path)
        require_resumable(mapping)
    except CheckpointError as error:
        raise CheckpointError(f"--resume: {error}") from None
    return Found(path, mapping, [])


def _is_in_folder(requested: str, folder: RunDir, *, remote: RemoteRun | None) -> bool:
    """Whether a path or URL names a checkpoint of the folder's own run that is there."""
    if not is_url(requested):
        return _lies_in(folder, Path(requested)) and Path(requested).is_file()
    own = remote is not None and run_url(requested) == remote.url
    return own and (folder.checkpoints / last_part(requested)).is_file()


def _has_saved_since(folder: RunDir, requested: str) -> bool:
    """Whether the start that went back to an older resume point has saved a newer one; it wrote config.yaml before."""
    newest_first = step_files(folder.checkpoints)
    return (
        bool(newest_first)
        and _began_with(folder, requested)
        and newest_first[0][1].stat().st_mtime_ns > folder.config.stat().st_mtime_ns
    )


def _local_resume_point(config: Config, url: str, *, remote: RemoteRun | None) -> str:
    """The local copy of a checkpoint or of a run named by URL; that of the run itself is the working copy's."""
    own = remote if remote is not None and run_url(url) == remote.url else None
    if is_run_url(url):
        return str(local_run(url) if own is None or not own.folder.holds_a_run else own.folder.path)
    if own is not None:
        name = f"checkpoints/{last_part(url)}"
        fetch = functools.partial(own.fetch_file, name)
        return str(_ask_store(config, "--resume", fetch, refused=CheckpointError))
    return str(resolve_checkpoint(url))


def _was_killed_early(folder: RunDir, config: Config) -> bool:
    """Whether the run is to continue, and was killed before its first resume point; then it begins at iteration 0."""
    early = (config.resume == "auto" or _repeats(config)) and not folder.summary.exists()
    if early:
        folder.truncate_after(0)
    return early


def _is_begun_again(folder: RunDir, config: Config) -> bool:
    """Whether the run in the folder was killed before its first checkpoint, and ``--resume`` names what to begin with."""
    begun = any(folder.checkpoints.glob("*.pt"))
    return _names_a_checkpoint(config) and not begun and not folder.summary.exists()


def require_free_folders(configs: Sequence[Config]) -> None:
    """Refuses several named runs of which one's folder holds a run already, before the first of them trains.

    Raises:
        FolderInUseError: naming the folder.
    """
    for config in configs:
        folder = RunDir(local_out(config.out) / str(config.name))
        continues = (
            config.resume in ("auto", "last") or _repeats(config) or _is_begun_again(folder, config)
        )
        if folder.holds_a_run and not (continues or config.exist_ok):
            raise _holds_a_run(folder.path)


def _holds_a_run(place: str | Path) -> FolderInUseError:
    return FolderInUseError(
        f"{place} holds a run; continue it with --resume auto, start a new run in it with --exist-ok, "
        "or choose another --name."
    )


def is_user_code(setting: str, text: str) -> bool:
    """Whether the value of one of ``USER_CODE`` names a user's code, as opposed to something built in."""
    return is_user_dataset(text) if setting == "data" else is_object_name(text)


def _require_user_code(saved: Mapping[str, Any], given: Mapping[str, Any]) -> None:
    named = {
        name: str(saved[name])
        for name in USER_CODE
        if is_user_code(name, str(saved.get(name) or ""))
    }
    absent = {name: text for name, text in named.items() if name not in given}
    if absent:
        code = {name: text for name, text in absent.items() if not text.startswith(OBJECT)}
        if objects := [
            which_again(name, text) for name, text in absent.items() if name not in code
        ]:
            raise ConfigError(f"the checkpoint's run used Python objects: {'; '.join(objects)}")
        flags = " ".join(f"--{name.replace('_', '-')} {text}" for name, text in code.items())
        raise ConfigError(
            f"the checkpoint's run used code of its user's; checkpoints never import it: give it again: {flags}"
        )


def _check_changes(
    mapping: Mapping[str, Any], config: Config, *, fingerprint: str | None
) -> list[str]:
    changes = {
        name: change
        for name, change in changed_settings(
            mapping["config"], config.model_dump(mode="json")
        ).items()
        if name not in _OF_ONE_START
    }
    same_data = fingerprint is not None and fingerprint == mapping["data"]["fingerprint"]
    if same_data:
        changes.pop("data", None)  # it has moved
    if "exclude" in changes and is_same_list(*changes["exclude"]):
        changes.pop("exclude")  # likewise
    allowed = {*config.override, *(OF_ONE_OPTIMIZER if "opt" in config.override else ())}
    structural = [
        name for name in changes if field_facts(name)["structural"] and name not in allowed
    ]
    if structural:
        described = ", ".join(
            f"{name} ({changes[name][0]} -> {changes[name][1]})" for name in structural
        )
        raise ConfigError(
            f"--resume continues with another run's settings: {described}; leave them as they were, "
            f"or allow it with --override {','.join(structural)}."
        )
    if not same_data and fingerprint is not None and "data" not in config.override:
        raise DataError(
            f"--resume: the data is not what the run began with (fingerprint {fingerprint[:12]}, was "
            f"{mapping['data']['fingerprint'][:12]}); restore it, or allow it with --override data."
        )
    return [f"changed on resume: {name} {old} -> {new}" for name, (old, new) in changes.items()]


def _finished(mapping: Mapping[str, Any], config: Config, *, folder: RunDir) -> str | None:
    outcome, trainer = mapping["outcome"], mapping["trainer"]
    epoch = trainer["iteration"] // trainer["epoch_length"]
    summary = folder.read_summary()
    if (
        outcome == "early_stopped"
        and has_patience_left(mapping, config.patience)
        and epoch < config.epochs
    ):
        return None
    if summary.get("iterations") != trainer["iteration"] or summary.get("status") not in (
        "completed",
        "early_stopped",
    ):
        return None  # killed between its last resume point and its summary
    if outcome == "early_stopped":
        best = shlex.quote(str(folder.checkpoints / "best.pt"))
        more = (
            "more: --patience"
            if stopped_by_patience(mapping)
            else f"to train on: a new run with --init-from {best}"
        )
        return f"the run stopped early at epoch {epoch}; there is nothing left to do ({more})."
    if epoch >= config.epochs and trainer["iteration"] % trainer["epoch_length"] == 0:
        return f"the run is complete at epoch {epoch} of {config.epochs}; there is nothing left to do (more: --epochs)."
    return None
