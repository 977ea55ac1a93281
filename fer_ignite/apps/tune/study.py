"""Optuna study in an sqlite file that workers share and that survives them."""

import contextlib
import os
import secrets
import time
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from fer_ignite.checkpoint.run_lock import LOCK_NAME, hold_folder, lock_folder
from fer_ignite.errors import ConfigError, FerError, FolderInUseError
from fer_ignite.imports import optional_library

__all__ = [
    "build_optuna_sampler",
    "count_trials",
    "open_study",
    "requeue_trial",
    "require_optuna",
    "worker_lock",
]

STORAGE = "study.db"
NAME = "fer_ignite"
_WORKERS = "workers"
_PATIENCE_S = 60.0
_UNSIGNED_S = (
    120.0  # a trial that no worker has signed for so long was killed at its very beginning
)


def require_optuna() -> Any:
    """The module, with its own log off.

    Raises:
        ConfigError: it isn't installed.
    """
    optuna = optional_library("optuna", extra="tune", purpose="fer-ignite tune")
    optuna.logging.set_verbosity(optuna.logging.CRITICAL)
    return optuna


@contextlib.contextmanager
def open_study(
    folder: Path, *, minimize: bool, pruner: Any, what: Mapping[str, Any]
) -> Iterator[Any]:
    """The study in a folder, made where there is none, its database closed at the end; trials whose worker has died are waiting to be run again.

    Args:
        what: plain values that say what is searched; a study of something else is refused.
    Raises:
        ConfigError: the folder holds the study of another search.
    """
    optuna = require_optuna()
    url = f"sqlite:///{(folder / STORAGE).absolute()}"
    with contextlib.ExitStack() as at_end:
        # One worker at a time: two that make the tables at once fail.
        with _exclusive(folder):
            # sqlite waits 5 s by default for another worker's write, then raises.
            storage = optuna.storages.RDBStorage(
                url, engine_kwargs={"connect_args": {"timeout": _PATIENCE_S}}
            )
            # Called in reverse order: the session is closed before its engine.
            at_end.callback(storage.engine.dispose)
            at_end.callback(storage.remove_session)
            study = optuna.create_study(
                storage=storage,
                study_name=NAME,
                load_if_exists=True,
                pruner=pruner,
                direction="minimize" if minimize else "maximize",
            )
            _require_same(study, folder, what=what)
            _requeue_dead_trials(study, folder)
        yield study


def build_optuna_sampler(seed: int, number: int) -> Any:
    """The sampler of one trial: what it draws is a function of the seed, the trial's number and the trials before it."""
    return require_optuna().samplers.TPESampler(
        # Both enter: workers with one seed for all their trials would draw the same values at once.
        seed=int(np.random.SeedSequence([seed, number]).generate_state(1)[0])
    )


def count_trials(study: Any) -> int:
    """Trials that are over or being run; those that were cut short and wait for their second try don't count."""
    return sum(
        trial.state.name != "WAITING" and "again" not in trial.user_attrs
        for trial in study.get_trials(deepcopy=False)
    )


def requeue_trial(study: Any, trial: Any) -> None:
    """Has the trial's settings run once more, in the same folder, where its run continues."""
    trial.set_user_attr("again", True)
    folder = trial.user_attrs.get("folder")
    study.enqueue_trial(trial.params, user_attrs={} if folder is None else {"folder": folder})


@contextlib.contextmanager
def worker_lock(folder: Path) -> Iterator[str]:
    """A worker's name with a lock, which the kernel releases when the process dies: a sign of life for the others."""
    # A pid alone may be another machine's worker, or be given again.
    name = f"{os.getpid()}-{secrets.token_hex(4)}"
    place = folder / _WORKERS / name
    place.mkdir(parents=True)
    try:
        with hold_folder(place):
            yield name
    finally:
        _sweep(place)


def _sweep(place: Path) -> None:
    with contextlib.suppress(OSError):
        (place / LOCK_NAME).unlink(missing_ok=True)
        place.rmdir()
        # Fails, and is ignored, while another worker has its folder there.
        place.parent.rmdir()


@contextlib.contextmanager
def _exclusive(folder: Path) -> Iterator[None]:
    deadline = time.monotonic() + _PATIENCE_S
    while True:
        try:
            lock = lock_folder(folder)
            break
        except FolderInUseError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)
    try:
        yield
    finally:
        lock.release()


def _require_same(study: Any, folder: Path, *, what: Mapping[str, Any]) -> None:
    known = study.user_attrs.get("what")
    if known is None:
        study.set_user_attr("what", dict(what))
        return
    changed = [name for name in {**known, **what} if known.get(name) != what.get(name)]
    if changed:
        raise ConfigError(
            f"{folder} holds another search, which differs in {', '.join(sorted(changed))}; "
            "repeat that command to continue with it, or choose another --name."
        )


def _requeue_dead_trials(study: Any, folder: Path) -> None:
    optuna = require_optuna()
    for frozen in study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.RUNNING,)):
        if _is_dead(frozen, folder):
            # Queued before it is closed: a worker that dies between the two must not lose the settings.
            # A FrozenTrial would change its attributes in memory only; a Trial writes them to the storage.
            requeue_trial(study, optuna.trial.Trial(study, frozen._trial_id))
            study.tell(frozen.number, state=optuna.trial.TrialState.FAIL)


def _is_dead(trial: Any, folder: Path) -> bool:
    worker = trial.user_attrs.get("worker")
    if worker is None:
        return (datetime.now() - trial.datetime_start).total_seconds() > _UNSIGNED_S
    place = folder / _WORKERS / worker
    # Each worker removes its folder when it leaves.
    if not place.exists():
        return True
    try:
        lock = lock_folder(place)
    except FerError:
        return False
    lock.release()
    if lock.warning is None:
        _sweep(place)
    return lock.warning is None  # where nothing can be locked, no worker can be called dead
