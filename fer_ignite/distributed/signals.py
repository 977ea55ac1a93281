"""Signal handling, and the end of a process when its parent dies."""

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

__all__ = [
    "SIGNAL_CODES",
    "SignalFlag",
    "Terminated",
    "die_with_parent",
    "raise_on_sigterm",
    "reset_signals",
    "stop_signals",
]

_END_SIGNALS = (signal.SIGINT, signal.SIGTERM)
# Sent by schedulers ahead of a time limit (Slurm's --signal) and when a terminal closes; Windows has none of them.
_NOTICE_SIGNALS = tuple(
    getattr(signal, name) for name in ("SIGHUP", "SIGUSR1", "SIGUSR2") if hasattr(signal, name)
)
# Exit codes of a run that a stop signal has ended.
SIGNAL_CODES = frozenset(128 + signum for signum in (*_END_SIGNALS, *_NOTICE_SIGNALS))
_PR_SET_PDEATHSIG = 1
_PARENT_CHECK_S = 0.5
_WATCHER = "fer-ignite-parent-watch"


def stop_signals() -> tuple[signal.Signals, ...]:
    """Signals that stop a run in good order: SIGINT, SIGTERM, and SIGHUP, SIGUSR1, SIGUSR2 unless they are ignored.

    Source: ``nohup`` starts its command with SIGHUP ignored.
    """
    return (
        *_END_SIGNALS,
        *(signum for signum in _NOTICE_SIGNALS if signal.getsignal(signum) is not signal.SIG_IGN),
    )


class Terminated(KeyboardInterrupt):
    """A stop signal other than SIGINT arrived before the run could stop at a step.

    A kind of KeyboardInterrupt, so that ``except Exception`` in user code doesn't keep the process alive.

    Args:
        signum: the signal's number.
    """

    def __init__(self, signum: int = int(signal.SIGTERM)) -> None:
        super().__init__()
        self.signum = signum


class SignalFlag:
    """Stores the number of a received stop signal in ``signum`` (0: none yet); see :func:`stop_signals`.

    All processes read it at the next step and stop together; a handler that did more would run in the middle of a save
    or of a collective operation. A second SIGINT or SIGTERM ends the process at once. SIGHUP, SIGUSR1 and SIGUSR2 never
    do: schedulers and terminals send them together with SIGTERM, or to a process and to its launcher.
    """

    def __init__(self) -> None:
        self.signum = 0
        self._previous: dict[int, Any] = {}

    def install(self) -> "SignalFlag":
        """Start listening. Outside the main thread, where Python has no signals, the flag just stays 0."""
        if threading.current_thread() is threading.main_thread():
            for signum in stop_signals():
                self._previous[signum] = signal.signal(signum, self._note)
        return self

    def restore(self) -> None:
        """Give the signals back to whoever had them."""
        while self._previous:
            signum, handler = self._previous.popitem()
            # None: a handler that was not installed from Python, which can't be put back.
            signal.signal(signum, handler if handler is not None else signal.SIG_DFL)

    def __enter__(self) -> "SignalFlag":
        return self.install()

    def __exit__(self, *_: object) -> None:
        self.restore()

    def _note(self, signum: int, _frame: FrameType | None) -> None:
        ends = signum in _END_SIGNALS
        if ends and self.signum in _END_SIGNALS:
            # Not an exception: user code may catch it, and its clean-up may wait for others.
            os._exit(128 + signum)
        if ends or not self.signum:
            self.signum = signum


def reset_signals(_worker: int = 0) -> None:
    """Let a data-loading worker serve on until its parent ends it; fits as ``worker_init_fn``.

    Ctrl-C is left to the parent, and so is a SIGTERM that reached the whole process group: the parent stops in good order,
    and needs batches up to the end of its step.
    Source: forked workers inherit Python's handlers, and would otherwise save checkpoints or never end.
    """
    for signum in (signal.SIGINT, *_NOTICE_SIGNALS):
        signal.signal(signum, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if hasattr(signal, "sigwaitinfo"):  # macOS lacks it: a signal's sender is unknown there
        # A Python handler doesn't get the sender's pid; sigwaitinfo does, of a blocked signal.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_exit_on_parent_sigterm, args=(os.getppid(),), daemon=True).start()


def _exit_on_parent_sigterm(parent_pid: int) -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent_pid:
        pass
    os._exit(128 + signal.SIGTERM)


@contextmanager
def raise_on_sigterm() -> Iterator[None]:
    """Within the block SIGINT raises KeyboardInterrupt, and every other stop signal Terminated."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = {
        signum: signal.signal(
            signum, signal.default_int_handler if signum == signal.SIGINT else _raise_terminated
        )
        for signum in stop_signals()
    }
    try:
        yield
    finally:
        for signum, handler in previous.items():
            signal.signal(signum, handler if handler is not None else signal.SIG_DFL)


def die_with_parent(parent_pid: int, *, launcher_pid: int | None = None) -> None:
    """End this process, hard, when ``parent_pid`` or ``launcher_pid`` ends; at once if it already has.

    On Linux the kernel does it for the parent (PR_SET_PDEATHSIG), also while the process is inside a collective
    operation. A thread looks too, as other systems have no such signal.

    Args:
        launcher_pid: where it is not the parent. A fork server lives as long as one of its children does, so its own
            end says nothing about the launcher's.
    """
    if sys.platform == "linux":
        _set_death_signal()
    # After prctl: a parent that died before that call sends no signal.
    if os.getppid() != parent_pid or _has_ended(launcher_pid):
        _die()
    if all(thread.name != _WATCHER for thread in threading.enumerate()):
        threading.Thread(
            target=_watch, args=(parent_pid, launcher_pid), name=_WATCHER, daemon=True
        ).start()


def _set_death_signal() -> None:
    import ctypes

    try:
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    except (OSError, AttributeError):  # a C library without prctl: the thread remains
        return


def _watch(parent_pid: int, launcher_pid: int | None) -> None:
    while os.getppid() == parent_pid and not _has_ended(launcher_pid):
        time.sleep(_PARENT_CHECK_S)
    _die()


def _has_ended(pid: int | None) -> bool:
    """Whether a process that may have any parent is gone, or only waits to be collected by it."""
    if pid is None:
        return False
    try:
        os.kill(pid, 0)
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except ProcessLookupError:
        return True
    except (OSError, IndexError):  # another user's process, or no /proc
        return False
    return state in "ZX"


def _die() -> NoReturn:
    os._exit(128 + 9)


def _raise_terminated(signum: int, _frame: FrameType | None) -> NoReturn:
    raise Terminated(signum)
