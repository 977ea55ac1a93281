"""Root cause of a failed group: from all exit states to one outcome."""

import signal
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from fer_ignite.distributed.outcome import EndRecord, Outcome, is_lost_peer, root_cause

__all__ = ["Ending", "describe_exit", "overall_outcome"]


@dataclass(frozen=True)
class Ending:
    """How a child ended, as its parent saw it.

    Args:
        exitcode: minus the signal's number where a signal ended it.
        seen_s: monotonic time.
        killed: by us, because it didn't leave in time.
    """

    exitcode: int
    seen_s: float
    killed: bool


def overall_outcome(
    endings: Mapping[int, Ending],
    records: Mapping[int, EndRecord],
    *,
    signals: Sequence[int],
    timeout_s: float,
    start_error: str | None = None,
) -> Outcome:
    """The outcome of the whole group of processes.

    Args:
        endings: by global rank, of the processes on this node.
        records: the processes' own records, by global rank.
        signals: that the launcher received.
        timeout_s: of the collective operations.
        start_error: why a process failed before it could leave a record.
    """
    # A record counts more than a crash after it: the work and the common barrier were done.
    failures = [record for record in records.values() if not record.ok]
    # Without a record and killed here: it hung. Without one and not killed: it died by itself.
    silent = [rank for rank, ending in endings.items() if rank not in records and ending.killed]
    died = {
        rank: ending
        for rank, ending in endings.items()
        if rank not in records and not ending.killed
    }
    failures += [
        _death(rank, ending, start_error=start_error, after_signal=bool(signals))
        for rank, ending in died.items()
    ]
    if len(signals) > 1 and (silent or failures):
        return Outcome(128 + signals[0], "interrupted", "Stopped at once by a second signal.")
    # A lost peer is the consequence of another process's failure, not the cause.
    known = [record for record in failures if not record.lost_peer]
    if known:
        return _root_cause(known, failures)
    if signals and (silent or failures):
        text = (
            f"Rank {silent[0]} didn't stop in time and was killed; the last checkpoint stands."
            if silent
            else None
        )
        return Outcome(128 + signals[0], "interrupted", text)
    # All failures are lost peers: the cause is the process that had to be killed.
    if silent:
        waited = (
            f"the others waited {timeout_s:g} s for it (--dist-timeout)"
            if failures
            else "and was killed"
        )
        return Outcome(1, "failed", f"Rank {silent[0]} failed: it stopped answering, {waited}.")
    if failures:
        return _root_cause(failures, failures)
    return _agreed(records)


def describe_exit(exitcode: int) -> str:
    """End of a sentence about a process that left no record."""
    if exitcode >= 0:
        return f"it left with exit code {exitcode} without an error message"
    try:
        name = signal.Signals(-exitcode).name
    except ValueError:
        name = f"signal {-exitcode}"
    hint = "; if no user did that, memory may have run out" if name == "SIGKILL" else ""
    return f"it was killed by {name}{hint}"


def _death(rank: int, ending: Ending, *, start_error: str | None, after_signal: bool) -> EndRecord:
    # torch's wrapper exits with 1 when it has noted a traceback; any other code has another cause.
    said = start_error if ending.exitcode == 1 else None
    # After a signal that was passed on, a death is its consequence.
    consequence = after_signal or (said is not None and is_lost_peer(said))
    outcome = Outcome(1, "failed", said or describe_exit(ending.exitcode))
    return EndRecord(rank, outcome, ok=False, lost_peer=consequence, monotonic_s=ending.seen_s)


def _root_cause(candidates: Sequence[EndRecord], failures: Sequence[EndRecord]) -> Outcome:
    cause = root_cause(candidates)
    outcome = cause.outcome
    if outcome.status == "interrupted":
        return outcome
    if cause.trace:
        sys.stderr.write(cause.trace)
    # An error that all ranks share, such as a wrong setting, is reported without a rank.
    if outcome.exit_code != 1 and all(record.outcome == outcome for record in failures):
        return outcome
    return replace(outcome, message=f"Rank {cause.rank} failed: {outcome.message}")


def _agreed(records: Mapping[int, EndRecord]) -> Outcome:
    if not records:
        return Outcome(1, "failed", "No process got as far as starting its work.")
    outcomes = [records[rank].outcome for rank in sorted(records)]
    return next((outcome for outcome in outcomes if outcome.exit_code), outcomes[0])
