"""Predictions for concurrent requests, several requests in one batch."""

import queue
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from itertools import groupby
from typing import Any, NamedTuple

from fer_ignite.inference.predictor import Prediction, Predictor, predict

__all__ = ["Batcher", "Busy"]


class Busy(Exception):
    """More pictures are waiting than the service holds."""


class _Waiting(NamedTuple):
    pictures: Sequence[Any]
    pixels: int
    future: "Future[list[list[Prediction]]]"


def _pixels(picture: Any) -> int:
    """Of a PIL image, or of an array [H, W] or [H, W, 3]."""
    height, width = (
        picture.shape[:2] if hasattr(picture, "shape") else (picture.height, picture.width)
    )
    return int(height * width)


class Batcher:
    """One thread with the network; requests that wait while it works are predicted in one batch.

    Args:
        faces: "auto", "never" or "always", as :func:`fer_ignite.inference.predictor.predict` takes it.
        batch_size: pictures of one batch, at most, unless one request has more.
        most_waiting, most_pixels: pictures that may wait, and their pixels together; more are refused with :class:`Busy`.
    """

    def __init__(
        self,
        predictor: Predictor,
        *,
        faces: str = "auto",
        batch_size: int = 64,
        most_waiting: int = 512,
        most_pixels: int = 400_000_000,
    ) -> None:
        self.predictor, self.faces = predictor, faces
        self.batch_size = batch_size
        self.most_waiting, self.most_pixels = most_waiting, most_pixels
        self._waiting = self._pixels = 0
        self._lock = threading.Lock()
        self._queue: queue.SimpleQueue[_Waiting | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, daemon=True, name="fer-ignite-batcher")
        self._thread.start()

    def submit(self, pictures: Sequence[Any]) -> "Future[list[list[Prediction]]]":
        """The predictions of each picture, one per face, when they are done.

        Args:
            pictures: PIL images or uint8 arrays [H, W] or [H, W, 3].
        Raises:
            Busy: too many are waiting.
        """
        waiting = _Waiting(pictures, sum(map(_pixels, pictures)), Future())
        with self._lock:
            # A request larger than the limit is taken when nothing else waits; it would always be refused otherwise.
            if self._waiting and (
                self._waiting + len(pictures) > self.most_waiting
                or self._pixels + waiting.pixels > self.most_pixels
            ):
                raise Busy
            self._waiting += len(pictures)
            self._pixels += waiting.pixels
        self._queue.put(waiting)
        return waiting.future

    def close(self) -> None:
        """Ends the thread when what waits is done."""
        self._queue.put(None)
        self._thread.join()

    def _work(self) -> None:
        while (first := self._queue.get()) is not None:
            batch, count, ends = [first], len(first.pictures), False
            while count < self.batch_size and not ends:
                try:
                    # Without waiting for more: a single request is answered at once.
                    more = self._queue.get_nowait()
                except queue.Empty:
                    break
                if more is None:
                    ends = True
                else:
                    batch.append(more)
                    count += len(more.pictures)
            # A client that has gone has cancelled its request. From here on cancelling has no effect, as a result
            # set on a cancelled future raises, and would end this thread.
            self._answer([w for w in batch if w.future.set_running_or_notify_cancel()])
            with self._lock:
                self._waiting -= count
                self._pixels -= sum(waiting.pixels for waiting in batch)
            if ends:
                return

    def _answer(self, batch: Sequence[_Waiting]) -> None:
        if not batch:
            return
        pictures = [picture for waiting in batch for picture in waiting.pictures]
        try:
            found = predict(
                self.predictor,
                pictures,
                topk=len(self.predictor.classes),
                faces=self.faces,
                most_looks=None,  # a picture's answer must not depend on the others in its batch
                warn=lambda _: None,
            )
            # "picture 0", "picture 1", ...: in their order, each with at least one entry
            each = [list(group) for _, group in groupby(found, key=lambda face: face.file)]
            if len(each) != len(pictures):
                raise RuntimeError(f"{len(each)} answers for {len(pictures)} pictures")
        except Exception as error:  # one request's fault must not end the thread
            for waiting in batch:
                waiting.future.set_exception(error)
            return
        place = 0
        for waiting in batch:
            waiting.future.set_result(each[place : place + len(waiting.pictures)])
            place += len(waiting.pictures)
