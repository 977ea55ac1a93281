"""Python API of training: `train` and `build_session`."""

import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from fer_ignite.checkpoint.run_dir import RunDir
from fer_ignite.config import Config, check
from fer_ignite.errors import ConfigError, StorageError
from fer_ignite.runs.banner import log_notes
from fer_ignite.runs.execute import Handlers, configure_own_process, launch_training, open_session
from fer_ignite.runs.finalize import finish
from fer_ignite.runs.hold import RunHold
from fer_ignite.runs.prepare import RunSpec, local_out, prepare, undo
from fer_ignite.runs.validate import check_callables, require_config
from fer_ignite.training.loggers import close_run_logger, run_logger
from fer_ignite.training.objects import Data, with_objects
from fer_ignite.training.session import Session

__all__ = ["build_session", "train"]


# Sessions of this process by their folders, so that a second one can close the first.
# Weakly: the table alone must not keep a network and its data in memory.
_SESSIONS: dict[Path, tuple[weakref.ref[Session], RunSpec]] = {}


def train(
    config: Config,
    *,
    model: str | nn.Module | Callable[..., nn.Module] | None = None,
    data: str | Data | None = None,
    loss: str | Callable[[Tensor, Tensor], Tensor] | None = None,
    optimizer: str | Callable[[list[dict[str, Any]]], Optimizer] | None = None,
    handlers: Handlers = (),
    nproc: int | None = None,
) -> dict[str, Any]:
    """Trains in one or several processes and returns the run's summary.

    Args:
        config: the settings; those given to ``Config(...)`` win over a resumed checkpoint's.
        model: a network, which is trained itself, or what makes one (called with ``num_classes`` and ``in_channels`` where it
            takes these); instead of ``config.model``.
        data: a map-style data set of (image, label), of which a share becomes val, or ``{"train": ..., "val": ...,
            "test": ...}``; instead of ``config.data``. ``Config(classes="angry,happy")`` names labels that it doesn't name.
        loss: (logits [B, K], targets [B, K]) -> losses [B], or a torch loss; instead of ``config.loss``.
        optimizer: (parameter groups) -> optimizer, with a learning rate of its own; instead of ``config.opt``.
        handlers: functions called with the :class:`Session` on every process, once its engines are wired. With several
            processes they, and the objects above, must be defined at the top level of a module.
        nproc: processes on this machine; instead of ``config.nproc``.
    Returns:
        What ``summary.json`` holds, and ``folder``; with ``Config(folds=K)`` the summaries of all folds, see
        :func:`fer_ignite.runs.execute.launch_folds`.
    Raises:
        FerError: or its kinds, as the command line's exit codes have them.
    """
    require_config("train", config)
    check_callables(handlers)
    # Only what was set: on a resume the checkpoint's values win over defaults.
    given = config.model_dump(include=config.model_fields_set)
    if nproc is not None:
        given["nproc"] = nproc
        config = check({**config.model_dump(), "nproc": nproc})
    config, given = with_objects(
        config, given, model=model, data=data, loss=loss, optimizer=optimizer
    )
    outcome = launch_training(config, given=given, handlers=handlers)
    if outcome.exit_code:
        raise outcome.as_error()
    return outcome.result or {}


def build_session(
    config: Config,
    *,
    model: str | nn.Module | Callable[..., nn.Module] | None = None,
    data: str | Data | None = None,
    loss: str | Callable[[Tensor, Tensor], Tensor] | None = None,
    optimizer: str | Callable[[list[dict[str, Any]]], Optimizer] | None = None,
    handlers: Handlers = (),
) -> Session:
    """A wired session in this process: attach what you like to its engines, then call ``session.run()``.

    ``session.run()`` ends as :func:`train` does: the best network is scored on val and test, and ``session.summary`` holds what
    ``summary.json`` says. The run's folder is made and locked; ``session.close()``, or the end of a ``with`` block, gives it
    free; so does a second session of this process in the same folder, and a first one that never trained leaves nothing.

    Args:
        config: the settings, for this process alone: ``threads`` is set for it.
        model, data, loss, optimizer, handlers: as :func:`train` takes them.
    Raises:
        ConfigError: ``nproc`` or ``nnodes`` is above 1, among what :func:`train` raises.
    """
    require_config("build_session", config)
    check_callables(handlers)
    configure_own_process(config)
    _close_session_in(config)
    config, given = with_objects(
        config,
        config.model_dump(include=config.model_fields_set),
        model=model,
        data=data,
        loss=loss,
        optimizer=optimizer,
    )
    run_spec, hold = prepare(config, given, handlers=handlers)
    if run_spec.finished is not None:
        hold.release()
        raise ConfigError(run_spec.finished)
    folder = RunDir(run_spec.folder)
    resolved = check(run_spec.config)
    run_logger(folder, rank=0, quiet=resolved.quiet)
    try:
        log_notes(run_spec)
        session = open_session(resolved, run_spec, folder=folder)
    except BaseException:
        hold.release()
        undo(run_spec)
        raise
    hold.start()
    session.at_end = finish
    # Called in the reverse order: log.txt is closed before the last upload and before the folder is
    # unlocked.
    session.at_close.callback(_give_back, hold, resolved.store_wait)
    session.at_close.callback(close_run_logger)
    _SESSIONS[folder.path.resolve()] = weakref.ref(session), run_spec
    return session


def _give_back(hold: RunHold, wait_s: float) -> None:
    """Uploads what is missing, and unlocks the run's folder.

    Raises:
        StorageError: the store has not got everything.
    """
    hold.deliver(wait_s)
    hold.lock.release()
    if hold.problem is not None:
        raise StorageError(hold.problem)


def _close_session_in(config: Config) -> None:
    """Closes an open session of this process in the same folder: a notebook's cell that is run a second time."""
    if (
        config.name is None
        or (path := (local_out(config.out) / config.name).resolve()) not in _SESSIONS
    ):
        return
    reference, run_spec = _SESSIONS.pop(path)
    if (session := reference()) is not None:
        session.close()
        undo(run_spec)
