"""Base class of the trackers: open or continue a record, log points and files, close."""

import contextlib
import logging
import random
import signal
import socket
import threading
import urllib.error
import urllib.request
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from fer_ignite.apps.trackers.run_ids import RunIds, without_password
from fer_ignite.apps.trackers.upload_queue import Point, UploadQueue
from fer_ignite.errors import ConfigError, first_line

__all__ = ["RunResults", "Tracker", "no_answer", "preserve_global_state"]

logger = logging.getLogger("fer_ignite")

_ANSWER_S = 10.0


@dataclass(frozen=True)
class RunResults:
    """What a tracker gets at the end of a run: the final scores, files, pictures and the best checkpoint, None without one."""

    scores: Point
    files: Sequence[Path]
    pictures: Sequence[Path]
    checkpoint: Path | None


class Tracker(ABC):
    """One run's record in one tracker; the main process has it, and no other.

    Subclasses are also the Ignite logger of their tracker: its handlers call what ends in :meth:`note`.

    Args:
        run: the run's name.
        project: what the tracker files it under; None for the tracker's own setting, or ``fer_ignite``.
        register: where the record's id is kept.
        folder: where a tracker that works offline may put its files.
    """

    name: ClassVar[str]
    title: ClassVar[str]

    def prepare(self, *, run: str, project: str | None, register: RunIds, folder: Path) -> None:
        """Takes the arguments; instead of a constructor, which belongs to Ignite's logger and opens the record."""
        # All of them: before the constructor of Ignite's WandBLogger, whose __getattr__ reads self._wandb, a missing
        # attribute is a RecursionError.
        self.run_name, self.project, self.register, self.folder = run, project, register, folder
        self.known: dict[str, int] = {}
        self.reached: dict[str, int] = {}
        self.uploads = UploadQueue(
            self.title,
            self.deliver,
            unreachable_reason=self.unreachable_reason,
            settled=self._keep_reached,
            refused=self.refused,
        )
        self.opened = self.ended = False

    # -- what a tracker does in its own way

    @classmethod
    @abstractmethod
    def check(cls, entry: Mapping[str, Any]) -> None:
        """Fails early: package, keys, a server that answers.

        Args:
            entry: what trackers.json has of an earlier start of the run.
        Raises:
            ConfigError: one sentence with the remedy.
        """

    @abstractmethod
    def open_record(self, settings: Mapping[str, Any]) -> str:
        """Opens the record, or the run's earlier one, and notes the settings; returns where it can be looked at."""

    @abstractmethod
    def deliver(self, points: Sequence[Point]) -> None:
        """Sends points; in the upload queue's thread."""

    @abstractmethod
    def deliver_results(self, results: RunResults) -> None:
        """Sends the final scores and files; in the upload queue's thread."""

    @abstractmethod
    def close_record(self, status: str) -> None:
        """Ends the record: "finished", "stopped" (it may continue) or "failed"."""

    def unreachable_reason(self) -> str | None:
        """Why nothing arrives, as the beginning of a sentence, or None where the server answers."""
        return None

    def refused(self, error: Exception) -> bool:
        """Whether an error is the server's final answer; otherwise the same is sent again."""
        return True

    # -- what is the same for all

    def open(self, settings: Mapping[str, Any]) -> str:
        """Opens the record in the main thread; a user's handlers can call the tracker's package as they know it.

        Raises:
            ConfigError: it can't be opened; the run has not begun.
        """
        try:
            with preserve_global_state():
                place = self.open_record(settings)
        except ConfigError:
            raise
        except Exception as error:  # whatever a tracker's package raises
            said = first_line(error)
            raise ConfigError(
                f"--track {self.name}: {self.title} can't open a record: {said}"
            ) from None
        self.opened = True
        return place

    def note(self, values: Mapping[str, float], step: int) -> None:
        """Takes an iteration's values on their way; those that the record had before a resume are not sent twice."""
        fresh = {
            name: float(value) for name, value in values.items() if step > self.known.get(name, -1)
        }
        if fresh and self.opened:
            self.uploads.put(Point(fresh, step))

    def mark(self, points: Sequence[Point]) -> None:
        """Remembers what was sent, for a resume."""
        for point in points:
            for name in point.values:
                self.reached[name] = max(point.step, self.reached.get(name, -1))

    def _keep_reached(self) -> None:
        if self.reached and self.reached != self.register.entry(self.name).get("reached"):
            with contextlib.suppress(Exception):  # a full disk ends the run in its own way
                self.register.note(self.name, reached=dict(self.reached))

    def continue_offline(
        self, entry: Mapping[str, Any], read: Callable[[Path], Mapping[str, int]]
    ) -> None:
        """Continues after the last step in the files of earlier starts; where they can't be read, after what was sent."""
        reached: dict[str, int] = {}
        try:
            for place in entry.get("places", []):
                for name, step in read(Path(place)).items():
                    reached[name] = max(step, reached.get(name, -1))
        except Exception:  # moved away, or another version's files
            reached = dict(entry.get("reached", {}))
        self.continue_from(reached)

    def continue_from(self, reached: Mapping[str, int]) -> None:
        """The record has these names up to these iterations."""
        self.known, self.reached = dict(reached), dict(reached)

    def settle(self, *, within_s: float) -> None:
        """Waits, not for long, until what was noted has been sent."""
        self.uploads.drain(within_s=within_s)

    def end(self, status: str, *, within_s: float) -> None:
        """Sends what waits, within a time, and ends the record; called twice, it does nothing."""
        if self.ended:
            return
        self.ended = True
        self.uploads.close(within_s=within_s)
        with preserve_global_state():
            try:
                self.close_record(status)
            except Exception as error:  # the run itself is over and well
                logger.warning("%s could not end the record: %s", self.title, str(error)[:200])


def no_answer(url: str) -> str | None:
    """Why nothing answers at a web address, or None where anything does, an error page included."""
    url = without_password(url)  # which urllib would take for a host's name
    request = urllib.request.Request(url, headers={"User-Agent": "fer-ignite"})
    try:
        with urllib.request.urlopen(request, timeout=_ANSWER_S):
            return None
    except urllib.error.HTTPError:
        return None
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        kind = (
            "no answer within 10 s"
            if isinstance(reason, (TimeoutError, socket.timeout))
            else str(reason)
        )
        return f"{url}: {kind}"


@contextlib.contextmanager
def preserve_global_state() -> Iterator[None]:
    """Random states and signal handlers are as before afterwards: trackers' packages draw names, and take signals over."""
    import torch

    python, array, tensor = random.getstate(), np.random.get_state(), torch.get_rng_state()
    # signal.signal raises in any other thread.
    main = threading.current_thread() is threading.main_thread()
    handlers = (
        {number: signal.getsignal(number) for number in signal.valid_signals()} if main else {}
    )
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(array)
        torch.set_rng_state(tensor)
        for number, handler in handlers.items():
            # None: installed by C code, which Python can't install again.
            if handler is not None and signal.getsignal(number) is not handler:
                signal.signal(number, handler)
