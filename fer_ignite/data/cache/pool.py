"""Ordered map over processes, in which the calling process works along."""

import contextlib
import os
import signal
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from types import TracebackType
from typing import Any, TypeVar

__all__ = ["WorkerPool", "usable_cores", "usable_memory"]

_In = TypeVar("_In")
_Out = TypeVar("_Out")
_NOTHING: Any = object()


def usable_cores() -> int:
    """Cores that this process may run on."""
    # cpu_count also counts cores that taskset or a cpuset keeps from this process.
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def usable_memory() -> int | None:
    """Bytes of the machine's memory, or less where this process's control group has a limit; None where it isn't known."""
    try:
        sizes = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    except (AttributeError, ValueError, OSError):
        return None
    # Without a limit the file holds "max", which int() refuses.
    with contextlib.suppress(OSError, ValueError), open("/sys/fs/cgroup/memory.max") as file:
        sizes.append(int(file.read()))
    return min(sizes)


class WorkerPool:
    """Processes that map a function over pieces of work; started at once, ended on exit from the context.

    Where no processes can be started, such as in a script that lacks its `if __name__ == "__main__":`, all work is done
    in the calling process.

    Args:
        workers: how many pieces are worked on at a time, the calling process included.
        warm: what each process calls first, to import what it needs; a function of a module.
    """

    def __init__(self, workers: int, *, warm: Callable[[], object]) -> None:
        self.workers = workers
        self._warm = warm
        self._pool: ProcessPoolExecutor | None = None

    def __enter__(self) -> "WorkerPool":
        if self.workers > 1:
            # Spawned: a fork would inherit signal handlers, and locks that other threads hold.
            self._pool = ProcessPoolExecutor(
                self.workers - 1, mp_context=get_context("spawn"), initializer=_ignore_interrupt
            )
            for _ in range(self.workers - 1):  # the executor starts one process per task
                self._submit(_call, self._warm)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._pool is not None:
            # After an error the pieces that wait are of no use; those in work end before their
            # folder goes.
            self._pool.shutdown(wait=True, cancel_futures=True)

    def map(self, function: Callable[[_In], _Out], work: Iterable[_In]) -> Iterator[_Out]:
        """`map` in order; only a few results wait at a time.

        Args:
            function: one of a module; what it raises is raised here, in its place in the order.
        """
        if self._pool is None:
            yield from map(function, work)
            return
        waiting: deque[tuple[_In, Future[_Out]]] = deque()
        try:
            yield from self._results(function, iter(work), waiting=waiting)
        finally:
            # Nothing of this work is done after its end: the next may write to the same file.
            wait([future for _, future in waiting if not future.cancel()])

    def _results(
        self,
        function: Callable[[_In], _Out],
        items: Iterator[_In],
        *,
        waiting: "deque[tuple[_In, Future[_Out]]]",
    ) -> Iterator[_Out]:
        while True:
            self._supply(function, items, waiting=waiting)
            if not waiting:
                return
            # While the next result in order is missing, this process does a piece itself.
            if not waiting[0][1].done() and len(waiting) < self._most_waiting:
                item = next(items, _NOTHING)
                if item is not _NOTHING:
                    waiting.append((item, _done_here(function, item)))
                    continue
            yield _result(*waiting.popleft(), function=function)

    @property
    def _most_waiting(self) -> int:
        # A bound on memory: behind one slow piece the results of all later ones would pile up.
        return max(16, 3 * self.workers)

    def _supply(
        self,
        function: Callable[[_In], _Out],
        items: Iterator[_In],
        *,
        waiting: "deque[tuple[_In, Future[_Out]]]",
    ) -> None:
        """Two pieces for each process: one in work and the next."""
        open_pieces = sum(not future.done() for _, future in waiting)
        while open_pieces < 2 * (self.workers - 1) and len(waiting) < self._most_waiting:
            item = next(items, _NOTHING)
            if item is _NOTHING:
                return
            waiting.append((item, self._submit(function, item)))
            open_pieces += 1

    def _submit(self, function: Callable[[_In], _Out], item: _In) -> "Future[_Out]":
        assert self._pool is not None
        try:
            return self._pool.submit(function, item)
        except BrokenProcessPool as error:
            failed: Future[_Out] = Future()
            failed.set_exception(error)
            return failed


def _call(function: Callable[[], object]) -> None:
    function()


def _done_here(function: Callable[[_In], _Out], item: _In) -> "Future[_Out]":
    done: Future[_Out] = Future()
    try:
        done.set_result(function(item))
    except Exception as error:
        done.set_exception(error)
    return done


def _ignore_interrupt() -> None:
    # Ctrl-C goes to the whole group; the parent alone answers it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _result(item: Any, future: "Future[_Out]", *, function: Callable[[Any], _Out]) -> _Out:
    try:
        return future.result()
    except BrokenProcessPool:
        # Repeating is safe: a piece that writes, writes its own slots and nothing else.
        return function(item)
