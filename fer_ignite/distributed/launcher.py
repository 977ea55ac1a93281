"""``launch`` runs a function in one or several processes; ``leave`` ends the program."""

import os
import sys
from collections.abc import Callable
from typing import Any, NoReturn

from fer_ignite.distributed.machine import configure_process, detect_machine
from fer_ignite.distributed.outcome import EndRecord, Outcome
from fer_ignite.distributed.resolve import LaunchPlan, LaunchSpec, make_plan
from fer_ignite.distributed.torchrun import mark_final, run_joined
from fer_ignite.distributed.worker import hard_exit, run_function

__all__ = ["is_main_process", "launch", "leave"]


def is_main_process() -> bool:
    """Whether this process prints and writes for all: rank 0 under torchrun or in a child, else the only one."""
    # Not idist.get_rank(), which is 0 everywhere until the group is there.
    return int(os.environ.get("RANK") or 0) == 0


def launch(function: Callable[..., object], *args: Any, spec: LaunchSpec) -> Outcome:
    """Run ``function(local_rank, *args)`` in every process and return how it all ended.

    Args:
        function: at the top level of a module; returns None, a mapping of plain values or an Outcome, or raises.
        args: what can be pickled, where processes are started.
    Returns:
        the common outcome, or that of the first failure. It returns normally whatever happens in the processes; a
        traceback has then been written to stderr, and ``message`` is the sentence to end with.
    Raises:
        ConfigError: before any process is started.
    """
    plan = make_plan(spec, os.environ, machine=detect_machine())
    if plan.warning and is_main_process():
        print(f"warning: {plan.warning}", file=sys.stderr, flush=True)
    if plan.mode == "joined":
        return run_joined(plan, function, args=args)
    if plan.mode == "spawn":
        from fer_ignite.distributed.spawn import run_spawned

        return run_spawned(plan, function, args=args)
    return _run_single(plan, function, args=args)


def leave(outcome: Outcome) -> NoReturn:
    """End the program with the outcome's exit code.

    After a failure the process group is still there, and an orderly exit could wait for processes that are gone. After
    success under torchrun, networks and sessions may still hold the group, and gloo's threads, taken down by the
    interpreter, then abort the process now and then, which torchrun reports as a failure.
    """
    # Also for errors outside of launch(), such as a wrong setting: torchrun would restart them.
    # Not a signal's code: SIGTERM may be torchrun's own, after another rank's failure.
    if outcome.exit_code in (2, 3, 5):
        mark_final(outcome)
    distributed = sys.modules.get("torch.distributed")
    if "RANK" in os.environ or (distributed is not None and distributed.is_initialized()):
        hard_exit(outcome.exit_code)
    sys.exit(outcome.exit_code)


def _run_single(
    plan: LaunchPlan, function: Callable[..., object], *, args: tuple[Any, ...]
) -> Outcome:
    import torch
    from ignite.distributed.launcher import Parallel

    from fer_ignite.distributed.spawn import quiet_parallel

    # Put back at the end: a Python caller computes further in this process.
    threads_of_caller = torch.get_num_threads()
    configure_process(plan.threads)
    records: list[EndRecord] = []
    try:
        with quiet_parallel(), Parallel(backend=None) as parallel:
            parallel.run(_note, function, args, records)
    finally:
        torch.set_num_threads(threads_of_caller)
    record = records[0]
    if record.trace:
        sys.stderr.write(record.trace)
    return record.outcome


def _note(
    local_rank: int,
    function: Callable[..., object],
    args: tuple[Any, ...],
    records: list[EndRecord],
) -> None:
    records.append(run_function(function, local_rank, args, rank=0))
