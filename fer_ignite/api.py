"""Python API of training: `train` and `build_session`."""

import logging
import weakref
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from fer_ignite.checkpoint.format import load_checkpoint
from fer_ignite.checkpoint.paths import LAST_NAME
from fer_ignite.checkpoint.run_dir import RunDir
from fer_ignite.config import Config, check
from fer_ignite.distributed import is_main_process
from fer_ignite.errors import ConfigError, StorageError
from fer_ignite.imports import local_objects
from fer_ignite.runs.banner import log_notes, warn_of_finished_tensors, with_continuation
from fer_ignite.runs.execute import Handlers, configure_own_process, launch_training, open_session
from fer_ignite.runs.finalize import finish
from fer_ignite.runs.hold import RunHold
from fer_ignite.runs.prepare import RunSpec, made_in_vain, prepare, undo
from fer_ignite.runs.run_folder import local_out
from fer_ignite.runs.validate import check_callables, require_config
from fer_ignite.training.loggers import close_run_logger, run_logger
from fer_ignite.training.objects import Data, with_objects
from fer_ignite.training.process_state import SessionState, preserve_process_state
from fer_ignite.training.session import Session

__all__ = ["build_session", "train"]

logger = logging.getLogger("fer_ignite")


# Sessions of this process by their folders, so that a second one can close the first.
# Weakly: the table alone must not keep a network and its data in memory.
_SESSIONS: dict[Path, weakref.ref[Session]] = {}


@local_objects()
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
        Interrupted: SIGINT (Ctrl-C) stopped the run; a kind of KeyboardInterrupt.
    """
    require_config("train", config)
    check_callables(handlers)
    # Only what was set: on a resume the checkpoint's values win over defaults.
    given = config.model_dump(include=config.model_fields_set)
    if nproc is not None:
        given["nproc"] = nproc
        # By check: pydantic's model_copy validates nothing.
        config = check({**config.model_dump(), "nproc": nproc})
    config, given = with_objects(
        config, given, model=model, data=data, loss=loss, optimizer=optimizer
    )
    with preserve_process_state():
        outcome = launch_training(config, given=given, handlers=handlers)
    if outcome.exit_code:
        raise with_continuation(outcome, config).as_exception()
    summary = outcome.result or {}
    finished = outcome.message  # why nothing was trained
    if finished is not None and is_main_process():
        logger.warning(finished)
    # Under torchrun each process has trained its own network.
    if isinstance(model, nn.Module) and (config.starts_processes or finished is not None):
        _take_over_weights(model, summary["folder"])
    return summary


def _take_over_weights(model: nn.Module, folder: str) -> None:
    """The weights at the end of a run that trained no network of this process: copies of it, or none, as it was complete."""
    # last.pt, not best.pt: a network that one process trains itself has the last weights too.
    path = RunDir(folder).checkpoints / LAST_NAME
    if not path.is_file():
        logger.warning("%s isn't there: the network that was given has its old weights.", path)
        return
    model.load_state_dict(load_checkpoint(path)["model"])


@local_objects()
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
    free; so does a second session of this process under the same ``config.name``. A session that never trained leaves no folder.
    The global random states, torch's flags and threads, and the log's handlers are the session's own while it works, and the caller's again
    afterwards, so that several sessions can be open.

    Args:
        config: the settings, for this process alone: ``threads`` is that of the session.
        model, data, loss, optimizer, handlers: as :func:`train` takes them.
    Raises:
        ConfigError: ``nproc`` or ``nnodes`` is above 1, among what :func:`train` raises.
    """
    require_config("build_session", config)
    check_callables(handlers)
    state = SessionState()
    with state.active():
        configure_own_process(config)
    # Before prepare, which the open session's lock would stop.
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
    try:
        with state.active():
            run_logger(folder, rank=0, quiet=resolved.quiet)
            log_notes(run_spec)
            session = open_session(resolved, run_spec, folder=folder)
            warn_of_finished_tensors(session)
    except BaseException:
        state.close_log()
        hold.release()
        undo(run_spec)
        raise
    hold.start()
    # Set from here: finish is in runs/, which training/ must not import.
    session.at_end, session.own_state = finish, state.active
    # Without the caller's objects, which may be large, or refer to the session.
    run_spec = replace(run_spec, handlers=(), objects={})
    # A session that nobody has closed, such as that of a notebook's name that was given to another one.
    collected = weakref.finalize(session, _leave, state, hold, run_spec)
    collected.atexit = False
    # Called in the reverse order: log.txt is closed before the last upload and before the folder is
    # unlocked.
    session.at_close.callback(collected.detach)
    session.at_close.callback(_give_back, hold, run_spec)
    session.at_close.callback(close_run_logger)
    _SESSIONS[folder.path.resolve()] = weakref.ref(session)
    return session


def _give_back(hold: RunHold, run_spec: RunSpec) -> None:
    """Uploads what is missing, and unlocks the run's folder; one in which nothing was trained is removed.

    Raises:
        StorageError: the store has not got everything.
    """
    in_vain = made_in_vain(run_spec)
    if in_vain:
        hold.discard()
    hold.deliver(run_spec.config["store_wait"])
    hold.lock.release()
    if in_vain:
        undo(run_spec)
    # Last: the folder is unlocked whatever the store has got.
    if hold.problem is not None:
        raise StorageError(hold.problem)


def _leave(state: SessionState, hold: RunHold, run_spec: RunSpec) -> None:
    """The same without waiting for a store, for a session that is gone."""
    state.close_log()
    if made_in_vain(run_spec):
        hold.discard()
    hold.release()
    undo(run_spec)


def _close_session_in(config: Config) -> None:
    """Closes an open session of this process in the same folder: a notebook's cell that is run a second time."""
    if config.name is None:
        return
    reference = _SESSIONS.pop((local_out(config.out) / config.name).resolve(), None)
    if reference is not None and (session := reference()) is not None:
        session.close()
