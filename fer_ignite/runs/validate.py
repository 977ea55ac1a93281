"""Validation before the start: user code, networks, metrics, data."""

import difflib
import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from fer_ignite.checkpoint.paths import require_checkpoint
from fer_ignite.config import Config
from fer_ignite.data.exclude_list import read_exclude_list
from fer_ignite.data.readers.find import is_user_dataset
from fer_ignite.errors import CheckpointError, ConfigError
from fer_ignite.imports import load_function, send_problem
from fer_ignite.metrics.classification import SCORES
from fer_ignite.models.registry import check_name
from fer_ignite.stores.store import is_url
from fer_ignite.training.losses import build_loss
from fer_ignite.training.monitor import lower_is_better

__all__ = [
    "check_callables",
    "check_handlers",
    "check_monitor",
    "check_names",
    "check_sendable",
    "require_config",
]

_LONGEST_TEMPORARY = 70  # of the 107 bytes of a socket's name; Python adds /pymp-xxxxxxxx/listener-xxxxxxxx (CPython, connection.py)


# Settings that name a function, with what it is called with.
_FUNCTIONS = {
    "sample_transform": ["image"],
    "batch_transform": ["images_BCHW", "generator"],
    "collate_fn": ["samples"],
    "optimizer_factory": ["parameter groups"],
}


def require_config(function: str, config: Any) -> None:
    """Refuses anything but a ``Config`` as a Python function's settings.

    Raises:
        ConfigError: naming what came.
    """
    if not isinstance(config, Config):
        raise ConfigError(
            f"{function} takes a Config, not {type(config).__name__}; write {function}(Config(data=..., epochs=...))."
        )


def check_callables(handlers: Any) -> None:
    """Refuses handlers that are no sequence of functions.

    Raises:
        ConfigError: naming what came.
    """
    if not isinstance(handlers, (list, tuple)):
        raise ConfigError(
            f"handlers takes a list of functions, not {type(handlers).__name__}; write handlers=[watch]."
        )
    for handler in (handler for handler in handlers if not callable(handler)):
        raise ConfigError(
            f"handlers takes functions that are called with the session, not {handler!r}; names such as 'module:function' go to "
            "Config(handlers=...)."
        )


def check_handlers(names: Sequence[str]) -> None:
    """Fails early where ``--handlers`` names nothing, or nothing that can be called."""
    for name in names:
        load_function(name, setting="--handlers", takes=["session"])


def check_monitor(config: Config, handlers: Sequence[Callable[[Any], Any]] = ()) -> None:
    """Fails early where ``--monitor`` names no metric, or one whose direction is unknown.

    Handlers may bring further metrics.

    Raises:
        ConfigError: naming those that there are.
    """
    known = ("loss", *SCORES)
    if config.monitor not in known and not (handlers or config.handlers):
        near = difflib.get_close_matches(config.monitor, known, n=1)
        hint = f"did you mean {near[0]!r}? There" if near else "there"
        raise ConfigError(
            f"--monitor {config.monitor!r} is no metric of the evaluation; {hint} are {', '.join(known)}."
        )
    lower_is_better(config.monitor, config.monitor_mode)


def check_names(config: Config) -> None:
    """Fails early where a setting names code or a file that isn't there: data may take minutes to read.

    Raises:
        ConfigError, CheckpointError: naming the setting.
    """
    check_name(config.model)
    build_loss(config.loss)
    for name, takes in _FUNCTIONS.items():
        if (text := getattr(config, name)) is not None:
            load_function(text, setting="--" + name.replace("_", "-"), takes=takes)
    if config.workers:
        _check_loaders_can_talk(config)
    if config.exclude is not None:
        if is_user_dataset(config.data):
            raise ConfigError(
                f"--exclude names images by their ids, and {config.data} has none; leave them out there."
            )
        read_exclude_list(config.exclude)
    for path in config.teacher:
        try:
            require_checkpoint(path)
        except CheckpointError as error:
            raise CheckpointError(f"--teacher: {error}") from None
    if is_url(config.init_from):
        require_checkpoint(str(config.init_from))
    elif config.init_from is not None and not Path(config.init_from).exists():
        raise CheckpointError(
            f"--init-from: there is no file {config.init_from}; name a checkpoint or a state dict."
        )


def _check_loaders_can_talk(config: Config) -> None:
    # A loader passes tensors on by a socket below this folder; a name that is too long for one leaves the run waiting.
    # Forked processes keep the launcher's own folder, /fer-ignite-launch-PID-xxxxxxxx-xxxxxxxx, which comes on top.
    forked = config.start_method == "fork" and config.starts_processes
    folder, longest = tempfile.gettempdir(), _LONGEST_TEMPORARY - 45 * forked
    if (length := len(os.fsencode(folder))) > longest:
        raise ConfigError(
            f"--workers {config.workers}: the folder of temporary files, {folder}, has {length} bytes in its name, "
            f"and loaders can't use more than {longest}; set TMPDIR to a shorter one, or --workers 0."
        )


def check_sendable(handlers: Sequence[Callable[[Any], Any]]) -> None:
    """Refuses handlers that can't be sent to other processes."""
    for handler in handlers:
        if (problem := send_problem(handler)) is not None:
            name = getattr(handler, "__qualname__", repr(handler))
            raise ConfigError(
                f"the handler {name} can't be sent to other processes ({problem}); put it at the top level of a module and "
                "import it, or use nproc=1."
            )
