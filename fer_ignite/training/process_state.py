"""Global state of the process that a run changes: random states, determinism flags, threads, and the log's handlers."""

import contextlib
import logging
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fer_ignite.terminal import TerminalHandler
from fer_ignite.training.loggers import RunLogFile

__all__ = ["ProcessState", "SessionState", "preserve_process_state"]


@dataclass(frozen=True)
class ProcessState:
    """What a run sets for the whole process, as it was at one time."""

    python: tuple[Any, ...]
    numpy: Any
    torch: Tensor
    cuda: list[Tensor]
    deterministic: bool
    warn_only: bool
    benchmark: bool
    threads: int
    handlers: tuple[logging.Handler, ...]
    level: int
    propagate: bool

    @classmethod
    def read(cls) -> "ProcessState":
        """The state as it is now; starts no CUDA context."""
        log = logging.getLogger("fer_ignite")
        return cls(
            python=random.getstate(),
            numpy=np.random.get_state(),
            torch=torch.get_rng_state(),
            cuda=torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else [],
            deterministic=torch.are_deterministic_algorithms_enabled(),
            warn_only=torch.is_deterministic_algorithms_warn_only_enabled(),
            benchmark=torch.backends.cudnn.benchmark,
            threads=torch.get_num_threads(),
            handlers=tuple(log.handlers),
            level=log.level,
            propagate=log.propagate,
        )

    def restore(self) -> None:
        """Sets everything as it was."""
        random.setstate(self.python)
        np.random.set_state(self.numpy)
        torch.set_rng_state(self.torch)
        if self.cuda:
            torch.cuda.set_rng_state_all(self.cuda)
        torch.use_deterministic_algorithms(self.deterministic, warn_only=self.warn_only)
        torch.backends.cudnn.benchmark = self.benchmark
        torch.set_num_threads(self.threads)
        log = logging.getLogger("fer_ignite")
        log.handlers[:] = self.handlers
        log.setLevel(self.level)
        log.propagate = self.propagate


@contextlib.contextmanager
def preserve_process_state() -> Iterator[None]:
    """The state is as before afterwards."""
    before = ProcessState.read()
    try:
        yield
    finally:
        before.restore()


class SessionState:
    """The state of one session, set while the session works: several can be open in one process."""

    def __init__(self) -> None:
        self._own: ProcessState | None = None

    @contextlib.contextmanager
    def active(self) -> Iterator[None]:
        """Within the block the session's state is set, as it was at the end of the block before; afterwards the caller's."""
        with preserve_process_state():
            attached = logging.getLogger("fer_ignite").handlers[:]
            if self._own is not None:
                self._own.restore()
                self._attach(attached)
            try:
                yield
            finally:
                self._own = ProcessState.read()

    def _attach(self, handlers: list[logging.Handler]) -> None:
        """Adds the handlers that the caller has attached since the block before."""
        log = logging.getLogger("fer_ignite")
        for handler in handlers:
            # addHandler adds none twice; a run's handlers are its own.
            if not isinstance(handler, (TerminalHandler, RunLogFile)):
                log.addHandler(handler)

    def close_log(self) -> None:
        """Closes the session's log file."""
        if self._own is not None:
            for handler in self._own.handlers:
                if isinstance(handler, RunLogFile):
                    handler.close()
