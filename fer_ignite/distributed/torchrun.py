"""A process that torchrun or Slurm started: join the group, run, record the end.

torchrun restarts whatever leaves with a non-zero code, also a run that was stopped, went non-finite or was started
wrongly. Such an end leaves a marker beside the agent's attempt folders, and a restarted process that finds it leaves at
once with the same code, so that torchrun runs out of restarts in seconds and reports a failure, as it should.
"""

import itertools
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

from fer_ignite.distributed.machine import configure_process
from fer_ignite.distributed.outcome import (
    FINAL_CODES,
    EndRecord,
    Outcome,
    read_records,
    write_json,
    write_record,
)
from fer_ignite.distributed.resolve import LaunchPlan, slurm_as_torchrun
from fer_ignite.distributed.signals import die_with_parent
from fer_ignite.distributed.worker import run_function

__all__ = [
    "final_outcome_marker",
    "mark_final",
    "previous_final_outcome",
    "requeue_count",
    "restart_count",
    "run_joined",
]

_ERROR_FILE = "TORCHELASTIC_ERROR_FILE"  # <log folder>/<run>/attempt_<n>/<local rank>/error.json
_CAUSE_FIRST_S = (
    1.5  # torchrun compares whole seconds: a consequence waits until its cause is noted
)
_REQUEUES = "SLURM_RESTART_COUNT"
_SILENCE_S = 5.0  # after this, a process of this node that neither failed nor left hangs


def restart_count(environ: Mapping[str, str] = os.environ) -> int:
    """How often torchrun has restarted this group; 0 for the first attempt and under other launchers."""
    return int(environ.get("TORCHELASTIC_RESTART_COUNT") or 0)


def requeue_count(environ: Mapping[str, str] = os.environ) -> int:
    """How often Slurm has put this job back into its queue; 0 under other launchers."""
    return int(environ.get(_REQUEUES) or 0)


def final_outcome_marker(environ: Mapping[str, str] = os.environ) -> Path | None:
    """The file that keeps torchrun's next attempts from continuing; None without torchrun."""
    attempt = _attempt_folder(environ)
    return attempt.parent / "fer-ignite-final.json" if attempt else None


def previous_final_outcome(environ: Mapping[str, str] = os.environ) -> Outcome | None:
    """The end of an earlier attempt that must not be repeated, None if this attempt is to run."""
    marker = final_outcome_marker(environ)
    if marker is None or restart_count(environ) == 0 or not marker.exists():
        return None
    value = json.loads(marker.read_text(encoding="utf-8"))
    if value.pop("attempt") == restart_count(environ):
        return None  # ended because a machine joined, which torchrun does not count as a restart
    outcome = Outcome(**value)
    return replace(outcome, message=f"Not restarted: {outcome.message or outcome.status}")


def mark_final(outcome: Outcome, environ: Mapping[str, str] = os.environ) -> None:
    """Notes an end that no restart must repeat; other ends leave no mark.

    The first mark stays: in the next attempt one rank may already have left with it when torchrun sends SIGTERM to another.
    """
    marker = final_outcome_marker(environ)
    if marker is not None and not marker.exists() and outcome.exit_code in FINAL_CODES:
        with suppress(OSError):
            write_json(marker, {**asdict(outcome), "attempt": restart_count(environ)})


def run_joined(
    plan: LaunchPlan, function: Callable[..., object], *, args: tuple[Any, ...]
) -> Outcome:
    """Run ``function`` as one process of a group that another launcher has started."""
    previous = previous_final_outcome()
    if previous is not None:
        return previous
    # torchrun's processes outlive an agent that is killed.
    die_with_parent(os.getppid())
    _prepare_environment(plan)
    rank, local_rank = int(os.environ["RANK"]), int(os.environ["LOCAL_RANK"])
    folder = _attempt_folder(os.environ)
    if folder is not None:
        # So that a rank that fails can find which of the others still run.
        write_json(folder / f"pid-{rank}.json", {"pid": os.getpid()})
    record = _run_in_group(plan, function, args=args, rank=rank, local_rank=local_rank)
    if not record.ok and folder is not None:
        return _fail(record, folder, timeout_s=plan.spec.dist_timeout_s)
    if not record.ok:
        return _with_rank(record)
    mark_final(record.outcome)
    return record.outcome


def _run_in_group(
    plan: LaunchPlan,
    function: Callable[..., object],
    *,
    args: tuple[Any, ...],
    rank: int,
    local_rank: int,
) -> EndRecord:
    import ignite.distributed as idist
    import torch
    import torch.distributed as dist
    from ignite.distributed.launcher import Parallel

    from fer_ignite.distributed.collectives import cpu_group
    from fer_ignite.distributed.spawn import quiet_parallel

    found = dist.is_initialized()  # made by another engine, such as Ray, which also ends it

    def joined(local_rank: int, *args: Any) -> object:
        if plan.device == "cuda":
            # Before the group is made: NCCL works on the current device.
            torch.cuda.set_device(local_rank)
        if not found:
            _init_group(plan)
        # Ignite has not made this group: without sync() each idist call would look for it again.
        idist.sync()
        cpu_group(timeout_s=plan.spec.dist_timeout_s)
        result: list[object] = []
        with quiet_parallel(), Parallel(backend=None) as parallel:
            parallel.run(_keep, function, args, result)
        return result[0]

    configure_process(plan.threads)
    # Parallel(backend=None) runs in the group that exists; joined() makes it first.
    record = run_function(joined, local_rank, args, rank=rank)
    if record.ok and not found:
        # Parallel(backend=None) leaves the group alone, and an exit with a group alive aborts now and then.
        dist.destroy_process_group()
    return record


def _keep(
    local_rank: int, function: Callable[..., object], args: tuple[Any, ...], result: list[object]
) -> None:
    result.append(function(local_rank, *args))


_joins = itertools.count()


def _init_group(plan: LaunchPlan) -> None:
    """Join the group with our own timeout, which Parallel doesn't pass on here, and with keys of this attempt only.

    Source: torchrun's agent keeps one store for all attempts (pytorch#135712), so a restarted group would find the dead
    one's addresses.
    """
    import torch.distributed as dist
    from torch._C._distributed_c10d import PrefixStore
    from torch.distributed.rendezvous import rendezvous

    timeout = timedelta(seconds=plan.spec.dist_timeout_s)
    store, rank, world_size = next(rendezvous("env://", timeout=timeout))
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
        # Several runs of one program (--seeds, --folds) each have keys of their own, too.
        store = PrefixStore(f"fer-ignite/{restart_count()}/{next(_joins)}", store)
    dist.init_process_group(
        plan.backend, store=store, rank=rank, world_size=world_size, timeout=timeout
    )


def _prepare_environment(plan: LaunchPlan) -> None:
    if "RANK" not in os.environ:
        os.environ.update(slurm_as_torchrun(os.environ))
    for name in [name for name in os.environ if name.startswith("SLURM_") and name != _REQUEUES]:
        del os.environ[name]  # SLURM_LOCALID would override LOCAL_RANK (ignite native.py:208)
    os.environ.update(plan.environment)
    if os.environ["WORLD_SIZE"] == str(plan.nproc):
        loopback = "lo0" if sys.platform == "darwin" else "lo"
        for name in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"):
            os.environ.setdefault(name, loopback)


def _fail(record: EndRecord, folder: Path, *, timeout_s: float) -> Outcome:
    """Report a failure to torchrun: the cause at once, a consequence after its cause, and end processes that hang."""
    first = not _failed_before(record.rank, folder)
    hanging: dict[int, int] = {}
    if record.lost_peer:
        hanging = _wait_for_cause(record.rank, folder)
        if hanging:
            text = f"rank {min(hanging)} stopped answering within {timeout_s:g} s (--dist-timeout)"
            record = replace(record, outcome=Outcome(1, "failed", text), trace=None)
    write_record(folder, record)
    # After another rank's failure it is torchrun's own SIGTERM, and must not forbid the restart.
    if record.outcome.status != "interrupted" or first:
        mark_final(record.outcome)
    outcome = _with_rank(record)
    with suppress(OSError):
        write_json(
            Path(os.environ[_ERROR_FILE]),
            # torchrun reports the failure with the smallest timestamp as the root cause.
            {"message": outcome.message or "", "timestamp": int(time.time())},
        )
    for pid in hanging.values():
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)  # torchrun itself would wait 30 s for each
    return outcome


def _with_rank(record: EndRecord) -> Outcome:
    if record.trace and not record.lost_peer:
        sys.stderr.write(record.trace)
    if record.outcome.exit_code != 1:
        return record.outcome
    return replace(record.outcome, message=f"Rank {record.rank} failed: {record.outcome.message}")


def _wait_for_cause(rank: int, folder: Path) -> dict[int, int]:
    """Wait until another process of this node has failed or died, and return those {rank: pid} that do neither."""
    started_s = time.monotonic()
    # Ranks that wait here are alive and well: they must not be reported as hanging.
    write_json(folder / f"waiting-{rank}.json", {})
    time.sleep(_CAUSE_FIRST_S)
    while not _failed_before(rank, folder):
        if time.monotonic() - started_s > _SILENCE_S:
            return _alive_without_record(rank, folder)
        time.sleep(0.1)
    return {}


def _failed_before(rank: int, folder: Path) -> bool:
    records = read_records(folder)
    if any(
        not record.ok and not record.lost_peer for record in records.values() if record.rank != rank
    ):
        return True
    return any(
        not _is_running(pid)
        for other, pid in _pids(folder).items()
        if other != rank and other not in records
    )


def _alive_without_record(rank: int, folder: Path) -> dict[int, int]:
    reported = {rank, *read_records(folder), *_waiting(folder)}
    return {
        other: pid
        for other, pid in _pids(folder).items()
        if other not in reported and _is_running(pid)
    }


def _waiting(folder: Path) -> list[int]:
    return [int(path.stem.rpartition("-")[2]) for path in folder.glob("waiting-*.json")]


def _pids(folder: Path) -> dict[int, int]:
    """Processes of this node that got as far as starting, by rank."""
    paths = folder.glob("pid-*.json")
    return {
        int(path.stem.rpartition("-")[2]): int(json.loads(path.read_text())["pid"])
        for path in paths
    }


def _is_running(pid: int) -> bool:
    stat = Path("/proc", str(pid), "stat")
    try:  # a process that torchrun hasn't noticed yet is a zombie
        return stat.read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def _attempt_folder(environ: Mapping[str, str]) -> Path | None:
    error_file = environ.get(_ERROR_FILE)
    return Path(error_file).parent.parent if error_file else None
