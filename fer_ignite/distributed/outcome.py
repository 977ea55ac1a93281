"""Exit state of a process, as a file that the other processes read."""

import json
import os
import re
import signal
import time
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from fer_ignite.distributed.signals import SIGNAL_CODES
from fer_ignite.errors import NO_SHARED_MEMORY, FerError, Interrupted, build_error, error_kind

__all__ = [
    "FINAL_CODES",
    "EndRecord",
    "Outcome",
    "as_outcome",
    "is_lost_peer",
    "read_end_record",
    "read_records",
    "root_cause",
    "write_json",
    "write_record",
]

# Stopped by a signal, non-finite, wrong from the start: starting the same again would be wrong.
FINAL_CODES = frozenset({2, 3, 5}) | SIGNAL_CODES

# What a healthy process meets when another one is gone or silent: the consequence of a failure, not its cause.
_LOST_PEER = re.compile(
    r"gloo|nccl|connection (closed|reset|refused)|broken pipe|timed out (waiting|after)|wait timeout|pair closure|"
    r"process ?group|tcpstore|rendezvous|barrier",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Outcome:
    """How a run ended.

    Args:
        exit_code: of the whole program, as in the table of exit codes.
        status: completed, early_stopped, time_limit, interrupted or failed.
        message: one sentence for people, where something went wrong.
        result: plain values for the caller (JSON).
        kind: of the exception that ended it, from :func:`fer_ignite.errors.error_kind`; None where none of ours did.
    """

    exit_code: int = 0
    status: str = "completed"
    message: str | None = None
    result: dict[str, Any] | None = None
    kind: str | None = None

    def as_error(self) -> FerError:
        """The error of an outcome that is no success, of the kind that was raised in the process."""
        return build_error(self.exit_code, self.message or self.status, kind=self.kind)

    def as_exception(self) -> FerError | Interrupted:
        """What a Python function raises for an outcome that is no success: :meth:`as_error`, or Interrupted after SIGINT."""
        error = self.as_error()
        return Interrupted(str(error)) if self.exit_code == Interrupted.exit_code else error


@dataclass(frozen=True)
class EndRecord:
    """One process's outcome with what separates causes from consequences.

    Args:
        monotonic_s: the machine's clock, comparable between the processes of one node.
        lost_peer: the error is only about another process that stopped answering.
    """

    rank: int
    outcome: Outcome
    ok: bool
    lost_peer: bool = False
    trace: str | None = None
    monotonic_s: float = field(default_factory=time.monotonic)
    wall_s: float = field(default_factory=time.time)


def as_outcome(value: object) -> Outcome:
    """A worker's return value as an Outcome: None, a mapping, an Outcome, or anything with its attributes."""
    if value is None:
        return Outcome()
    if isinstance(value, Outcome):
        return value
    if isinstance(value, Mapping):
        return Outcome(result=dict(value))
    names = ("exit_code", "status", "message", "result")
    if not hasattr(value, "exit_code"):
        raise TypeError(
            f"the function returned {type(value).__name__}; it must return None, a mapping or an Outcome"
        )
    return Outcome(**{name: getattr(value, name) for name in names if hasattr(value, name)})


def read_end_record(error: BaseException, *, rank: int) -> EndRecord:
    """The record of an exception that left the worker function."""
    if isinstance(error, FerError):
        outcome = Outcome(error.exit_code, "failed", str(error), kind=error_kind(error))
        return EndRecord(rank, outcome, ok=False)
    if isinstance(error, KeyboardInterrupt):
        signum = getattr(error, "signum", 2)
        name = signal.Signals(signum).name
        return EndRecord(
            rank, Outcome(128 + signum, "interrupted", f"Interrupted by {name}."), ok=False
        )
    # Also for sys.exit(0): the run has not come to its end.
    if isinstance(error, SystemExit):
        text = f"the code called sys.exit({error.code!r}) in the middle of the run"
        return EndRecord(rank, Outcome(1, "failed", text), ok=False)
    if isinstance(error, RuntimeError) and "DataLoader worker" in str(error):
        if any(
            words in str(error)
            for words in ("shared memory", "Bus error", "unable to write to file </torch")
        ):
            return EndRecord(rank, Outcome(1, "failed", NO_SHARED_MEMORY), ok=False)
        # Here, where everything ends: torch raises it from a signal handler, anywhere, and again for every other worker.
        text = (
            f"{str(error).strip().splitlines()[0].rstrip('.')}: a loading process died, most often because memory ran out; "
            "try fewer --workers or a smaller --batch-size."
        )
        return EndRecord(rank, Outcome(1, "failed", text), ok=False)
    text = "".join(traceback.format_exception_only(error)).strip()
    trace = "".join(traceback.format_exception(error))
    return EndRecord(
        rank,
        Outcome(1, "failed", text),
        ok=False,
        lost_peer=_is_from_a_collective(error) and is_lost_peer(text),
        trace=trace,
    )


def write_record(folder: Path, record: EndRecord) -> None:
    """Publish a record as ``outcome-<rank>.json``; a reader sees all of it or nothing."""
    write_json(folder / f"outcome-{record.rank}.json", asdict(record))


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write plain values so that a reader sees all of the file or none of it."""
    # Renaming is atomic within a folder; the pid keeps two writers apart.
    # Not synced to the disk: only processes of this machine read it, and none after a power cut.
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    draft.write_text(json.dumps(value, default=str), encoding="utf-8", errors="backslashreplace")
    draft.replace(path)


def read_records(folder: Path) -> dict[int, EndRecord]:
    """All records published in ``folder``, by rank."""
    records: dict[int, EndRecord] = {}
    for path in folder.glob("outcome-*.json"):
        value = json.loads(path.read_text(encoding="utf-8"))
        value["outcome"] = Outcome(**value["outcome"])
        records[value["rank"]] = EndRecord(**value)
    return records


def root_cause(records: Sequence[EndRecord]) -> EndRecord:
    """The first failure; those that report a lost peer come after all others."""
    failures = [record for record in records if not record.ok]
    return min(failures, key=lambda record: (record.lost_peer, record.monotonic_s))


def is_lost_peer(text: str) -> bool:
    """Whether an error's text is one of torch's for a peer that is gone or silent."""
    return bool(_LOST_PEER.search(text))


def _is_from_a_collective(error: BaseException) -> bool:
    # torch raises these for a lost peer; a user's ValueError may mention gloo as well.
    return isinstance(error, RuntimeError | ConnectionError)
