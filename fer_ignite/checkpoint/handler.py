"""Checkpoint handlers on Ignite's Checkpoint: durable saves; a failed save changes nothing.

Ignite 0.5.5 removes the old file before it writes the new, and has changed its record by then (handlers/checkpoint.py,
511-523). So the saver below only notes removals and carries them out after the new file is durable, and the handlers
put the record back when a save failed. Every process learns of a failure: they all raise, or none does.
"""

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import ignite.distributed as idist
from ignite.engine import Engine, Events
from ignite.engine.events import CallableEventWithFilter, EventsList
from ignite.handlers import Checkpoint
from ignite.handlers.checkpoint import BaseSaveHandler

from fer_ignite.checkpoint import failpoints
from fer_ignite.checkpoint.atomic_io import publish_alias, write_durably
from fer_ignite.checkpoint.format import write_checkpoint
from fer_ignite.checkpoint.paths import BEST_NAME, LAST_NAME, step_files
from fer_ignite.errors import ConfigError, FerError, build_error, error_kind

__all__ = [
    "AtomicSaver",
    "BestCheckpoint",
    "PlainState",
    "ResumeCheckpoint",
    "TopCheckpoints",
    "attach_best",
    "attach_resume_points",
    "attach_top",
]

Agree = Callable[[str | None], str | None]


class PlainState:
    """A plain value in the place of an object with ``state_dict``, for Ignite's ``to_save``.

    Args:
        value: the value, or a function that gives it at the moment of saving.
    """

    def __init__(self, value: Any) -> None:
        self._value = value

    def state_dict(self) -> Any:
        return self._value() if callable(self._value) else self._value

    def load_state_dict(self, state: Any) -> None:
        """Nothing to do: whoever resumes reads the value itself."""


class AtomicSaver(BaseSaveHandler):
    """Writes checkpoints to a folder, durably; ``step-*.pt`` also appears as ``last.pt``.

    Args:
        dirname: an existing folder.
        agree: shares an error's text: called on every process after each save with its own text or None, it returns the
            same text on all, or None where all went well. A single process needs none.
    Attributes:
        iteration: the trainer's, set by the handlers before each save; only the fault points ask for it.
        pending: names of files that go once the next one is durable.
        written: number of saves that became durable.
    """

    def __init__(self, dirname: str | Path, *, agree: Agree = lambda text: text) -> None:
        self.dirname = Path(dirname)
        self.agree = agree
        self.iteration = 0
        self.pending: list[str] = []
        self.written = 0

    def __call__(
        self,
        checkpoint: Mapping[str, Any],
        filename: str,
        metadata: Mapping[str, Any] | None = None,
    ) -> None:
        """Write on rank 0; raise on all processes where that failed.

        Raises:
            StorageError: the folder's file system refused; the old files are as they were.
            CheckpointError: the content is no plain data.
        """
        rank = idist.get_rank()
        prefix = "best-" if filename == BEST_NAME else ""
        reached = failpoints.reaching(rank=rank, iteration=self.iteration, prefix=prefix)
        error: Exception | None = None
        if rank == 0:
            error = self._write(checkpoint, filename, reached=reached)
        else:
            _pass_by(reached)
        # A collective: called after every save, failed or not; else the other ranks would wait.
        text = self.agree(None if error is None else _as_text(error))
        if isinstance(error, TypeError):
            # Ignite would take it for a handler of two arguments and save once more (checkpoint.py, 522-525).
            raise RuntimeError(f"saving {filename} failed: {error}") from error
        if error is not None:
            raise error
        if text is not None:  # of the same kind on all processes, whichever arrives first
            code_there, kind, said = text.split(" ", 2)
            raise build_error(int(code_there), said, kind=kind)
        self.written += 1
        self._prune(filename, reached)

    def remove(self, filename: str) -> None:
        """Note a file that goes once the next one is durable."""
        if filename not in self.pending:
            self.pending.append(filename)

    def _write(
        self, checkpoint: Mapping[str, Any], filename: str, *, reached: Callable[[str], None]
    ) -> Exception | None:
        path = self.dirname / filename
        try:
            write_durably(
                path,
                lambda file: write_checkpoint(checkpoint, file, reached=reached),
                reached=reached,
            )
            if filename.startswith("step-"):
                # After the step file is durable: a kill in between leaves the last.pt of before.
                publish_alias(path, self.dirname / LAST_NAME)
        except Exception as error:  # whatever it is, the other processes wait for the result
            return error
        return None

    def _prune(self, filename: str, reached: Callable[[str], None]) -> None:
        reached("before-prune")
        # With a fixed name such as best.pt, Ignite requests the removal of the name that it saves.
        names, self.pending = [name for name in self.pending if name != filename], []
        for name in names if idist.get_rank() == 0 else ():
            try:
                (self.dirname / name).unlink(missing_ok=True)
            except OSError:
                # the new file is safe; the old one is tried again after the next save
                self.pending.append(name)
            reached("mid-prune")
        if idist.get_rank() != 0:
            reached("mid-prune")


_TOP_PREFIX = "best-"


class _SafeCheckpoint(Checkpoint):
    """Ignite's handler, whose record of saved files stays true when a save failed."""

    _saved: list[Any]

    def __init__(
        self, to_save: Mapping[str, Any], saver: AtomicSaver, *, trainer: Engine, **arguments: Any
    ) -> None:
        if len(to_save) < 2:
            # Ignite writes a single object as its bare state, without its name (checkpoint.py, 481-484).
            raise ConfigError(
                f"to_save has the entries {list(to_save)}; a checkpoint needs at least two."
            )
        # The explicit transform: the default takes the last event's name, which other checkpoints change.
        super().__init__(
            to_save, saver, global_step_transform=lambda *_: trainer.state.iteration, **arguments
        )
        self.saver = saver
        self._trainer = trainer

    @property
    def last_checkpoint(self) -> Path | None:
        """The newest file's path, or the best's."""
        # Ignite's own returns the bare file name for any saver but its DiskSaver.
        return self.saver.dirname / self._saved[-1].filename if self._saved else None

    def __call__(self, engine: Engine, *args: Any, **kwargs: Any) -> None:
        saver = self.saver
        saver.iteration = self._trainer.state.iteration
        # Copies, because Ignite changes its list in place.
        record, pending, written = list(self._saved), list(saver.pending), saver.written
        try:
            super().__call__(engine)
        finally:
            # Not by the exception: a user's handler of SAVED_CHECKPOINT may raise after the save.
            if saver.written == written:
                self._saved, saver.pending = record, pending


class ResumeCheckpoint(_SafeCheckpoint):
    """The newest ``keep`` resume points, named by iteration."""

    def add_existing(self, *, up_to: int) -> None:
        """Take over the files that the folder holds already, so that they are pruned like the run's own.

        Args:
            up_to: the iteration that the run continues from, 0 for a new run. Newer files are of a future that won't be,
                or damaged; they go once the next resume point is durable.
        """
        files = step_files(self.saver.dirname)
        assert self.n_saved is not None
        kept = [(step, path.name) for step, path in files if step <= up_to][: self.n_saved]
        # Lowest first, as Ignite keeps the list: it removes the first item.
        self._saved = [Checkpoint.Item(step, name) for step, name in reversed(kept)]
        for _, path in files:
            if path.name not in {name for _, name in kept}:
                self.saver.remove(path.name)


class BestCheckpoint(_SafeCheckpoint):
    """The checkpoint with the highest score; a score that is not finite never counts.

    Attributes:
        best: ``{"value", "iteration", "epoch"}``, with None as value before the first finite score.
    """

    def __init__(
        self,
        to_save: Mapping[str, Any],
        saver: AtomicSaver,
        *,
        trainer: Engine,
        score: Callable[[Engine], float],
    ):
        super().__init__(
            to_save,
            saver,
            trainer=trainer,
            score_function=score,
            n_saved=1,
            filename_pattern=BEST_NAME,
        )
        self.best: dict[str, Any] = {"value": None, "iteration": 0, "epoch": 0}

    def __call__(self, engine: Engine, *args: Any, **kwargs: Any) -> None:
        assert self.score_function is not None
        value = float(self.score_function(engine))
        # NaN as the first score would block every later one: nothing is greater than NaN (checkpoint.py, 453-457).
        if not math.isfinite(value) or (
            self.best["value"] is not None and value <= self.best["value"]
        ):
            return
        before, written = self.best, self.saver.written
        state = self._trainer.state
        # Set before saving, so that best.pt knows itself and a run that continues from it can't take a lower score.
        self.best = {"value": value, "iteration": state.iteration, "epoch": state.epoch}
        try:
            super().__call__(engine)
        finally:
            if self.saver.written == written:
                self.best = before

    def state_dict(self) -> Any:
        return dict(self.best)

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        self.best = {name: state_dict[name] for name in self.best}
        known = self.best["value"] is not None
        self._saved = [Checkpoint.Item(self.best["value"], BEST_NAME)] if known else []


class TopCheckpoints(_SafeCheckpoint):
    """The checkpoints of the ``keep`` highest scores, named by iteration; a score that is not finite never counts."""

    def __call__(self, engine: Engine, *args: Any, **kwargs: Any) -> None:
        assert self.score_function is not None
        if math.isfinite(float(self.score_function(engine))):
            super().__call__(engine)

    def state_dict(self) -> Any:
        # Lists: Ignite's items are named tuples, which a checkpoint can't hold.
        return {"saved": [[item.priority, item.filename] for item in self._saved]}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Takes over the files that are still there; files of epochs behind the resume point go."""
        folder = self.saver.dirname
        self._saved = [
            Checkpoint.Item(priority, filename)
            for priority, filename in state_dict["saved"]
            if (folder / filename).exists()
        ]
        known = {item.filename for item in self._saved}
        for path in folder.glob(f"{_TOP_PREFIX}[0-9]*.pt"):
            if path.name not in known:
                self.saver.remove(path.name)


def attach_resume_points(
    trainer: Engine,
    to_save: Mapping[str, Any],
    *,
    saver: AtomicSaver,
    event: Events | CallableEventWithFilter | EventsList,
    keep: int = 2,
) -> ResumeCheckpoint:
    """Save ``step-<iteration>.pt`` and ``last.pt`` on an event of the trainer.

    Args:
        to_save: objects with ``state_dict`` by the names of ``SCHEMA``; ``PlainState`` for plain values.
        keep: number of files, at least 2, so that damage to the newest costs one interval, not the run.
    """
    if keep < 2:
        raise ConfigError(f"keep is {keep}; at least 2 resume points are kept.")
    points = ResumeCheckpoint(
        to_save, saver, trainer=trainer, n_saved=keep, filename_pattern="step-{global_step}.pt"
    )
    trainer.add_event_handler(event, points)
    return points


def attach_best(
    evaluator: Engine,
    to_save: Mapping[str, Any],
    *,
    saver: AtomicSaver,
    score: Callable[[Engine], float],
    trainer: Engine,
    event: Events | CallableEventWithFilter | EventsList = Events.COMPLETED,
) -> BestCheckpoint:
    """Save ``best.pt`` when an evaluation ends with the highest score so far.

    Args:
        event: of the evaluator; fires after each evaluation that counts.
        score: of the evaluator after a run; higher is better, non-finite never counts.
        trainer: whose iteration and epoch the best is remembered with.
    """
    best = BestCheckpoint(to_save, saver, trainer=trainer, score=score)
    evaluator.add_event_handler(event, best)
    return best


def attach_top(
    evaluator: Engine,
    to_save: Mapping[str, Any],
    *,
    saver: AtomicSaver,
    score: Callable[[Engine], float],
    trainer: Engine,
    keep: int,
    event: Events | CallableEventWithFilter | EventsList = Events.COMPLETED,
) -> TopCheckpoints:
    """Save ``best-<iteration>.pt`` of the ``keep`` highest scores; arguments as in :func:`attach_best`."""
    top = TopCheckpoints(
        to_save,
        saver,
        trainer=trainer,
        score_function=score,
        n_saved=keep,
        filename_pattern=f"{_TOP_PREFIX}{{global_step}}.pt",
    )
    evaluator.add_event_handler(event, top)
    return top


def _as_text(error: Exception) -> str:
    # For the other processes, whose build_error() makes the same error of it.
    code = error.exit_code if isinstance(error, FerError) else FerError.exit_code
    return f"{code} {error_kind(error)} {str(error) or type(error).__name__}"


def _pass_by(reached: Callable[[str], None]) -> None:
    """A process that writes nothing passes the same points, so that a test can kill it there."""
    for point in failpoints.SAVE_POINTS[: failpoints.SAVE_POINTS.index("before-prune")]:
        reached(point)
