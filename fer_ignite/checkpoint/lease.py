"""Lease on a run's folder in an object store: `run.lease`, renewed while a run writes there.

A store has no locks that end with a process. The object names its holder and changes with each renewal; one that stands
still for LEASE_S is of a holder that is gone. Only intervals of the watcher's own clock are compared.
"""

import contextlib
import json
import logging
import math
import os
import socket
import threading
import time
from datetime import datetime, timezone
from typing import Any

from fer_ignite.checkpoint.atomic_io import shown
from fer_ignite.errors import ConfigError, FolderInUseError
from fer_ignite.stores.store import Store, StoreProblem

__all__ = ["LEASE_NAME", "Lease", "LeaseLost"]

LEASE_NAME = "run.lease"
LEASE_S = 30.0
LEASE_VARIABLE = "FER_IGNITE_LEASE_S"
_RENEWALS = 3  # within LEASE_S

logger = logging.getLogger("fer_ignite")


class LeaseLost(Exception):
    """Another run has taken the lease; the message names it."""


class Lease:
    """The right to write below a store's URL.

    Args:
        token: of the working copy whose lock is held: a lease with the same token was left by a process that is gone.
        lease_s: how long a lease may stand still; None for $FER_IGNITE_LEASE_S, else LEASE_S.
    Raises:
        ConfigError: the variable holds no time.
    """

    def __init__(self, store: Store, token: str, *, lease_s: float | None = None) -> None:
        self._store, self._token = store, token
        self._lease_s = _lease_s() if lease_s is None else lease_s
        self._renewed, self._count = _now(), 0
        self._since = datetime.now(timezone.utc).isoformat(timespec="seconds")
        self._lost: str | None = None
        self._ended = threading.Event()
        self._guard = threading.Lock()
        self._thread: threading.Thread | None = None

    def acquire(self) -> None:
        """Takes the lease, and renews it in a thread; waits up to the lease's length for one that may be abandoned.

        Raises:
            FolderInUseError: another run renews it.
            StoreProblem: the store does not answer.
        """
        seen: bytes | None = None
        begun = time.monotonic()
        while True:
            found = self._store.read(LEASE_NAME)
            if found is None or _token(found) == self._token:
                # False where another start was faster; the next round reads who it is.
                if self._take(create=found is None):
                    break
                continue
            if seen is not None and found != seen:
                raise FolderInUseError(
                    f"{self._store.url} is in use by {_holder(found)}; wait for it, stop it, or choose another --name or --out."
                )
            if seen is None:
                seen, begun = found, time.monotonic()
                logger.warning(
                    "%s was left by %s, or is in use; waiting %.0f s for a sign of life.",
                    self._store.url,
                    _holder(found),
                    self._lease_s,
                )
            if time.monotonic() - begun > self._lease_s and self._take(create=False):
                break
            time.sleep(min(1.0, self._lease_s / 10))
        self._thread = threading.Thread(target=self._keep, name="fer-ignite-lease", daemon=True)
        self._thread.start()

    def ensure(self) -> None:
        """Renews a lease that was not renewed lately; called before anything is written.

        Raises:
            LeaseLost: another run has it.
            StoreProblem: the store does not answer.
        """
        # Half of the lease remains for the write that follows, before another run may take over.
        if self._lost is None and _now() - self._renewed > self._lease_s / 2:
            self._renew()
        if self._lost is not None:
            raise LeaseLost(self._lost)

    def abandon(self) -> None:
        """Ends the renewals; the object stays, for a store that is away, until it has stood still for long enough."""
        self._ended.set()

    def release(self) -> None:
        """Ends the renewals and removes the object where it is still ours."""
        self.abandon()
        if self._thread is None:
            return  # never acquired
        # Under the guard: a renewal in flight would write the object again after its removal.
        with contextlib.suppress(StoreProblem), self._guard:
            found = self._store.read(LEASE_NAME)
            if found is not None and _token(found) == self._token:
                self._store.remove(LEASE_NAME)

    def _take(self, *, create: bool) -> bool:
        """Writes the object; whether it is ours afterwards. Of two that take it at once, the later write stays.

        Not every store creates an object in one step: also after a creation the object is read once more.
        """
        try:
            self._store.write(LEASE_NAME, self._content(), create=create)
        except FileExistsError:
            return False
        # So that the read below sees the write of a start at the same moment.
        time.sleep(min(0.5, self._lease_s / 10))
        found = self._store.read(LEASE_NAME)
        self._renewed = _now()
        return found is not None and _token(found) == self._token

    def _renew(self) -> None:
        with self._guard:
            # Released while this call waited for the guard.
            if self._ended.is_set():
                return
            found = self._store.read(LEASE_NAME)
            if found is not None and _token(found) != self._token:
                self._lost = _holder(found)
                return
            self._count += 1
            with contextlib.suppress(FileExistsError):  # of another run: the next renewal sees it
                # A store that came back empty has no lease.
                self._store.write(LEASE_NAME, self._content(), create=found is None)
                self._renewed = _now()

    def _keep(self) -> None:
        while not self._ended.wait(self._lease_s / _RENEWALS) and self._lost is None:
            # away: the mirror reports it
            with contextlib.suppress(StoreProblem):
                self._renew()

    def _content(self) -> bytes:
        values = {
            "token": self._token,
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "since": self._since,
            "renewals": self._count,
        }
        return json.dumps(values).encode("ascii")


def _now() -> float:
    """Seconds of a clock that counts a machine's sleep too, where the system has one."""
    # time.monotonic stands still while a Linux machine sleeps: after waking, a holder would take
    # its lease for fresh, though another run may have it.
    clock = getattr(time, "CLOCK_BOOTTIME", None)
    return time.monotonic() if clock is None else time.clock_gettime(clock)


def _lease_s() -> float:
    text = os.environ.get(LEASE_VARIABLE, "")
    try:
        seconds = float(text or LEASE_S)
    except ValueError:
        seconds = math.nan
    if not 0.5 <= seconds < math.inf:
        raise ConfigError(f"{LEASE_VARIABLE}={text!r} is no number of seconds of 0.5 or more.")
    return seconds


def _read(content: bytes) -> dict[str, Any]:
    try:
        values = json.loads(content)
    except ValueError:
        return {}
    return values if isinstance(values, dict) else {}


def _token(content: bytes) -> str:
    return str(_read(content).get("token"))


def _holder(content: bytes) -> str:
    values = _read(content)
    pid, host, since = (shown(str(values.get(name, "?"))) for name in ("pid", "host", "since"))
    return f"process {pid} on {host} since {since}"
