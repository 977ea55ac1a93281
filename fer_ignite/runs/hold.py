"""What a prepared run holds until its end: its folder's lock and, where `--out` is a URL, its folder in the store."""

import shlex
import time
from collections.abc import Callable
from typing import TypeVar

from fer_ignite.checkpoint.remote_run import RemoteRun
from fer_ignite.checkpoint.run_lock import RunLock
from fer_ignite.distributed import restart_count
from fer_ignite.errors import ConfigError, FerError, StorageError
from fer_ignite.stores.store import StoreProblem, last_part, parent_url, refused_as
from fer_ignite.terminal import status

__all__ = ["RunHold", "ask_store"]

T = TypeVar("T")


_STORE_RETRY_S = 2.0


class RunHold:
    """Lock and store of one run.

    Attributes:
        remote: None for a run in a local folder.
        replaces: the store held an earlier run under this name, which ``--exist-ok`` lets go.
        problem: after :meth:`deliver`, one sentence where the store has not got everything.
    """

    def __init__(self, lock: RunLock) -> None:
        self.lock = lock
        self.remote: RemoteRun | None = None
        self.replaces = False
        self.problem: str | None = None

    def start(self) -> None:
        """Begins to upload what the run writes."""
        if self.remote is not None:
            self.remote.start()

    def deliver(self, wait_s: float) -> None:
        """Uploads what is missing, and gives the store's folder free.

        Args:
            wait_s: how long a store may be away.
        """
        # Taken out: run_guard calls discard() and then deliver(), and one of them ends the upload.
        remote, self.remote = self.remote, None
        if remote is None:
            return
        with status(f"uploading to {remote.url}"):
            reason = remote.close(wait_s)
        if reason is not None:
            again = shlex.join(["--out", parent_url(remote.url), "--name", last_part(remote.url)])
            self.problem = (
                f"{remote.url} has not got all of this run ({reason}). Nothing is lost: the files are in {remote.folder.path}; "
                f"upload them with: fer-ignite train {again} --resume auto"
            )

    def discard(self) -> None:
        """Removes what a refused run has uploaded, unless files of an earlier run may be among it."""
        remote, self.remote = self.remote, None
        if remote is not None:
            remote.discard(removes=not self.replaces)

    def release(self) -> None:
        """Gives everything free; nothing is uploaded any more."""
        self.deliver(0)
        self.lock.release()


def ask_store(
    setting: str, action: Callable[[], T], *, wait_s: float, refused: type[FerError] = ConfigError
) -> T:
    """The action's result. A restart of a failed attempt waits for a store that is away: a start by hand is refused at once.

    Raises:
        StorageError: at a restart, the store stays away for ``wait_s`` seconds.
        FerError: at a start by hand, of the kind ``refused``.
    """
    restarted = restart_count() > 0
    until = time.monotonic() + (wait_s if restarted else 0)
    with refused_as(StorageError if restarted else refused, setting):
        while True:
            try:
                return action()
            except StoreProblem:
                if time.monotonic() >= until:
                    raise
            time.sleep(_STORE_RETRY_S)
