"""Progress bars, epoch table, history, plots and profilers.

All of it hangs on the main process; none of it decides anything.
"""

import contextlib
import logging
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from ignite.engine import Engine, Events
from ignite.engine.events import RemovableEventHandle
from ignite.handlers import BasicTimeProfiler, HandlersTimeProfiler, ProgressBar, Timer

from fer_ignite.checkpoint.run_dir import RunDir
from fer_ignite.terminal import (
    TerminalHandler,
    bar_class,
    bar_format,
    output_stream,
    shows_bars,
    terminal_width,
)
from fer_ignite.training.epoch_table import EpochTable
from fer_ignite.training.events import RunEvents
from fer_ignite.training.plots import draw_confusion, draw_curves
from fer_ignite.training.running_metrics import RunningMetrics

__all__ = [
    "LiveProgressBar",
    "RunLogFile",
    "attach_epoch_clock",
    "attach_history",
    "attach_plots",
    "attach_profiler",
    "attach_progress_bar",
    "close_run_logger",
    "run_logger",
    "warn_on_plot_errors",
]


class RunLogFile(logging.FileHandler):
    """A run's log.txt."""


def run_logger(folder: RunDir, *, rank: int, quiet: bool) -> logging.Logger:
    """The run's logger ``fer_ignite``: main process to the terminal and log.txt, the others silent.

    Handlers that the caller has attached to it get the run's lines too.
    """
    close_run_logger()
    logger = logging.getLogger("fer_ignite")
    logger.propagate = False
    for handler in list(logger.handlers):
        if isinstance(handler, TerminalHandler):  # of an earlier run
            logger.removeHandler(handler)
    if rank != 0:
        logger.handlers[:] = [logging.NullHandler()]
        return logger
    logger.setLevel(logging.INFO)
    terminal = TerminalHandler(output_stream())
    terminal.setLevel(logging.WARNING if quiet else logging.INFO)
    # A quiet terminal does not make the file quiet.
    file = RunLogFile(folder.log, encoding="utf-8")
    file.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    logger.addHandler(terminal)
    logger.addHandler(file)
    return logger


def close_run_logger() -> None:
    """Closes the run's log.txt; later messages are written to the terminal only."""
    logger = logging.getLogger("fer_ignite")
    for handler in list(logger.handlers):
        if isinstance(handler, RunLogFile):
            logger.removeHandler(handler)
            handler.close()


class LiveProgressBar(ProgressBar):
    """Ignite's bar, drawn from an epoch's start on and refreshed by time instead of by iterations.

    Args:
        what: what is done, in front of the bar; "epoch" gets the epoch's number.
    """

    def __init__(self, what: str) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore"
            )  # tqdm.autonotebook calls itself experimental in a notebook
            super().__init__(bar_format=bar_format(), desc=what)
        self.pbar_cls = bar_class()
        self.tqdm_kwargs |= {
            "dynamic_ncols": True,
            "disable": not shows_bars(),
            "file": output_stream(),
        }
        self.pbar: Any = None
        self._next_s = 0.0

    def attach_live(
        self, engine: Engine, shown: Callable[[Any], Mapping[str, Any]] | None = None
    ) -> None:
        """Attaches the bar.

        Args:
            shown: ``output -> {name: value}``, the text behind the bar; called only when it is refreshed, as it may wait
                for the device.
        """
        engine.add_event_handler(Events.EPOCH_STARTED, self._open)
        due = Events.ITERATION_COMPLETED(event_filter=self._is_due)
        self.attach(engine, output_transform=shown, event_name=due)
        engine.add_event_handler(Events.COMPLETED, self.finish)  # stopped within an epoch

    def finish(self) -> None:
        """Erases the bar."""
        if self.pbar is not None:
            self.pbar.close()
        self.pbar = None

    def _open(self, engine: Engine) -> None:
        self._next_s = 0.0
        self._reset(engine.state.epoch_length)
        epochs = engine.state.max_epochs
        if epochs is not None and epochs > 1:
            # the same words as Ignite's handler sets with the first refresh
            self.pbar.set_description(f"{self.tqdm_kwargs['desc']} [{engine.state.epoch}/{epochs}]")

    def _reset(self, pbar_total: int | None) -> None:
        if self.pbar is None:
            # Without initial=1: Ignite's bar appears with the first iteration, this one before it.
            self.pbar = self.pbar_cls(
                total=pbar_total, leave=self.persist, bar_format=self.bar_format, **self.tqdm_kwargs
            )

    def _is_due(self, engine: Engine, _: int) -> bool:
        now = time.monotonic()
        if self.tqdm_kwargs["disable"] or now < self._next_s:
            return False
        # Ignite's bar refreshes by iterations, and each refresh waits for the device (loss.item()).
        self._next_s = now + 0.25
        return True


def attach_progress_bar(
    trainer: Engine, evaluator: Engine, running_metrics: RunningMetrics
) -> tuple[LiveProgressBar, LiveProgressBar]:
    """A bar per epoch with loss, accuracy in per cent and what users log with ``bar=True``; and one for each validation."""

    def shown(output: Mapping[str, Any]) -> dict[str, Any]:
        hits_B = output["y_pred"].argmax(dim=1) == output["y"]
        accuracy = 100 * hits_B.float().mean().item()
        return {
            "loss": f"{output['loss'].item():.3f}",
            "acc": f"{accuracy:.0f}%",
            **running_metrics.bar,
        }

    bar, validation = LiveProgressBar("epoch"), LiveProgressBar("validation")
    bar.attach_live(trainer, shown)
    evaluator.add_event_handler(Events.STARTED, bar.finish)
    validation.attach_live(evaluator)
    return bar, validation


class EpochClock:
    """Seconds and images per second of each epoch's training part, over all processes; validation is not counted."""

    def __init__(self) -> None:
        self.timer = Timer(average=False)
        self.images = 0

    def count(self, engine: Engine) -> None:
        batch = engine.state.batch
        # step_size is that of the whole group over all processes, so it is added once per group.
        self.images += batch.step_size if batch.is_last_micro else 0

    def restart(self, engine: Engine) -> None:
        self.images = 0
        self.timer.reset()

    @property
    def seconds(self) -> float:
        return float(self.timer.value())

    @property
    def rate(self) -> float:
        return self.images / max(self.seconds, 1e-9)


def attach_epoch_clock(trainer: Engine) -> EpochClock:
    """Measures each epoch's training part; to be attached before the handler that evaluates."""
    clock = EpochClock()
    # the latter is silent where a run continues within an epoch
    for event in (Events.STARTED, Events.EPOCH_STARTED):
        trainer.add_event_handler(event, clock.restart)
    trainer.add_event_handler(Events.ITERATION_COMPLETED, clock.count)
    clock.timer.attach(
        trainer, start=Events.STARTED, resume=Events.EPOCH_STARTED, pause=Events.EPOCH_COMPLETED
    )
    return clock


def attach_history(
    trainer: Engine,
    folder: RunDir,
    *,
    line: Callable[[], dict[str, Any]],
    logger: logging.Logger,
    monitor: str = "accuracy",
    logged: Callable[[], Sequence[str]] = tuple,
) -> RemovableEventHandle:
    """REPORT: one line in history.jsonl, the table in results.csv, a row on the terminal.

    Args:
        line: the epoch's line.
        logged: names in it that handlers logged for the epoch.
    """
    rows = _EpochRows(monitor, logger)

    def write(engine: Engine) -> None:
        values = line()
        folder.append_history(values)
        rows.show(engine, values, logged=tuple(logged()))

    trainer.add_event_handler(Events.STARTED, rows.begin)
    return trainer.add_event_handler(RunEvents.REPORT, write)


class _EpochRows:
    """The epoch table on the terminal and in log.txt, with the time left of the whole run."""

    def __init__(self, monitor: str, logger: logging.Logger) -> None:
        self.monitor, self.logger = monitor, logger

    def begin(self, engine: Engine) -> None:
        self.table = EpochTable(engine.state.max_epochs, self.monitor, width=terminal_width())
        # The time left follows from this process's epochs: those before a resume may have run on
        # another machine.
        self.started_s, self.epochs_before = time.monotonic(), engine.state.epoch

    def show(self, engine: Engine, values: Mapping[str, Any], *, logged: Sequence[str]) -> None:
        shown = dict(values)
        done = engine.state.epoch - self.epochs_before
        left = engine.state.max_epochs - engine.state.epoch
        if done > 0 and left > 0:
            shown["remaining_s"] = left * (time.monotonic() - self.started_s) / done
        # 0 for a run on the CPU of a machine with a GPU.
        if torch.cuda.is_available() and torch.cuda.max_memory_allocated():
            shown["gpu_gib"] = torch.cuda.max_memory_allocated() / 2**30
        for title in self.table.header(shown, logged):
            self.logger.info(title, extra={"style": "title"})
        style = {"style": "best"} if values.get("is_best") else {}
        self.logger.info(self.table.row(shown), extra=style)


@contextlib.contextmanager
def warn_on_plot_errors(which: str) -> Iterator[None]:
    """A picture that can't be drawn is warned about; it is no reason to end a run."""
    try:
        yield
    except Exception as error:
        logging.getLogger("fer_ignite").warning(
            "the pictures %s could not be drawn: %s", which, error
        )


def attach_plots(
    trainer: Engine,
    folder: RunDir,
    *,
    classes: tuple[str, ...],
    metrics: Callable[[], Mapping[str, Any]],
) -> RemovableEventHandle:
    """REPORT: curves.png and confusion_matrix.png as of now.

    Args:
        metrics: those of the epoch's validation; empty where there is none.
    """

    def draw(engine: Engine) -> None:
        with warn_on_plot_errors(f"of epoch {engine.state.epoch}"):
            draw_curves(list(folder.read_history()), folder.plots / "curves.png")
            matrix = metrics().get("confusion_matrix")
            if matrix is None:  # no validation in this epoch
                return
            draw_confusion(
                matrix.tolist(),
                classes,
                path=folder.plots / "confusion_matrix.png",
                title=f"val, epoch {engine.state.epoch}",
            )

    return trainer.add_event_handler(RunEvents.REPORT, draw)


def attach_profiler(
    trainer: Engine, profiler: BasicTimeProfiler | HandlersTimeProfiler
) -> BasicTimeProfiler | HandlersTimeProfiler:
    """Attaches one of Ignite's profilers, which prints when the run ends; the one of handlers behind all of them."""
    profiler.attach(trainer)
    trainer.add_event_handler(
        Events.COMPLETED, lambda: profiler.print_results(profiler.get_results())
    )
    return profiler
