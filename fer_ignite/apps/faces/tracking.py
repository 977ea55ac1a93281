"""Face tracking by box overlap, with probabilities smoothed over time."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from fer_ignite.apps.faces.detection import Box
from fer_ignite.apps.faces.face_reader import FaceReading

__all__ = ["FaceTracker", "TrackedFace", "overlap"]

_MOST_MISSED = 2


@dataclass(frozen=True)
class TrackedFace:
    """A face of a frame: its track's number, from 1, and its reading, smoothed."""

    track: int
    reading: FaceReading


@dataclass
class _Track:
    number: int
    seen_s: float
    reading: FaceReading
    missed: int = 0  # looks since the last sighting


class FaceTracker:
    """Follows faces.

    With x the network's probabilities at time t and p' the track's smoothed ones at its last sighting t', the smoothed
    probabilities are p = a p' + (1 - a) x with a = exp(-(t - t') / smooth_seconds); p = x where a track begins. So a change is
    63 % visible after ``smooth_seconds`` seconds, at any frame rate.

    Args:
        smooth_seconds: seconds; 0 = no smoothing.
        iou_threshold: share of their common area (intersection over union) from which two boxes are one face.
        patience_s: a face that is away for longer, and is missed at two looks or more, gets a new number. The looks count too
            because with few of them one that misses a face, or none, is longer than any patience in seconds.
    """

    def __init__(
        self, *, smooth_seconds: float = 0.5, iou_threshold: float = 0.3, patience_s: float = 1.0
    ) -> None:
        self.smooth_seconds, self.iou_threshold, self.patience_s = (
            smooth_seconds,
            iou_threshold,
            patience_s,
        )
        self._tracks: list[_Track] = []
        self._begun = 0

    def update(self, time_s: float, readings: Sequence[FaceReading]) -> list[TrackedFace]:
        """The readings of one frame with their tracks, in the readings' order.

        Args:
            time_s: the frame's; never less than the one before.
        """
        # Before the match: a face that comes back later must not get its old number and old probabilities.
        self._tracks = [
            track
            for track in self._tracks
            if time_s - track.seen_s <= self.patience_s or track.missed < _MOST_MISSED
        ]
        track_of = self._matched(readings)
        for track in self._tracks:
            track.missed += 1  # back to 0 below where it is seen
        return [
            self._seen(track_of.get(place), time_s, reading=reading)
            for place, reading in enumerate(readings)
        ]

    def _matched(self, readings: Sequence[FaceReading]) -> dict[int, _Track]:
        """Place of a reading -> its track: the pairs that overlap most come first."""
        pairs = [
            (overlap(track.reading.box, reading.box), place, track)
            for place, reading in enumerate(readings)
            for track in self._tracks
        ]
        found: dict[int, _Track] = {}
        taken: set[int] = set()
        # By the overlap alone: at a tie tuples would compare tracks, which have no order.
        for shared, place, track in sorted(pairs, key=lambda pair: -pair[0]):
            if shared >= self.iou_threshold and place not in found and track.number not in taken:
                found[place] = track
                taken.add(track.number)
        return found

    def _seen(self, track: _Track | None, time_s: float, *, reading: FaceReading) -> TrackedFace:
        if track is None:
            self._begun += 1
            track = _Track(self._begun, time_s, reading)
            self._tracks.append(track)
        else:
            kept = (
                math.exp(-(time_s - track.seen_s) / self.smooth_seconds)
                if self.smooth_seconds > 0
                else 0.0
            )
            before = track.reading.probabilities
            mixed = {
                name: kept * before[name] + (1 - kept) * p
                for name, p in reading.probabilities.items()
            }
            track.seen_s, track.reading = time_s, FaceReading(reading.box, mixed)
            track.missed = 0
        return TrackedFace(track.number, track.reading)


def overlap(first: Box, second: Box) -> float:
    """Intersection over union of two boxes, in [0, 1]."""
    shared = first.intersection(second)
    return shared / (first.area + second.area - shared)
