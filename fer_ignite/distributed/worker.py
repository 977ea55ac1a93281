"""Entry point of a spawned process."""

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any, NoReturn

from fer_ignite.distributed.machine import configure_process
from fer_ignite.distributed.outcome import EndRecord, as_outcome, read_end_record, write_record
from fer_ignite.distributed.signals import die_with_parent, raise_on_sigterm

__all__ = ["ChildSetup", "child_main", "hard_exit", "run_function"]


@dataclass(frozen=True)
class ChildSetup:
    """What a child does before anything else, as plain values.

    Unpickling it applies it: a child unpickles its arguments before Ignite joins the process group, and a fork server's
    children don't inherit the launcher's environment.
    """

    folder: str
    environment: tuple[tuple[str, str], ...]
    removed: tuple[str, ...]
    threads: int
    launcher_pid: int
    start_method: str
    timeout_s: float

    def __reduce__(self) -> tuple[Callable[..., "ChildSetup"], tuple[Any, ...]]:
        return _applied, astuple(self)

    def apply(self) -> None:
        """Take over the environment, leave the terminal's process group, and tie this life to the launcher's."""
        for name in self.removed:
            os.environ.pop(name, None)
        os.environ.update(self.environment)
        # Ctrl-C reaches a whole process group: with the launcher's copy it would count as a second signal.
        with contextlib.suppress(OSError, AttributeError):
            os.setpgid(0, 0)
        if self.start_method == "forkserver":
            die_with_parent(os.getppid(), launcher_pid=self.launcher_pid)
        else:
            die_with_parent(self.launcher_pid)


def child_main(
    local_rank: int, setup: ChildSetup, function: Callable[..., object], args: tuple[Any, ...]
) -> None:
    """Run ``function`` in a child that has joined its group, and leave its end in the launcher's folder."""
    import ignite.distributed as idist

    from fer_ignite.distributed.collectives import cpu_group

    setup.apply()  # once more: torch has set SIGINT for the launcher's death meanwhile (multiprocessing/spawn.py)
    configure_process(setup.threads)
    # Here, where all processes pass: under NCCL this makes a group, which is a collective.
    cpu_group(timeout_s=setup.timeout_s)
    record = run_function(function, local_rank, args, rank=idist.get_rank())
    write_record(Path(setup.folder), record)
    if not record.ok:
        # Not by returning: leaving the group in order can wait endlessly for processes that are gone.
        hard_exit(record.outcome.exit_code)


def run_function(
    function: Callable[..., object], local_rank: int, args: tuple[Any, ...], *, rank: int
) -> EndRecord:
    """Call ``function(local_rank, *args)`` and wait for the other processes; whatever happens becomes a record."""
    from fer_ignite.distributed.collectives import barrier

    try:
        with raise_on_sigterm():
            outcome = as_outcome(function(local_rank, *args))
            # A barrier: a rank that left early would make the others' last collective fail.
            barrier()
    except BaseException as error:
        forget_loading_processes()
        return read_end_record(error, rank=rank)
    return EndRecord(rank, outcome, ok=True)


def forget_loading_processes() -> None:
    """Restore the default SIGCHLD handler: torch's raises an error for each ended worker, wherever Python happens to be."""
    if hasattr(signal, "SIGCHLD") and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)


def hard_exit(code: int) -> NoReturn:
    """Exit without waiting for other processes: output is flushed, and data-loading workers are ended."""
    # os._exit skips the exit function of multiprocessing that would end them.
    for child in multiprocessing.active_children():
        child.terminate()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):
            stream.flush()
    os._exit(code)


def _applied(*fields: Any) -> ChildSetup:
    setup = ChildSetup(*fields)
    setup.apply()
    return setup
