"""Small worker functions, at the top level of a module because they are sent to other processes."""

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import torch

from fer_ignite.distributed import (
    LaunchSpec,
    Outcome,
    SignalFlag,
    launch,
    leave,
    previous_final_outcome,
    restart_count,
)
from fer_ignite.distributed.collectives import agree_on_text, cpu_group
from fer_ignite.errors import NonFiniteError


def tell_ranks(local_rank: int, folder: str) -> dict[str, Any]:
    total = idist.all_reduce(torch.tensor(float(idist.get_rank() + 1)))
    note = {
        "rank": idist.get_rank(),
        "world": idist.get_world_size(),
        "threads": torch.get_num_threads(),
    }
    Path(folder, f"{idist.get_rank()}.txt").write_text(f"{os.getpid()} {os.getppid()}")
    return {**note, "local_rank": local_rank, "sum": float(total), "backend": idist.backend()}


def agree(local_rank: int) -> dict[str, Any]:
    first = agree_on_text("rank one, ä" if idist.get_rank() == 1 else None)
    return {
        "first": first,
        "none": agree_on_text(None),
        "empty": agree_on_text(""),
        "group": cpu_group() is not None,
    }


def fail(local_rank: int, how: str, rank: int) -> None:
    """Rank ``rank`` ends as ``how`` says after a few common steps; the others continue until they notice."""
    for step in range(200):
        idist.all_reduce(torch.ones(1))
        if step == 3 and idist.get_rank() == rank:
            _end(how)
        time.sleep(0.02)


def _end(how: str) -> None:
    if how == "error":
        raise ValueError("the face fell off")
    if how == "memory":
        raise MemoryError("no room")
    if how == "nonfinite":
        raise NonFiniteError("The loss is nan.")
    if how == "exit":
        os._exit(3)
    if how == "sys.exit":
        sys.exit(0)
    if how == "interrupt":
        raise KeyboardInterrupt
    os.kill(os.getpid(), getattr(signal, how))
    time.sleep(1000)


def fail_alone(local_rank: int) -> None:
    raise NonFiniteError("The loss is nan.")


def step_until_signal(local_rank: int, folder: str, stubborn: bool = False) -> Outcome:
    """Common steps until any process has met a signal, then a save, as a run does it."""
    with SignalFlag() as flag:
        Path(folder, f"{idist.get_rank()}.pid").write_text(str(os.getpid()))
        for step in range(3000):
            if stubborn:
                time.sleep(0.01)
                continue
            vote = idist.all_reduce(torch.tensor(float(flag.signum)), op="MAX")
            if vote:
                Path(folder, f"{idist.get_rank()}.stopped").write_text(str(step))
                return Outcome(128 + int(vote), "interrupted", "Interrupted.", {"step": step})
            time.sleep(0.01)
    return Outcome()


def count_attempts(local_rank: int, folder: str, how: str) -> Outcome:
    """Fail in the first attempts as ``how`` says; later ones complete."""
    attempt = restart_count()
    Path(folder, f"attempt-{attempt}-{idist.get_rank()}").write_text("")
    idist.all_reduce(torch.ones(1))
    if how == "stopped":
        return Outcome(143, "interrupted", "Interrupted.")
    if attempt < 2:
        fail(local_rank, how, rank=attempt % 2)
    return Outcome(result={"sum": float(idist.all_reduce(torch.ones(1)))})


def main() -> None:
    """``python workers.py FUNCTION nproc|-  timeout [args...]``: what the command line does with an outcome."""
    previous = previous_final_outcome()
    if previous is not None:
        leave(previous)
    name, nproc, timeout_s, *args = sys.argv[1:]
    values = [int(text) if text.isdigit() else text for text in args]
    nodes = json.loads(os.environ.get("FER_TEST_NODES", "{}"))
    spec = LaunchSpec(
        None if nproc == "-" else int(nproc), device="cpu", dist_timeout_s=float(timeout_s), **nodes
    )
    # By its importable name: in a started process __main__ is another module.
    import workers

    outcome = launch(getattr(workers, name), *values, spec=spec)
    if outcome.result is not None:
        print(outcome.result, flush=True)
    if outcome.message:
        print(f"error: {outcome.message}", file=sys.stderr, flush=True)
    leave(outcome)


if __name__ == "__main__":
    main()
