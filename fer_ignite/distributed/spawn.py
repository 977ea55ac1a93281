"""Supervisor of spawned processes: start, signal forwarding, joint end, root cause."""

import ast
import hashlib
import logging
import multiprocessing
import multiprocessing.connection
import os
import shutil
import signal
import sys
import tempfile
import threading
import time
import tokenize
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import FrameType
from typing import Any

from fer_ignite.distributed.failures import Ending, overall_outcome
from fer_ignite.distributed.outcome import Outcome, read_records
from fer_ignite.distributed.resolve import LaunchPlan, foreign_variables
from fer_ignite.distributed.signals import stop_signals
from fer_ignite.distributed.worker import ChildSetup, child_main
from fer_ignite.errors import ConfigError
from fer_ignite.imports import send_problem
from fer_ignite.terminal import LINES_TO_STDOUT, in_notebook

__all__ = ["quiet_parallel", "run_spawned"]

_FOLDER_PREFIX = "fer-ignite-launch-"
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_PID_NAMESPACE = Path("/proc/self/ns/pid")
_SAVE_LIMIT_S = 30.0  # for all processes to save and leave after a signal
_LEAVE_LIMIT_S = 4.0  # for the others to notice a failure by themselves, then SIGTERM
_TERM_LIMIT_S = 3.0  # then SIGKILL
_LOOK_S = 0.2


def run_spawned(
    plan: LaunchPlan, function: Callable[..., object], *, args: tuple[Any, ...]
) -> Outcome:
    """Run ``function`` in ``plan.nproc`` children through ``ignite.distributed.Parallel`` and return how it ended."""
    _check_start(plan, function, args=args)
    with _private_folder() as folder:
        supervisor = ProcessGroupSupervisor(limit_s=_SAVE_LIMIT_S)
        with supervisor.listening():
            supervisor.add(
                _start_children(plan, function, args=args, folder=folder), expected=plan.nproc
            )
            endings = supervisor.watch()
        first_rank = plan.spec.node_rank * plan.nproc
        return overall_outcome(
            {first_rank + place: ending for place, ending in enumerate(endings)},
            read_records(folder),
            signals=supervisor.signals,
            timeout_s=plan.spec.dist_timeout_s,
            start_error=_start_error(folder),
        )


@dataclass
class ProcessGroupSupervisor:
    """The children of one launch."""

    limit_s: float
    children: list[BaseProcess] = field(default_factory=list)
    signals: list[int] = field(default_factory=list)
    first_failure_s: float | None = None
    signalled_s: float | None = None
    termed: bool = False
    killed: set[BaseProcess] = field(default_factory=set)

    def add(self, children: list[BaseProcess], *, expected: int) -> None:
        """Take responsibility for freshly started children; a signal that came before reaches them now."""
        self.children = children
        if len(children) < expected:  # one has ended already, and multiprocessing has forgotten it
            self.first_failure_s = time.monotonic()
        for signum in self.signals:
            self._send(signum)

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Forward stop signals to the children; the second SIGINT or SIGTERM kills them."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        # Python allows signal handlers in the main thread only.
        previous = {signum: signal.signal(signum, self._forward) for signum in stop_signals()}
        try:
            yield
        finally:
            # Also where the launcher itself raised: no child outlives the block.
            self._kill_rest()
            for signum, handler in previous.items():
                signal.signal(signum, handler if handler is not None else signal.SIG_DFL)

    def watch(self) -> list[Ending]:
        """Wait until all children have ended, hurrying them where one has failed or a signal has come."""
        endings: dict[BaseProcess, Ending] = {}
        while alive := [child for child in self.children if child not in endings]:
            # Returns when a child ends; the timeout is for the limits that _hurry() watches.
            multiprocessing.connection.wait([child.sentinel for child in alive], timeout=_LOOK_S)
            now_s = time.monotonic()
            for child in alive:
                if child.exitcode is None:
                    continue
                endings[child] = Ending(child.exitcode, now_s, killed=child in self.killed)
                if child.exitcode != 0 and self.first_failure_s is None:
                    self.first_failure_s = now_s
            self._hurry(now_s)
        return [endings[child] for child in self.children]

    def _hurry(self, now_s: float) -> None:
        if self.signalled_s is not None and now_s - self.signalled_s > self.limit_s:
            self._kill_rest()
        if self.first_failure_s is None:
            return
        # Time to leave by themselves: a lost connection ends their collective, and they record it.
        if not self.termed and now_s - self.first_failure_s > _LEAVE_LIMIT_S:
            self.termed = True
            self._send(signal.SIGTERM)
        if now_s - self.first_failure_s > _LEAVE_LIMIT_S + _TERM_LIMIT_S:
            self._kill_rest()

    def _forward(self, signum: int, _frame: FrameType | None) -> None:
        self.signals.append(signum)
        self.signalled_s = self.signalled_s or time.monotonic()
        # SIGHUP, SIGUSR1 and SIGUSR2 don't count: schedulers send them together with SIGTERM.
        if sum(number in (signal.SIGINT, signal.SIGTERM) for number in self.signals) > 1:
            self._kill_rest()
        else:
            self._send(signum)

    def _kill_rest(self) -> None:
        # Before the signal: the outcome tells a process that was killed here from one that died.
        self.killed.update(child for child in self.children if child.exitcode is None)
        self._send(signal.SIGKILL if hasattr(signal, "SIGKILL") else signal.SIGTERM)

    def _send(self, signum: int) -> None:
        for child in self.children:
            if child.exitcode is None and child.pid is not None:
                with suppress(ProcessLookupError):
                    os.kill(child.pid, signum)


def _start_children(
    plan: LaunchPlan, function: Callable[..., object], *, args: tuple[Any, ...], folder: Path
) -> list[BaseProcess]:
    from ignite.distributed.launcher import Parallel

    spec = plan.spec
    setup = _child_setup(plan, folder)
    # A rendezvous in a file needs no free port, which another program could take between choosing and binding.
    group: dict[str, Any] = {"init_method": f"file://{folder}/rendezvous"}
    if spec.nnodes > 1:
        # Several nodes may have no file in common, and meet at the master's port.
        group = {"nnodes": spec.nnodes, "node_rank": spec.node_rank}
        group |= {"master_addr": spec.master_addr, "master_port": spec.master_port}
    # Parallel returns no handles: the children are those that were not there before.
    before = set(multiprocessing.active_children())
    # Here too: a spawned child imports the main program, and torch with it, before ChildSetup.
    with _environment(dict(setup.environment), setup.removed), quiet_parallel():
        if spec.start_method == "forkserver":
            _start_fork_server()
        # torch leaves its error files in the temporary folder; ours is removed at the end.
        with _temporary_files_in(folder):
            parallel = Parallel(
                plan.backend,
                nproc_per_node=plan.nproc,
                start_method=spec.start_method,
                # torch's join gives a hanging process 30 s between SIGTERM and SIGKILL, and
                # Parallel passes on no other time.
                join=False,
                timeout=timedelta(seconds=spec.dist_timeout_s),
                **group,
            )
            try:
                with parallel:
                    parallel.run(child_main, setup, function, args)
            except BaseException:
                # some may have started, and multiprocessing would wait for them at exit
                for child in _children_since(before):
                    child.kill()
                raise
    return _children_since(before)


def _children_since(before: set[BaseProcess]) -> list[BaseProcess]:
    """New children in the order of their start, which is that of their ranks."""
    children = [child for child in multiprocessing.active_children() if child not in before]
    # active_children() comes from a set; multiprocessing numbers the names by start.
    return sorted(children, key=lambda child: int(child.name.rpartition("-")[2]))


def _start_fork_server() -> None:
    from multiprocessing import forkserver

    multiprocessing.get_context("forkserver").set_forkserver_preload(
        ["torch", "ignite.distributed"]
    )
    # Its socket outlives this launch, so it must not lie in the folder that goes with it.
    try:
        forkserver.ensure_running()
    except OSError as error:  # its socket lies in the temporary folder, and a socket's path has at most 107 bytes
        raise ConfigError(
            f"--start-method forkserver: no socket in the temporary folder {tempfile.gettempdir()} ({error}); set TMPDIR to a "
            "folder with a shorter path, such as /tmp, or take spawn."
        ) from None


def _child_setup(plan: LaunchPlan, folder: Path) -> ChildSetup:
    environment = dict(plan.environment)
    if in_notebook():
        environment[LINES_TO_STDOUT] = "1"
    if plan.spec.nnodes == 1:
        # Nothing of a run on one node listens where the network can reach it.
        loopback = "lo0" if sys.platform == "darwin" else "lo"
        for name in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"):
            environment[name] = os.environ.get(name, loopback)
    return ChildSetup(
        folder=str(folder),
        environment=tuple(environment.items()),
        removed=tuple(foreign_variables(os.environ)),
        threads=plan.threads,
        launcher_pid=os.getpid(),
        start_method=plan.spec.start_method,
        timeout_s=plan.spec.dist_timeout_s,
    )


def _check_start(
    plan: LaunchPlan, function: Callable[..., object], *, args: tuple[Any, ...]
) -> None:
    if plan.spec.start_method == "fork":
        import torch

        if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
            raise ConfigError(
                "--start-method fork was given, but this process already uses CUDA: use spawn."
            )
        return
    _check_main_module()
    if (problem := send_problem((function, args))) is not None:
        raise ConfigError(
            f"Something given to the run can't be sent to other processes ({problem}): "
            "put functions and classes at the top level of a module, not into a notebook or a function."
        )


def _check_main_module() -> None:
    """Refuses a main program that a started process can't import, or that would start processes again while imported.

    Source: multiprocessing.spawn imports the parent's main program by its file, except a package's ``__main__``.
    """
    main = sys.modules["__main__"]
    path, spec = getattr(main, "__file__", None), getattr(main, "__spec__", None)
    if path is None or (spec is not None and spec.name.rpartition(".")[2] == "__main__"):
        return
    if not os.path.exists(path):
        raise ConfigError(
            f"Several processes need a program in a file, which each of them imports; this one comes from {os.path.basename(path)}. "
            "Save it as a .py file, or use nproc=1."
        )
    frame: FrameType | None = sys._getframe()
    while frame is not None:
        if (
            frame.f_globals is vars(main)
            and frame.f_code.co_name == "<module>"
            and not _is_guarded(path, frame.f_lineno)
        ):
            raise ConfigError(
                f"{os.path.basename(path)}, line {frame.f_lineno}: every started process imports this file and would start processes "
                'again; put the call under `if __name__ == "__main__":`, or use nproc=1.'
            )
        frame = frame.f_back


def _is_guarded(path: str, line: int) -> bool:
    """Whether a line of a Python file is in a block under a condition on ``__name__``; true where it can't be read."""
    try:
        with tokenize.open(path) as file:
            tree = ast.parse(file.read())
    except (OSError, SyntaxError, UnicodeDecodeError):
        return True
    blocks = [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and node.lineno <= line <= (node.end_lineno or 0)
    ]
    return any(
        isinstance(part, ast.Name) and part.id == "__name__"
        for block in blocks
        for part in ast.walk(block.test)
    )


@contextmanager
def quiet_parallel() -> Iterator[None]:
    """Keep Ignite's launcher from logging its parameters into the user's terminal."""
    logger = logging.getLogger("ignite.distributed.launcher.Parallel")
    before, logger.disabled = logger.disabled, True
    try:
        yield
    finally:
        logger.disabled = before


@contextmanager
def _environment(added: Mapping[str, str], removed: tuple[str, ...]) -> Iterator[None]:
    before = dict(os.environ)
    for name in removed:
        os.environ.pop(name, None)
    os.environ.update(added)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


@contextmanager
def _temporary_files_in(folder: Path) -> Iterator[None]:
    before, tempfile.tempdir = tempfile.tempdir, str(folder)
    try:
        yield
    finally:
        tempfile.tempdir = before


@contextmanager
def _private_folder() -> Iterator[Path]:
    try:
        folder = Path(tempfile.mkdtemp(prefix=f"{_FOLDER_PREFIX}{os.getpid()}-{_pid_space()}-"))
    except OSError as error:
        raise ConfigError(
            f"No temporary folder can be made ({error}): set TMPDIR to one that can be written."
        ) from None
    _remove_leftovers(folder.parent)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _pid_space() -> str:
    """Eight characters for the machine and the PID namespace in which this process's number is unique; empty where unknown."""
    # Not the host's name: containers of several machines may share one, and a temporary folder too.
    try:
        text = f"{_BOOT_ID.read_text().strip()} {os.readlink(_PID_NAMESPACE)}"
    except OSError:
        return ""
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def _remove_leftovers(parent: Path) -> None:
    """Remove the folders of launchers that were killed: only of those whose number can be looked up here."""
    if not (space := _pid_space()):
        return
    for folder in parent.glob(f"{_FOLDER_PREFIX}*-{space}-*"):
        pid = folder.name.removeprefix(_FOLDER_PREFIX).partition("-")[0]
        with suppress(OSError):
            if (
                pid.isdigit()
                and not Path("/proc", pid).exists()
                and folder.stat().st_uid == os.getuid()
            ):
                shutil.rmtree(folder, ignore_errors=True)


def _start_error(folder: Path) -> str | None:
    """The last line of the first traceback that torch noted for a child that failed before our code ran in it.

    torch pickles the traceback; its text stands in the file as it is, so nothing is unpickled.
    """
    files = sorted(folder.glob("pytorch-errorfile-*.pickle"), key=lambda path: path.stat().st_mtime)
    if not files:
        return None
    text = files[0].read_bytes().decode("utf-8", errors="replace")
    lines = [line for line in text.splitlines() if line and line[0].isalpha() and ":" in line]
    return lines[-1].rstrip("\x94.\ufffd") if lines else None
