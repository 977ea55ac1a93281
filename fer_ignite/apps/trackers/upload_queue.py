"""Upload queue: a thread sends points and files, so that training never waits for a server."""

import contextlib
import logging
import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from fer_ignite.errors import first_line

__all__ = ["Point", "UploadQueue"]

logger = logging.getLogger("fer_ignite")

_MOST_WAITING = 100_000
_VALUES_PER_REQUEST = 500  # MLflow takes 1000 in a request
_RETRY_S = 2.0
_BUSY_TRIALS = 10  # of a delivery that fails while the server answers, before it is left out
_GRACE_S = 5.0  # at the end, for a trial that is under way while the server is away


@dataclass(frozen=True)
class Point:
    """Values of one iteration, by name.

    Attributes:
        time_ms: Unix time in milliseconds when the point was made; equal in every trial, so that a repetition can be
            distinguished from a second point.
    """

    values: Mapping[str, float]
    step: int
    time_ms: int = field(default_factory=lambda: int(1000 * time.time()), compare=False)


class UploadQueue:
    """Delivers items in order in a thread of its own.

    A delivery that fails is tried again until the server answers; one that a server refuses is left out. Either is logged
    once in a run.

    Args:
        title: the tracker's name for people.
        deliver: sends points.
        unreachable_reason: why the tracker's server does not answer, or None where it does.
        refused: whether an error is final; otherwise it may be a time limit or an overload, and is tried again. A delivery
            that failed may have arrived all the same: ``deliver`` is called again with the same points.
        settled: called when nothing waits any more.
    """

    def __init__(
        self,
        title: str,
        deliver: Callable[[Sequence[Point]], Any],
        *,
        unreachable_reason: Callable[[], str | None],
        settled: Callable[[], Any] = lambda: None,
        refused: Callable[[Exception], bool] = lambda error: True,
    ) -> None:
        self.title = title
        self._deliver, self._unreachable_reason, self._settled, self._refused = (
            deliver,
            unreachable_reason,
            settled,
            refused,
        )
        # Bounded: while a server is away, what waits must not fill the memory.
        self._items: queue.Queue[Point | Callable[[], Any]] = queue.Queue(_MOST_WAITING)
        self._warned: set[str] = set()
        self._closing = threading.Event()
        self._retry_now = threading.Event()  # somebody waits: the next trial is due at once
        self._failing, self._failures = False, 0
        self._thread: threading.Thread | None = None

    def put(self, item: Point | Callable[[], Any]) -> None:
        """Takes a point, or a function that sends something else; never waits."""
        if self._closing.is_set():
            return
        if self._thread is None:
            # A daemon: a request that hangs must not keep the process alive.
            self._thread = threading.Thread(
                target=self._run, name=f"fer-ignite-{self.title}", daemon=True
            )
            self._thread.start()
        try:
            self._items.put_nowait(item)
        except queue.Full:
            self._warn_once(
                "full",
                "more than %d points wait for %s; later ones are left out",
                _MOST_WAITING,
                self.title,
            )

    def drain(self, *, within_s: float) -> bool:
        """Waits until all is delivered; gives up after ``within_s``, or as soon as the server is seen to be away still."""
        if self._thread is None or self._closing.is_set():
            return True  # nothing was put, or nothing will be sent any more
        arrived, begun, failures = threading.Event(), time.monotonic(), self._failures
        self.put(arrived.set)
        self._retry_now.set()
        try:
            while not arrived.wait(0.02):
                waited = time.monotonic() - begun
                # the first of the two may have begun before the server came back
                seen = self._failures >= failures + 2
                if waited > within_s or seen or (self._failing and waited > _GRACE_S):
                    return False
            return True
        finally:
            self._retry_now.clear()

    def close(self, *, within_s: float) -> bool:
        """Delivers what waits, as :meth:`drain`; what comes later is dropped."""
        done = self.drain(within_s=within_s)
        self._closing.set()
        self._retry_now.set()  # who waits for the next trial leaves
        with contextlib.suppress(queue.Full):
            self._items.put_nowait(lambda: None)  # wakes the thread, which ends behind it
        if not done:
            self._warn_once(
                "lost", "%s did not get all of this run; the run's own files have it", self.title
            )
        return done

    def _run(self) -> None:
        held: Callable[[], Any] | None = None
        while True:
            points: list[Point] = []
            item = held or self._items.get()
            while isinstance(item, Point):
                points.append(item)
                if (
                    # Only points that wait already share a request; none is held back for later ones.
                    self._items.empty()
                    or sum(len(point.values) for point in points) >= _VALUES_PER_REQUEST
                ):
                    break
                item = self._items.get()
            # A function behind points is sent next: the order of items is kept.
            held = item if points and not isinstance(item, Point) else None
            send = (
                item
                if not isinstance(item, Point) and not points
                else partial(self._deliver, points)
            )
            if not self._deliver_with_retries(send):
                return
            if held is None and self._items.empty():
                self._settled()
                if self._closing.is_set():
                    return

    def _deliver_with_retries(self, send: Callable[[], Any]) -> bool:
        failed = 0  # trials in a row that failed while the server answered
        while True:
            try:
                send()
            except (
                Exception
            ) as error:  # whatever a tracker's package raises: the training continues
                reason = self._unreachable_reason()
                if reason is None and not failed:
                    failed = 1  # it may have come back since the attempt: once more
                    continue
                if reason is None and failed < _BUSY_TRIALS and not self._refused(error):
                    failed += 1
                    if self._closing.wait(_RETRY_S):
                        return False
                    continue
                if reason is None:
                    self._warn_once(
                        "refused",
                        "%s refused a part of the record (%s); the training continues",
                        self.title,
                        first_line(error, most=200),
                    )
                    break
                failed = 0
                self._failing, self._failures = True, self._failures + 1
                self._warn_once(
                    "away",
                    "%s; the training continues, and what is missing is sent when it answers again",
                    reason,
                )
                self._retry_now.wait(_RETRY_S)
                if self._closing.is_set():
                    return False
            else:
                break
        self._failing = False
        return True

    def _warn_once(self, kind: str, text: str, *values: Any) -> None:
        if kind not in self._warned:
            self._warned.add(kind)
            logger.warning(text, *values)
