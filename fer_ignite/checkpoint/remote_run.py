"""A run's folder in an object store: its working copy on this machine, the lease, the download and the upload."""

import contextlib
import json
import os
import secrets
import shutil
from pathlib import Path

from fer_ignite.checkpoint.archive import read_regular_file, verify_sha256
from fer_ignite.checkpoint.atomic_io import (
    read_json_object,
    storage_errors,
    sync_folder,
    write_json_durably,
)
from fer_ignite.checkpoint.lease import Lease
from fer_ignite.checkpoint.mirror import Mirror, Sent, stamp_of
from fer_ignite.checkpoint.paths import step_files, step_of
from fer_ignite.checkpoint.run_dir import RUN_ID_NAME, RunDir, is_run_file
from fer_ignite.errors import CheckpointError
from fer_ignite.stores.download import replace_files, url_label
from fer_ignite.stores.store import Entry, Store, StoreProblem, join_url

__all__ = ["RemoteRun", "runs_in_store", "working_copies"]

_ARRIVING = ".downloading"


def working_copies(out: str) -> Path:
    """The local folder in which runs with this ``--out`` URL have their working copies."""
    from fer_ignite.data.cache.lookup import cache_folder

    return cache_folder() / "runs" / url_label(out.rstrip("/"))


def runs_in_store(out: str) -> set[str]:
    """Names of the runs below a URL.

    Raises:
        StoreProblem: the store can't be read.
    """
    return set(Store(out).folders())


class RemoteRun:
    """The folder of one run at a URL; the lock of its working copy is held.

    Attributes:
        notes: sentences about what was downloaded or taken.
    """

    def __init__(self, url: str, folder: RunDir) -> None:
        self.url, self.folder = url, folder
        self.store = Store(url, retried=True)
        self.notes = [f"store       {url}"]
        # Kept in the working copy: the next start here takes a killed run's lease at once.
        self._token = str(
            read_json_object(folder.working_copy).get("token") or secrets.token_hex(8)
        )
        self.lease = Lease(self.store, self._token)
        self._sent: dict[str, Sent] = {}
        self._mirror: Mirror | None = None

    def open(self) -> None:
        """Takes the lease.

        Raises:
            StoreProblem: the store can't be read or written.
            FolderInUseError: another run writes there.
        """
        # Before the lease is taken: after a kill in between, the next start knows it as its own.
        write_json_durably(self.folder.working_copy, {"url": self.url, "token": self._token})
        self.lease.acquire()

    def holds_a_run(self) -> bool:
        """Whether there is a run in the store."""
        return any(is_run_file(name) for name in self.store.entries())

    def fetch(self) -> None:
        """Brings the working copy to the state of the store where that is further on.

        The newer one by iteration is taken; of two runs with different identities that of the store, and the working copy's
        files are set aside.

        Raises:
            StoreProblem: the store can't be read.
            StorageError: the working copy can't be written.
        """
        there = {name: entry for name, entry in self.store.entries().items() if is_run_file(name)}
        if not there:
            if self.folder.holds_a_run:
                self.notes.append(f"{self.url} is empty; the working copy is uploaded.")
            return
        here = self.folder.holds_a_run
        same = not here or _run_id(self.folder.path) == self._id_there(there)
        # The store's side by names first: nothing is downloaded where it is not further on.
        ours, theirs = _progress(self.folder.path), _listed_progress(there)
        if here and same and ours >= theirs:
            if ours > theirs:
                self.notes.append(_choice("this machine", ours, "the store", theirs))
            return
        arrived = self._download(there)
        theirs = _progress(arrived)
        if here and same and ours > theirs:  # what the store holds is damaged
            shutil.rmtree(arrived)
            self.notes.append(_choice("this machine", ours, "the store", theirs))
            return
        if here and not same:
            self._set_aside()
        elif here:
            self.notes.append(_choice("the store", theirs, "this machine", ours))
        self._move_in(arrived, there)
        total = sum(entry.size or 0 for entry in there.values())
        self.notes.append(f"downloaded  {len(there)} files ({total / 1e6:.1f} MB) from {self.url}")

    def fetch_file(self, name: str) -> Path:
        """The working copy of one file, downloaded where it is not here.

        Raises:
            StoreProblem: there is no such object.
            StorageError: the working copy can't be written.
        """
        folder = self.folder.path
        if not (folder / name).exists():
            entry = self.store.entry(name)
            if entry is None:
                raise StoreProblem(
                    f"{join_url(self.url, name)}: there is no such object; name one that exists.",
                    kind="missing",
                )
            with storage_errors(folder):
                replace_files(self.store, {name: entry}, folder=folder, arriving=folder / _ARRIVING)
        return folder / name

    def start(self) -> None:
        """Begins to upload what the run writes."""
        if not self.folder.run_id.exists():
            write_json_durably(self.folder.run_id, {"run": secrets.token_hex(8)})
        self._mirror = Mirror(self.folder.path, self.store, lease=self.lease, sent=self._sent)
        self._mirror.start()

    def close(self, wait_s: float) -> str | None:
        """Uploads what is missing, gives the lease back.

        Returns:
            Why something is missing in the store; None where it has all.
        """
        mirror, self._mirror = self._mirror, None
        reason = None if mirror is None else mirror.close(wait_s)
        if reason is None:
            self.lease.release()
        else:
            self.lease.abandon()
        return reason

    def discard(self, *, removes: bool) -> None:
        """Ends without a further upload, and gives the lease back.

        Args:
            removes: also the run's files in the store, as far as it answers.
        """
        mirror, self._mirror = self._mirror, None
        if mirror is not None:
            mirror.stop()
        with contextlib.suppress(StoreProblem):
            for name in self.store.entries() if removes else ():
                if is_run_file(name):
                    self.store.remove(name)
        self.lease.release()

    def _id_there(self, there: dict[str, Entry]) -> str | None:
        content = self.store.read(RUN_ID_NAME) if RUN_ID_NAME in there else None
        return None if content is None else _id_of(content)

    def _download(self, there: dict[str, Entry]) -> Path:
        arriving = self.folder.path / _ARRIVING
        with storage_errors(arriving):
            shutil.rmtree(arriving, ignore_errors=True)
            arriving.mkdir()
            self.store.download(sorted(there), arriving)
        return arriving

    def _move_in(self, arrived: Path, there: dict[str, Entry]) -> None:
        """Replaces the run's files; the identity comes last, so that half of a move is noticed at the next start."""
        folder = self.folder.path
        with storage_errors(folder):
            self.folder.run_id.unlink(missing_ok=True)
            self.folder.clear()
            for name in sorted(there, key=lambda name: name == RUN_ID_NAME):
                target = folder / name
                target.parent.mkdir(parents=True, exist_ok=True)
                os.replace(arrived / name, target)
                # The store has these bytes: the mirror does not upload them again.
                if (stamp := stamp_of(target)) is not None and stamp.size == there[name].size:
                    self._sent[name] = Sent(stamp, there[name])
            sync_folder(self.folder.checkpoints)
            sync_folder(folder)
            shutil.rmtree(arrived)

    def _set_aside(self) -> None:
        """Moves the files of a run that the store does not know into a folder beside the working copy."""
        folder = self.folder.path
        number = 1
        while (aside := folder.with_name(f"{folder.name}.replaced-{number}")).exists():
            number += 1
        with storage_errors(aside):
            for file in [path for path in folder.rglob("*") if path.is_file()]:
                name = file.relative_to(folder).as_posix()
                if is_run_file(name):
                    (aside / name).parent.mkdir(parents=True, exist_ok=True)
                    file.rename(aside / name)
        self.notes.append(
            f"{self.url} holds another run than this machine's working copy, whose files were moved to {aside}."
        )


def _choice(taken: str, at: tuple[int, bool], other: str, behind: tuple[int, bool]) -> str:
    return f"continues from {taken} ({_state(at)}); {other} has {_state(behind)}"


def _state(progress: tuple[int, bool]) -> str:
    iteration, ended = progress
    if iteration < 0:
        return "no resume point"
    return f"iteration {iteration}{', completed' if ended else ''}"


def _progress(folder: Path) -> tuple[int, bool]:
    """Iteration of the newest sound resume point of a local folder, -1 for none; and whether the run has ended."""
    for iteration, file in step_files(folder / "checkpoints"):
        # By content: a damaged newest file must not win over the store's by its number.
        with contextlib.suppress(CheckpointError):
            verify_sha256(read_regular_file(file), file)
            return iteration, (folder / "summary.json").exists()
    return -1, False


def _listed_progress(names: dict[str, Entry]) -> tuple[int, bool]:
    found = [step_of(name, folder="checkpoints/") for name in names]
    steps = [step for step in found if step is not None]
    return max(steps, default=-1), bool(steps) and "summary.json" in names


def _run_id(folder: Path) -> str | None:
    try:
        return _id_of((folder / RUN_ID_NAME).read_bytes())
    except OSError:
        return None


def _id_of(content: bytes) -> str | None:
    with contextlib.suppress(ValueError, AttributeError):
        return str(json.loads(content).get("run"))
    return None
