"""Starts a function in one or several processes and ends all of them with one outcome."""

from fer_ignite.distributed.launcher import is_main_process, launch, leave
from fer_ignite.distributed.outcome import Outcome
from fer_ignite.distributed.resolve import LaunchSpec
from fer_ignite.distributed.signals import SignalFlag, reset_signals
from fer_ignite.distributed.torchrun import (
    final_outcome_marker,
    previous_final_outcome,
    requeue_count,
    restart_count,
)

__all__ = [
    "LaunchSpec",
    "Outcome",
    "SignalFlag",
    "final_outcome_marker",
    "is_main_process",
    "launch",
    "leave",
    "previous_final_outcome",
    "requeue_count",
    "reset_signals",
    "restart_count",
]
