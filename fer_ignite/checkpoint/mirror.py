"""Upload of a run's folder to an object store by a thread, so that training never waits for the store.

The order keeps the store's folder resumable at any moment: history and scalars, then best checkpoints, then resume points;
what the run has removed goes after that, and summary.json, which says that the run is over, comes last. Another run's files
are removed before the first upload, which waits for this run's first checkpoint: a start that is refused leaves them, and
its resume points never lie beside this run's identity.
"""

import contextlib
import logging
import os
import shutil
import stat
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from fer_ignite.checkpoint.lease import LEASE_NAME, Lease, LeaseLost
from fer_ignite.checkpoint.paths import LAST_NAME, step_of
from fer_ignite.checkpoint.run_dir import (
    RUN_ID_NAME,
    TEST_ACCESS_NAME,
    WORKING_COPY_NAME,
    RunDir,
    is_run_file,
)
from fer_ignite.checkpoint.run_lock import LOCK_NAME
from fer_ignite.errors import StorageError, one_line
from fer_ignite.stores.store import Entry, Store, StoreProblem

__all__ = ["Mirror", "Sent", "Stamp", "local_files", "stamp_of"]

_LINKS = ".uploading"
_LOCAL_ONLY = frozenset({LOCK_NAME, LEASE_NAME, WORKING_COPY_NAME})
_LATE = "summary.json"
_LAST = f"checkpoints/{LAST_NAME}"
_POLL_S = 0.5
_APPENDED_S = 20.0  # between uploads of files that grow, while no checkpoint comes
_LONGEST_PAUSE_S = 15.0

logger = logging.getLogger("fer_ignite")


class _Ended(Exception):
    """The upload was given up."""


class Stamp(NamedTuple):
    """What tells one content of a local file from another."""

    # A rename over the file changes it, also at equal size and time.
    inode: int
    size: int
    mtime_ns: int


class Sent(NamedTuple):
    """What was uploaded, and how the store lists it."""

    stamp: Stamp
    entry: Entry


def stamp_of(file: Path) -> Stamp | None:
    """None where there is no regular file."""
    try:
        facts = file.lstat()
    except OSError:
        return None
    if not stat.S_ISREG(facts.st_mode):
        return None
    return Stamp(facts.st_ino, facts.st_size, facts.st_mtime_ns)


def local_files(folder: Path) -> dict[str, Stamp]:
    """The files of a run's folder that belong in a store, by their names relative to it."""
    found = {}
    for above, folders, files in os.walk(folder):
        # Hidden folders hold links and downloads in progress, and .fer- files are half-written.
        folders[:] = [name for name in folders if not name.startswith(".")]
        for file in (Path(above, name) for name in files if not name.startswith(".fer-")):
            name = file.relative_to(folder).as_posix()
            if name not in _LOCAL_ONLY and (stamp := stamp_of(file)) is not None:
                found[name] = stamp
    return found


class Mirror:
    """Keeps the objects below a store's URL equal to the files of a run's folder.

    Args:
        lease: checked before each write and removal.
        sent: what the store is known to hold already.
    """

    def __init__(
        self, folder: Path, store: Store, *, lease: Lease, sent: Mapping[str, Sent] | None = None
    ) -> None:
        self._folder, self._store, self._lease = folder, store, lease
        self._sent: dict[str, Sent] = dict(sent or {})
        self._waits = False  # for a checkpoint, before another run's files are replaced
        self._whole = False  # whether the last pass found the store equal to the folder
        # The first upload of files that grow does not wait.
        self._passed = -_APPENDED_S
        self._failing_since: float | None = None
        self._reason = ""
        self._taken: str | None = None
        self._closing, self._given_up = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="fer-ignite-mirror", daemon=True)

    def start(self) -> None:
        """Begins to upload."""
        self._thread.start()

    def close(self, wait_s: float) -> str | None:
        """Uploads what is missing, and ends.

        Args:
            wait_s: how long a store may be away before this gives up; an upload that makes progress is waited for.
        Returns:
            Why something is missing in the store; None where it has all.
        """
        begun = time.monotonic()
        self._whole = False  # the store may have lost something since the last pass
        self._closing.set()
        try:
            while self._thread.is_alive():
                self._thread.join(0.1)
                since = self._failing_since
                if since is not None and time.monotonic() - max(begun, since) > wait_s:
                    break
        except KeyboardInterrupt:
            self._reason = self._reason or "interrupted"
        self._given_up.set()
        # The thread may still be blocked in a request, and can't be relied on to remove them.
        shutil.rmtree(self._folder / _LINKS, ignore_errors=True)
        if self._taken is not None:
            return f"the run was taken over by {self._taken}"
        return None if self._whole and not self._due() else self._reason or "the upload has ended"

    def stop(self) -> None:
        """Ends without a further upload."""
        self._given_up.set()
        self._closing.set()
        self._thread.join(timeout=60)

    def _run(self) -> None:
        try:
            self._work()
        except Exception as error:
            # An exception ends the thread alone, and the run would end as if all were uploaded.
            self._reason = f"the upload ended with {type(error).__name__}: {one_line(error)}"
            logger.exception("%s; the files are in %s.", self._reason, self._folder)

    def _work(self) -> None:
        pause = 1.0
        while not self._given_up.is_set():
            closing = self._closing.is_set()
            if not self._is_time(closing):
                if closing and self._whole:
                    return
                self._closing.wait(_POLL_S)
                continue
            try:
                self._pass()
            except LeaseLost as lost:
                self._taken = str(lost)
                logger.error(
                    "%s was taken over by %s; nothing is uploaded any more, the files are in %s.",
                    self._store.url,
                    lost,
                    self._folder,
                )
                return
            except _Ended:
                return
            except (StoreProblem, StorageError, OSError) as problem:
                self._note_failure(str(problem).rstrip("."))
                # The pause ends early when the run ends; in the last upload, when that is given up.
                (self._given_up if closing else self._closing).wait(
                    min(pause, 2.0) if closing else pause
                )
                pause = min(2 * pause, _LONGEST_PAUSE_S)
            else:
                pause = 1.0
                self._note_success()

    def _note_failure(self, reason: str) -> None:
        self._reason = reason
        if self._failing_since is None:
            self._failing_since = time.monotonic()
            logger.warning(
                "%s; the training continues, and what is missing is uploaded when the store answers again.",
                reason,
            )

    def _note_success(self) -> None:
        if self._failing_since is not None:
            logger.warning(
                "%s answers again after %.0f s; what was missing is uploaded.",
                self._store.url,
                time.monotonic() - self._failing_since,
            )
        self._failing_since = None

    def _due(self) -> list[str]:
        files = local_files(self._folder)
        changed = [
            name
            for name, stamp in files.items()
            if name not in self._sent or self._sent[name].stamp != stamp
        ]
        return changed + [name for name in self._sent if name not in files]

    def _is_time(self, closing: bool) -> bool:
        due = self._due()
        if self._waits and not closing and not any(name.endswith(".pt") for name in due):
            return False
        if self._failing_since is not None or closing:
            return bool(due) or not self._whole
        # Stores can't append: a log is uploaded whole each time, so it is not sent at each change.
        if any(name.endswith((".pt", ".yaml")) or name == _LATE for name in due):
            return True
        return bool(due) and time.monotonic() - self._passed > _APPENDED_S

    def _pass(self) -> None:
        """Makes the store equal to the folder as it is now."""
        self._whole = False
        self._lease.ensure()
        there = self._store.entries()
        # What the store lists differently was changed or lost there, and is uploaded again.
        self._sent = {
            name: sent for name, sent in self._sent.items() if there.get(name) == sent.entry
        }
        if self._holds_another_run(there):
            self._waits = not self._closing.is_set() and not self._has_checkpoint()
            if self._waits:
                return
            there = self._without_run(there)
        self._merge_test_accesses(there)
        with self._snapshot() as files:
            self._sent = {name: sent for name, sent in self._sent.items() if name in files}
            # First, so that nobody takes a run that continues for one that has ended.
            if _LATE in there and _LATE not in files:
                self._remove(_LATE)
            new = sorted(
                (
                    name
                    for name, (stamp, _) in files.items()
                    if name not in self._sent or self._sent[name].stamp != stamp
                ),
                key=_order,
            )
            for name in (name for name in new if name != _LATE):
                self._upload(name, files)
            # Only now: the older resume point stays in the store until the newer one is whole.
            for name in there:
                if is_run_file(name) and name not in files and name != _LATE:
                    self._remove(name)
            if _LATE in new:
                self._upload(_LATE, files)
            self._confirm(new, files)
        self._passed = time.monotonic()

    def _holds_another_run(self, there: Mapping[str, Entry]) -> bool:
        mine = self._folder / RUN_ID_NAME
        if RUN_ID_NAME not in there or RUN_ID_NAME in self._sent or not mine.exists():
            return False
        return self._store.read(RUN_ID_NAME) not in (None, mine.read_bytes())

    def _has_checkpoint(self) -> bool:
        return any((self._folder / "checkpoints").glob("*.pt"))

    def _without_run(self, there: Mapping[str, Entry]) -> dict[str, Entry]:
        """What the store holds after all files of the run in it were removed, its identity last."""
        stale = sorted(filter(is_run_file, there), key=_order, reverse=True)
        # The identity goes last: after a pass that was cut short, the next still finds another run.
        for name in sorted(stale, key=lambda name: name == RUN_ID_NAME):
            self._remove(name)
        self._sent = {}
        return {name: entry for name, entry in there.items() if not is_run_file(name)}

    def _merge_test_accesses(self, there: Mapping[str, Entry]) -> None:
        """Takes up the test evaluations that evaluations elsewhere have noted in the store since the last upload."""
        if TEST_ACCESS_NAME in there and TEST_ACCESS_NAME not in self._sent:
            content = self._store.read(TEST_ACCESS_NAME)
            RunDir(self._folder).merge_test_accesses(content or b"")

    def _require_lease(self) -> None:
        """Called before each change of the store: a pass may take long, and the machine may sleep in it."""
        if self._given_up.is_set():
            raise _Ended
        self._lease.ensure()

    def _remove(self, name: str) -> None:
        self._require_lease()
        self._store.remove(name)

    def _upload(self, name: str, files: Mapping[str, tuple[Stamp, Path]]) -> None:
        stamp, file = files[name]
        self._require_lease()
        if name == _LAST:
            for other, (twin, _) in files.items():
                if other != name and twin == stamp:  # two names of one file
                    self._store.copy(other, name)
                    return
        try:
            self._store.upload(file, name)
        except (StoreProblem, OSError):
            if stamp_of(file) is not None:  # else the run has removed it meanwhile
                raise

    def _confirm(self, new: list[str], files: Mapping[str, tuple[Stamp, Path]]) -> None:
        """Notes what the store lists with the right size; a file that changed meanwhile is due again."""
        there = self._store.entries() if new else {}
        for name in new:
            stamp, file = files[name]
            entry = there.get(name)
            if stamp_of(file) != stamp:
                continue
            if entry is None or entry.size not in (None, stamp.size):
                raise StoreProblem(
                    f"{self._store.url}/{name} has {entry.size if entry else 'no'} bytes in the store, {stamp.size} here"
                )
            self._sent[name] = Sent(stamp, entry)
        self._whole = True

    @contextlib.contextmanager
    def _snapshot(self) -> Iterator[dict[str, tuple[Stamp, Path]]]:
        """Stamps and readable paths of all files; checkpoints stay readable when the run removes or replaces them.

        Resume points are linked before best.pt: one that speaks of a best network is never uploaded with an older one.
        """
        links = self._folder / _LINKS
        shutil.rmtree(links, ignore_errors=True)
        links.mkdir()
        try:
            found: dict[str, tuple[Stamp, Path]] = {}
            names = sorted(local_files(self._folder), key=lambda name: -_order(name)[0])
            for number, name in enumerate(names):
                file = self._folder / name
                if name.endswith(".pt"):
                    with contextlib.suppress(OSError):  # a file system without hard links, or gone
                        os.link(file, links / str(number))
                        file = links / str(number)
                if (stamp := stamp_of(file)) is not None:
                    found[name] = (stamp, file)
            yield found
        finally:
            shutil.rmtree(links, ignore_errors=True)


def _order(name: str) -> tuple[int, int, str]:
    """Rank of a file in a pass; of resume points the newest comes first."""
    step = step_of(name, folder="checkpoints/")
    # The test evaluations were merged with the store's just before: their upload follows at once.
    if name in (RUN_ID_NAME, TEST_ACCESS_NAME, "config.yaml", "config.schema.json"):
        return 0, 0, name
    if step is not None:
        return 3, -step, name
    if name == _LAST:
        return 4, 0, name
    if name.endswith(".pt"):
        return 2, 0, name
    return (5 if name == _LATE else 1), 0, name
