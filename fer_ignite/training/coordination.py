"""Stop coordination, and the count of non-finite steps in a row that ends a run with code 3.

Ranks reduce stop requests in iteration k and read them in iteration k + 1.

A vote is one small integer tensor, reduced by maximum over a CPU group without waiting, so the device never waits for
it. What ends a run ends it on every process after the same optimizer step.
"""

import signal
import time
from collections.abc import Callable
from enum import IntEnum
from typing import Any

import torch
import torch.distributed as dist
from ignite.engine import Engine, Events
from torch import Tensor

from fer_ignite.errors import NONFINITE_REMEDY, NonFiniteError
from fer_ignite.training.events import RunEvents, StepEvents
from fer_ignite.training.trainer import Trainer

__all__ = ["STATUS", "StopCoordinator", "StopReason", "coordination_handlers"]


class StopReason(IntEnum):
    """Why a run ends; where several hold at once, the highest wins."""

    NONE = 0
    HANDLER = 1
    TIME_LIMIT = 2
    SIGINT = 3
    SIGTERM = 4
    SIGHUP = 5
    SIGUSR1 = 6
    SIGUSR2 = 7

    @property
    def exit_code(self) -> int:
        """128 + the signal's number, 0 for the reasons that are no signal."""
        return 128 + signal.Signals[self.name] if self >= StopReason.SIGINT else 0


STATUS = {
    StopReason.NONE: "completed",
    StopReason.HANDLER: "early_stopped",
    StopReason.TIME_LIMIT: "time_limit",
    StopReason.SIGINT: "interrupted",
    StopReason.SIGTERM: "interrupted",
    StopReason.SIGHUP: "interrupted",
    StopReason.SIGUSR1: "interrupted",
    StopReason.SIGUSR2: "interrupted",
}


class StopCoordinator:
    """Reduces stop requests over the ranks and acts on the common result.

    Args:
        trainer: stopped through :meth:`Trainer.stop_now`.
        group: CPU process group of all processes; None for one process.
        signal_number: () -> number of a signal that was received, or 0.
        time_limit_s: wall-clock seconds from now after which this process requests a stop.
        save_every_s, save_epochs, save_iterations: when resume points are due.
        nonfinite_patience: optimizer steps in a row with a loss or gradients that are not finite, which end the run.

    Attributes:
        reason: why the run ends; the same on all processes.
    """

    def __init__(
        self,
        trainer: Trainer,
        *,
        group: Any = None,
        signal_number: Callable[[], int] = lambda: 0,
        time_limit_s: float | None = None,
        save_every_s: float = 300.0,
        save_epochs: int = 1,
        save_iterations: int | None = None,
        nonfinite_patience: int = 10,
    ) -> None:
        self.trainer, self.group, self.signal_number = trainer, group, signal_number
        self.deadline = None if time_limit_s is None else time.monotonic() + time_limit_s
        self.save_every_s, self.last_save = save_every_s, time.monotonic()
        self.save_epochs, self.save_iterations = save_epochs, save_iterations
        self.nonfinite_patience = nonfinite_patience
        self.reason = StopReason.NONE
        self.save_wanted = False
        self.not_taken = 0
        self._flag: tuple[Tensor, torch.cuda.Event | None] | None = None
        self._pending: tuple[Tensor, Any] | None = None

    @property
    def status(self) -> str:
        """The outcome that a resume point written now would hold: ``running`` before the last iteration."""
        state = self.trainer.state
        if self.reason:
            return STATUS[self.reason]
        return (
            "completed" if state.iteration >= state.epoch_length * state.max_epochs else "running"
        )

    def record_step_taken(self, engine: Engine) -> None:
        """OPTIMIZER_STEPPED: the flag starts its way to the host, where it is read a step later."""
        # The flag of the step before: the host waits for that step at most, never for the one that
        # it has just queued.
        self._count_not_taken()
        # a loss can be NaN where its gradients are finite
        taken = engine.state.step_taken & engine.state.loss.isfinite()
        if taken.device.type == "cuda":
            # A copy is asynchronous only into pinned memory; the event says when the value has arrived.
            on_host = torch.empty((), dtype=torch.bool, pin_memory=True).copy_(
                taken, non_blocking=True
            )
            arrived = torch.cuda.Event()
            arrived.record()
            self._flag = (on_host, arrived)
        else:
            self._flag = (taken.cpu(), None)

    def sync_iteration(self, engine: Engine) -> None:
        """ITERATION_COMPLETED: reads the last iteration's vote, acts after an accumulation group, sends this iteration's."""
        state = engine.state
        # Read before send: one vote is under way at a time, so that no rank pairs it with another iteration's.
        self._read()
        if self.save_iterations is not None and state.iteration % self.save_iterations == 0:
            self.save_wanted = True
        # The end of an epoch is left to sync_epoch(): the run's files and the stop belong behind the validation.
        # Within an accumulation group nothing is saved: gradients of its first micro-batches are in no checkpoint.
        if (
            state.iteration % state.epoch_length != 0
            and state.batch.is_last_micro
            and (self.reason or self.save_wanted)
        ):
            self._save()
            if self.reason:
                self.trainer.stop_now()
        self._send()

    def sync_epoch(self, engine: Engine) -> None:
        """EPOCH_COMPLETED, behind all other handlers: all processes are here, so the vote is read at once."""
        self._read()
        # A run's last step has no later one in which its flag could be read.
        self._count_not_taken()
        # A second vote, for what handlers of this event have requested: early stopping decides after the validation.
        self._send()
        self._read()
        if (
            self.save_wanted
            or self.status != "running"
            or engine.state.epoch % self.save_epochs == 0
        ):
            self._save()
        if self.reason:
            self.trainer.stop_now()

    def open(self) -> None:
        """The run begins or continues: the vote that a resume point's iteration sent is cast again."""
        self._send()

    def wait_pending(self) -> None:
        """Waits for a vote that is still under way, so that no process leaves the others in it."""
        if self._pending is not None and self._pending[1] is not None:
            self._pending[1].wait()
        self._pending = None

    def _own(self) -> Tensor:
        """int64 [4]: stop reason, whether a handler requested a stop, whether a resume point is due, steps not taken in a row."""
        # One tensor for all four, so that an iteration costs one all_reduce.
        now, requested = time.monotonic(), bool(self.trainer.state.stop_requested)
        reason = StopReason.HANDLER if requested else StopReason.NONE
        if self.deadline is not None and now > self.deadline:
            reason = StopReason.TIME_LIMIT
        if number := self.signal_number():
            reason = StopReason[signal.Signals(number).name]
        # The clocks of the processes differ, and RESUME_POINT's handlers call collectives: only the
        # reduced answer saves.
        return torch.tensor(
            [
                int(reason),
                int(requested),
                int(now - self.last_save > self.save_every_s),
                self.not_taken,
            ]
        )

    def _count_not_taken(self) -> None:
        if self._flag is not None:
            flag, arrived = self._flag
            if arrived is not None:
                arrived.synchronize()
            self.not_taken = 0 if bool(flag) else self.not_taken + 1
        self._flag = None

    def _send(self) -> None:
        vote = self._own()
        work = (
            None
            if self.group is None
            else dist.all_reduce(vote, dist.ReduceOp.MAX, group=self.group, async_op=True)
        )
        self._pending = (vote, work)

    def _read(self) -> None:
        if self._pending is None:
            return
        vote, work = self._pending
        self._pending = None
        if work is not None:
            work.wait()
        reason, requested, save, not_taken = vote.tolist()
        # The reasons are in order of rank, so the maximum over the ranks is the one to act on.
        self.reason = max(self.reason, StopReason(reason))
        # A request that a signal outranks is kept on all ranks, so that the resume point has it.
        self.trainer.state.stop_requested = self.trainer.state.stop_requested or bool(requested)
        self.save_wanted = self.save_wanted or bool(save)
        # The count is reduced too: all ranks raise at the same iteration.
        if not_taken >= self.nonfinite_patience:
            raise NonFiniteError(
                f"the loss or the gradients were not finite in {not_taken} optimizer steps in a row (iteration "
                f"{self.trainer.state.iteration}); steps with such gradients are not taken. {NONFINITE_REMEDY}"
            )

    def _save(self) -> None:
        self.save_wanted = False
        self.last_save = time.monotonic()
        self.trainer.fire_event(RunEvents.RESUME_POINT)


def coordination_handlers(
    coordinator: StopCoordinator,
) -> tuple[tuple[str, Any, Callable[[Engine], None]], ...]:
    """Name, event and handler of each part of the voting."""
    return (
        ("record_step_taken", StepEvents.OPTIMIZER_STEPPED, coordinator.record_step_taken),
        ("sync_iteration", Events.ITERATION_COMPLETED, coordinator.sync_iteration),
        ("sync_epoch", Events.EPOCH_COMPLETED, coordinator.sync_epoch),
    )
