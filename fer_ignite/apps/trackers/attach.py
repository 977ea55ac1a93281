"""Tracker handlers: steps and learning rates every few iterations, epochs, final result and files."""

import contextlib
import functools
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ignite.engine import Engine, Events

from fer_ignite.apps.trackers.registry import tracker_class
from fer_ignite.apps.trackers.run_ids import RunIds
from fer_ignite.apps.trackers.tracker import RunResults, Tracker
from fer_ignite.apps.trackers.upload_queue import Point
from fer_ignite.checkpoint.run_dir import RunDir
from fer_ignite.training.events import RunEvents
from fer_ignite.training.running_metrics import RunningMetrics

__all__ = ["Trackers", "attach_trackers"]

logger = logging.getLogger("fer_ignite")

_FAREWELL_S = 120.0
_LEAST_S = 2.0
_TAGS = ("train", "val", "epoch")
_ENDS = {
    "completed": "finished",
    "early_stopped": "finished",
    "time_limit": "stopped",
    "interrupted": "stopped",
}


class Trackers:
    """All trackers of a run.

    Args:
        settings: gives the configuration and what else describes the run, flat, by name.
        checkpoint: whether best.pt is sent at the end.
    """

    def __init__(
        self,
        trackers: Sequence[Tracker],
        folder: RunDir,
        *,
        settings: Callable[[], Mapping[str, Any]],
        checkpoint: bool,
    ) -> None:
        self.each = tuple(trackers)
        self._folder, self._settings, self._checkpoint = folder, settings, checkpoint
        self._opened: list[Tracker] = []
        self._left_s = _FAREWELL_S

    def open(self) -> None:
        """Opens the run's records, or those of its earlier start.

        Raises:
            ConfigError: one can't be opened.
        """
        self._left_s = _FAREWELL_S
        for tracker in self.each:
            # session.run() may be called again, with the records still open.
            if tracker not in self._opened:
                place = tracker.open(self._settings())
                self._opened.append(tracker)
                logger.info("tracked in  %s: %s", tracker.title, place)
                # Epochs that the run has and the record lacks: a kill lost them, the server was away, or tracking was off.
                for line in self._folder.read_history():
                    tracker.note(_named(line), int(line["iteration"]))

    def settle(self) -> None:
        """Waits until what was logged has been sent, but not for a server that is away.

        Two minutes are for all trackers together, and for all waits between two calls of :meth:`open`.
        """
        for tracker in self._opened:
            with self._timed() as within_s:
                tracker.settle(within_s=within_s)

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Sends the outcome's figures, pictures, files and best.pt, and ends the records."""
        scores = Point(_scores(summary), int(summary["iterations"]))
        files = [
            path
            for path in (self._folder.config, self._folder.summary, self._folder.results)
            if path.exists()
        ]
        pictures = sorted(self._folder.plots.glob("*.png"))
        best = self._folder.checkpoints / "best.pt"
        checkpoint = best if self._checkpoint and best.exists() else None
        results = RunResults(scores, files, pictures, checkpoint)
        for tracker in self._opened:
            # Through the queue: behind the points that still wait.
            tracker.uploads.put(functools.partial(tracker.deliver_results, results))
        self.close(_ENDS.get(str(summary["status"]), "failed"))

    def close(self, status: str = "failed") -> None:
        """Ends the records that are still open."""
        for tracker in self._opened:
            with self._timed() as within_s:
                tracker.end(status, within_s=within_s)

    @contextlib.contextmanager
    def _timed(self) -> Iterator[float]:
        """What is left of the two minutes, a moment at least; the time within is taken off."""
        begun = time.monotonic()
        yield max(self._left_s, _LEAST_S)
        self._left_s -= time.monotonic() - begun


def _scores(summary: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of the outcome: best/value, final/val_accuracy, final/test_accuracy, ..."""
    scores = {
        "best/epoch": summary["best"]["epoch"],
        "best/value": summary["best"]["value"],
        "final/seconds": summary["seconds"],
    }
    for split in ("val", "test"):
        scores |= {f"final/{split}_{name}": value for name, value in summary.get(split, {}).items()}
    return {name: float(value) for name, value in scores.items() if isinstance(value, (int, float))}


def attach_trackers(
    names: Sequence[str],
    trainer: Engine,
    *,
    optimizer: Any,
    folder: RunDir,
    running_metrics: RunningMetrics,
    line: Callable[[], Mapping[str, Any]],
    settings: Callable[[], Mapping[str, Any]],
    project: str | None,
    checkpoint: bool,
    every: int,
) -> Trackers:
    """Attaches trackers through Ignite's loggers; every step is the trainer's iteration. To be opened before the run.

    Args:
        names: of ``mlflow``, ``wandb``, ``clearml``.
        line: the epoch's line, as history.jsonl has it.
        every: iterations between logged learning rates.
    """
    register = RunIds(folder.trackers)
    trackers = []
    for name in names:
        made = tracker_class(name)
        tracker = made.__new__(made)  # Ignite's constructors open the record, which is for later
        tracker.prepare(
            run=Path(folder.path).resolve().name,
            project=project,
            register=register,
            folder=folder.path,
        )
        _attach(
            tracker,
            trainer,
            optimizer=optimizer,
            running_metrics=running_metrics,
            line=line,
            every=every,
        )
        trackers.append(tracker)
    return Trackers(trackers, folder, settings=settings, checkpoint=checkpoint)


def _attach(
    tracker: Any,
    trainer: Engine,
    *,
    optimizer: Any,
    running_metrics: RunningMetrics,
    line: Callable[[], Mapping[str, Any]],
    every: int,
) -> None:
    tracker.attach_opt_params_handler(trainer, Events.ITERATION_COMPLETED(every=every), optimizer)
    for tag in _TAGS:
        tracker.attach_output_handler(
            trainer,
            # Behind the validation, when all that was logged in the epoch is reduced over processes.
            RunEvents.REPORT,
            tag=tag,
            output_transform=lambda _, tag=tag: _part(line(), tag),
            # Explicit: Ignite's default looks the event up in State.event_to_attr, which has no REPORT, and raises.
            global_step_transform=lambda *_: int(trainer.state.iteration),
        )
    running_metrics.on_flush.append(
        lambda values, step: tracker.note(
            {f"step/{name}": value for name, value in values.items()}, step
        )
    )


def _named(line: Mapping[str, Any]) -> dict[str, float]:
    return {f"{tag}/{name}": value for tag in _TAGS for name, value in _part(line, tag).items()}


def _part(line: Mapping[str, Any], tag: str) -> dict[str, float]:
    """The values of an epoch's line that belong under a tag; ``epoch`` has those that are neither train's nor val's."""
    parts: dict[str, dict[str, float]] = {"train": {}, "val": {}, "epoch": {}}
    for name, value in line.items():
        side, _, rest = name.partition("_")
        place, key = (side, rest) if side in ("train", "val") and rest else ("epoch", name)
        parts[place][key] = float(value)
    return parts[tag]
