"""Session: the engines of one run, its state, and every built-in handler by name.

:mod:`fer_ignite.training.build` makes it. Built-in handlers are attached first, then the user's; those that must see
everything before them (best checkpoint, early stopping, resume points, stop coordination) move behind the user's when the run starts.
"""

import logging
import math
import random
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from ignite.engine import Engine, Events
from ignite.engine.events import CallableEventWithFilter, RemovableEventHandle
from ignite.handlers import EarlyStopping, EMAHandler, ProgressBar
from ignite.handlers.tensorboard_logger import TensorboardLogger
from ignite.metrics import Metric
from torch import Tensor, nn
from torch.optim import Optimizer

from fer_ignite.checkpoint import failpoints
from fer_ignite.checkpoint.atomic_io import storage_errors
from fer_ignite.checkpoint.handler import BestCheckpoint, ResumeCheckpoint, TopCheckpoints
from fer_ignite.checkpoint.run_dir import RunDir
from fer_ignite.config import Config
from fer_ignite.data.dataset import FaceDataset
from fer_ignite.data.loader import EvalLoader, Preprocessing, TrainLoader
from fer_ignite.data.prefetch import prefetch_on_stream
from fer_ignite.data.sampler import generator
from fer_ignite.distributed.collectives import broadcast_tensors
from fer_ignite.errors import NONFINITE_REMEDY, ConfigError, NonFiniteError
from fer_ignite.metrics.classification import SCORES
from fer_ignite.metrics.scalars import scalar_metrics
from fer_ignite.models.evaluation_mode import evaluation_mode
from fer_ignite.training.coordination import StopCoordinator, StopReason
from fer_ignite.training.events import RunEvents
from fer_ignite.training.loggers import EpochClock
from fer_ignite.training.lr_schedule import PlateauFactor, StepSchedule
from fer_ignite.training.optim import keep_frozen_in_eval
from fer_ignite.training.running_metrics import On, Reduce, RunningMetrics
from fer_ignite.training.swa import WeightAverage
from fer_ignite.training.trainer import Trainer

if TYPE_CHECKING:
    from fer_ignite.apps.trackers.attach import Trackers

__all__ = ["Session", "global_random_state", "restore_global_random_state", "versions"]

logger = logging.getLogger("fer_ignite")


# Of the epoch's line, beside ``train_...`` and ``val_...``; lines are cut back by some of them when a run is resumed.
_OWN_COLUMNS = frozenset(
    {
        "epoch",
        "iteration",
        "optimizer_steps",
        "lr",
        "skipped_steps",
        "is_best",
        "epoch_seconds",
        "elapsed_seconds",
        "images_per_second",
        "step_loss",
        "grad_norm",
    }
)


class GuardedHandle(RemovableEventHandle):
    """The handle of a handler that others need; :meth:`remove` raises a ConfigError while ``refusal()`` gives a reason."""

    def __init__(self, handle: RemovableEventHandle, refusal: Callable[[], str | None]) -> None:
        self.event_name, self.handler, self.engine = (
            handle.event_name,
            handle.handler,
            handle.engine,
        )
        self._refusal = refusal

    def remove(self) -> None:
        """Removes the handler.

        Raises:
            ConfigError: another part of the run needs it.
        """
        if reason := self._refusal():
            raise ConfigError(reason)
        super().remove()


@dataclass(kw_only=True, repr=False)
class Session:
    """What a handler's ``setup(session)`` function gets, and what Python users hold.

    Attributes:
        trainer, evaluator: Ignite engines; attach to them whatever you like.
        metrics: the evaluator's metrics by name, for metrics of your own that are made out of them.
        val_metrics: the results of the newest validation; a handler may run the evaluator on other images as well.
        epoch_metrics: the same, empty in an epoch without a validation; what the reports have.
        model: the bare network; ``evaluated`` is what evaluation uses: the EMA where there is one.
        handles: built-in handlers by name; ``session.handles["clip"].remove()`` takes one off, with the effect that
            :data:`fer_ignite.training.events.REMOVAL_EFFECTS` states, or raises a :class:`ConfigError`.
        at_close: what :meth:`close` gives back.
        at_end: scores the best network when :meth:`run` has trained; what it returns is ``summary``.
        own_state: sets the process's global state of this session (random states, log) while :meth:`run` and :meth:`close` work.
        ema, swa, plateau, early_stopping, top_checkpoints, progress_bar, tensorboard, trackers, profiler: the objects of the handlers of these names;
            None where the settings have none.
    """

    config: Config
    dataset: FaceDataset
    folder: RunDir
    device: torch.device
    precision: str
    preprocessing: Preprocessing
    model: nn.Module
    evaluated: nn.Module
    optimizer: Optimizer
    scaler: torch.amp.GradScaler
    scoring_terms: Callable[[Tensor, Tensor], Mapping[str, Tensor]]
    trainer: Trainer
    evaluator: Engine
    train_loader: TrainLoader
    val_loader: EvalLoader
    running_metrics: RunningMetrics
    coordinator: StopCoordinator
    rank: int = 0
    world: int = 1
    metrics: Mapping[str, Metric] = field(default_factory=dict)
    handles: dict[str, RemovableEventHandle] = field(default_factory=dict)
    ema: EMAHandler | None = None
    swa: WeightAverage | None = None
    plateau: PlateauFactor | None = None
    early_stopping: EarlyStopping | None = None
    progress_bar: ProgressBar | None = None
    tensorboard: TensorboardLogger | None = None
    trackers: "Trackers | None" = None
    profiler: Any = None
    scheduler: StepSchedule = field(init=False)
    epoch_clock: EpochClock = field(init=False)
    best_checkpoint: BestCheckpoint = field(init=False)
    top_checkpoints: TopCheckpoints | None = None
    resume_checkpoint: ResumeCheckpoint = field(init=False)
    kept: dict[str, Any] = field(default_factory=dict)
    elapsed_before_s: float = 0.0
    started: float = field(default_factory=time.monotonic)
    resumed: Mapping[str, Any] | None = None
    at_close: ExitStack = field(default_factory=ExitStack)
    at_end: Callable[["Session", StopReason], dict[str, Any]] | None = None
    own_state: Callable[[], AbstractContextManager[None]] = nullcontext
    summary: dict[str, Any] | None = None
    _ended_by: str | None = None
    _validating: bool = False
    _validated: Mapping[str, Any] = field(default_factory=dict)
    _validated_epoch: int | None = None
    _late: list[tuple[str, Engine, Any, Callable[..., Any]]] = field(default_factory=list)

    # -- for users

    def log(
        self,
        name: str,
        value: float | Tensor | None,
        *,
        bar: bool = False,
        reduce: Reduce = "mean",
        on: On = "step",
    ) -> None:
        """Notes a value for progress bar, history and trackers.

        Args:
            value: a number or a scalar tensor; a tensor is not waited for. None is not logged: ``state.grad_norm`` is None
                where no handler measures it.
            bar: also in the progress bar.
            reduce: over processes and over the epoch's values: "mean", "sum" or "last".
            on: "step" also goes to the trackers at this iteration, "epoch" only to the epoch's line.
        Raises:
            ConfigError: the epoch's line has something of its own under that name.
        """
        if name in _OWN_COLUMNS or name.startswith(("train_", "val_")):
            raise ConfigError(
                f"session.log({name!r}, ...): the epoch's line has a {name} of its own; choose another name."
            )
        if value is None:
            return
        if self.trainer.last_event_name == Events.COMPLETED:
            logger.warning(
                "session.log(%r, ...) comes behind the last epoch's line and is not written; log it in an epoch's events.",
                name,
            )
            return
        self.running_metrics.log(
            name, value, iteration=self.trainer.state.iteration, bar=bar, reduce=reduce, on=on
        )

    def add_to_checkpoint(self, name: str, thing: Any) -> Any:
        """Adds ``thing`` (with ``state_dict`` and ``load_state_dict``) to every resume point, and returns it.

        The main process's state is what is kept, and what every process is given after a resume: let it hold what all
        processes have in common.
        """
        if not (hasattr(thing, "state_dict") and hasattr(thing, "load_state_dict")):
            raise ConfigError(
                f"session.add_to_checkpoint({name!r}, ...): {type(thing).__name__} has no state_dict and load_state_dict."
            )
        # Added after the resume, as in a notebook: restore() has only given their states to those
        # added before it.
        if self.resumed is not None and name in self.resumed["handlers"]:
            thing.load_state_dict(self.resumed["handlers"][name])
        self.kept[name] = thing
        return thing

    def stop(self) -> None:
        """Requests the end of the run: all processes stop together after the next optimizer step."""
        self.trainer.terminate()

    # -- wiring

    def attach(
        self, name: str, engine: Engine, *, event: Any, handler: Callable[..., Any]
    ) -> RemovableEventHandle:
        """Attaches a handler and keeps its handle under a name."""
        return self.register_handle(name, engine.add_event_handler(event, handler))

    def register_handle(self, name: str, handle: RemovableEventHandle) -> RemovableEventHandle:
        """Keeps the handle of an attached handler under a name."""
        self.handles[name] = handle
        return handle

    def register_last(
        self, name: str, engine: Engine, *, event: Any, handler: Callable[..., Any]
    ) -> RemovableEventHandle:
        """The same for an attached handler that moves behind all others when the run starts, if it is still there."""
        # The list also keeps a bound method alive until the start; a handle refers to its handler
        # weakly.
        self._late.append((name, engine, event, handler))
        return self.register_handle(name, RemovableEventHandle(event, handler, engine))

    def is_attached(self, name: str) -> bool:
        """Whether the handler with this name is there and has not been removed."""
        handle = self.handles.get(name)
        if handle is None:
            return False
        engine, handler = handle.engine(), handle.handler()
        if engine is None or handler is None:
            return False
        # A filtered event (every=, once=) is attached as a wrapper that holds the handler in
        # `_parent`.
        return engine.has_event_handler(
            getattr(handler, "_parent", lambda: handler)(), handle.event_name
        )

    def guard(self, name: str, refusal: Callable[[], str | None]) -> None:
        """Refuses the removal of a handler while ``refusal()`` gives a reason."""
        if name in self.handles:
            self.handles[name] = GuardedHandle(self.handles[name], refusal)

    def _move_late_handlers_back(self) -> None:
        # Ignite calls handlers in the order in which they were attached, and users attach after the built-in ones.
        late, self._late = self._late, []
        for name, engine, event, handler in late:
            if engine.has_event_handler(handler, event):
                engine.remove_event_handler(handler, event)
                self.handles[name] = engine.add_event_handler(event, handler)

    # -- the run

    @property
    def averaged(self) -> nn.Module | None:
        """The network with averaged weights (EMA or SWA); None where the run keeps no average."""
        if self.ema is not None:
            average: nn.Module = self.ema.ema_model
            return average
        return None if self.swa is None else self.swa.model

    @property
    def elapsed_s(self) -> float:
        """Seconds of training and validation, those before a resume included."""
        return self.elapsed_before_s + time.monotonic() - self.started

    def run(self) -> StopReason:
        """Trains until the last epoch or a common decision to stop, and scores the best network where ``at_end`` is set.

        A second call does nothing.

        Returns:
            The reason of the end, the same on all processes.
        Raises:
            ConfigError: an error or an interrupt ended an earlier call; such a run continues in a new session.
        """
        if self.summary is not None:  # test is scored once
            return self.coordinator.reason
        with self.own_state():
            reason = self._train()
            if self.at_end is not None:
                self.summary = self.at_end(self, reason)
        return reason

    def _train(self) -> StopReason:
        # The cut iteration is counted and its step is not taken, and Ignite's engine would return at
        # once as if the run were over.
        if self._ended_by is not None:
            raise ConfigError(
                f"this run was ended by {self._ended_by} at iteration {self.trainer.state.iteration} and can't continue in this session; "
                f"build_session(Config(name={self.folder.path.name!r}, resume='auto')), with the same objects and handlers, "
                "continues from its last resume point."
            )
        self._move_late_handlers_back()
        # Attached at the start and therefore last: a user's handler on EXCEPTION_RAISED still sees
        # the error.
        self._reraise_last()
        if self.resumed is not None and (
            unclaimed := sorted(set(self.resumed["handlers"]) - set(self.kept))
        ):
            logger.warning(
                "no handler of this run takes up the state that was kept as %s.",
                ", ".join(unclaimed),
            )
        if self.trackers is not None:
            self.trackers.open()
        trainer, epochs = self.trainer, self.config.epochs
        length = len(self.train_loader)
        if self.coordinator.reason or trainer.state.iteration >= epochs * length:
            return self.coordinator.reason  # Ignite would train all over again (engine.py, 979)
        self.started = time.monotonic()
        self.coordinator.open()
        try:
            # An explicit epoch_length: the loader is endless, and Ignite compares a checkpoint's
            # length with this argument only.
            trainer.run(
                prefetch_on_stream(self.train_loader, self.device),
                max_epochs=epochs,
                epoch_length=length,
            )
            # The last iteration's vote is still under way; a rank that left now would abort the others' all_reduce.
            self.coordinator.wait_pending()
        except BaseException as error:
            self._ended_by = type(error).__name__
            raise
        finally:
            self._settle()
        return self.coordinator.reason

    def close(self) -> None:
        """Ends what writes in the background, and gives the run's folder free; what was logged is in the files, and has been sent."""
        # The stack unwinds also where a writer fails to close, so the folder is unlocked in any
        # case.
        with self.own_state(), self.at_close:
            self._settle()
            if self.trackers is not None:
                self.trackers.close()

    def __repr__(self) -> str:
        state = self.trainer.state
        counts = ", ".join(
            f"{split} {len(places)}" for split, places in self.dataset.indices.items()
        )
        return (
            f"Session of {self.folder.path}: {self.config.model} on {self.dataset.source} ({counts}; "
            f"{', '.join(self.dataset.classes)}), {self.device}, {self.precision}; epoch "
            f"{state.iteration // len(self.train_loader)} of {self.config.epochs}, iteration {state.iteration}"
        )

    def __enter__(self) -> "Session":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _settle(self) -> None:
        if self.tensorboard is not None:
            with storage_errors(self.folder.tensorboard):
                self.tensorboard.close()
        if self.trackers is not None:
            self.trackers.settle()

    def _reraise_last(self) -> None:
        # With a user's handler on EXCEPTION_RAISED Ignite continues as if nothing had happened (engine.py, 674).
        def reraise(engine: Engine, error: BaseException) -> None:
            raise error

        for engine in (self.trainer, self.evaluator):
            engine.add_event_handler(Events.EXCEPTION_RAISED, reraise)

    def validate(self, engine: Engine | None = None) -> dict[str, Any]:
        """Runs the evaluator over val, for best checkpoint, early stopping, plateau and reports; returns its metrics."""
        # batch statistics: each process has its own slices', but one network is scored
        broadcast_tensors(self.evaluated.buffers())
        failpoints.reach(
            "during-validation", rank=self.rank, iteration=self.trainer.state.iteration
        )
        # training does not depend on the handler train_mode to undo the evaluation's mode
        state = self.evaluator.state
        # Ignite would continue an evaluation that an error has cut, and keeps results of earlier ones.
        state.max_epochs = None
        state.metrics.clear()
        self._validating = True
        try:
            with evaluation_mode(self.evaluated):
                self.evaluator.run(self.val_loader, epoch_length=len(self.val_loader))
        finally:
            self._validating = False
        self._validated, self._validated_epoch = dict(state.metrics), self.trainer.state.epoch
        return self.val_metrics

    @property
    def validation_completed(self) -> CallableEventWithFilter:
        """The evaluator's COMPLETED after :meth:`validate`, not after other runs of the evaluator."""
        return Events.COMPLETED(event_filter=lambda engine, count: self._validating)

    @property
    def val_metrics(self) -> dict[str, Any]:
        """The metrics of the newest validation, with those that handlers have added since; empty before the first one."""
        if not self._validated:
            return {}
        return {**self.evaluator.state.metrics, **self._validated}

    @property
    def epoch_metrics(self) -> dict[str, Any]:
        """The same where a validation ran in this epoch, else empty: no report repeats an earlier epoch's figures."""
        return self.val_metrics if self._validated_epoch == self.trainer.state.epoch else {}

    def require_finite_scores(self, engine: Engine) -> None:
        """The evaluator's COMPLETED, before the best checkpoint: a network whose loss on val is not finite has diverged.

        Raises:
            NonFiniteError: on all processes; the metrics are common to them.
        """
        for name in ("loss", *SCORES):  # a user's own score may be NaN: it counts as no gain
            value = engine.state.metrics[name]
            if not math.isfinite(value):
                state = self.trainer.state
                raise NonFiniteError(
                    f"val {name} is {value} at iteration {state.iteration} (epoch {state.epoch}). {NONFINITE_REMEDY}"
                )

    def require_finite_weights(self, engine: Engine) -> None:
        """RESUME_POINT, before it is written: weights that are not finite never replace a sound resume point.

        Raises:
            NonFiniteError: on all processes, which have the same weights.
        """
        tensors = [
            *self.model.parameters(),
            *(self.evaluated.parameters() if self.evaluated is not self.model else ()),
        ]
        # The maximum norm of a tensor with a NaN or an infinity is not finite: one fused reduction per device.
        norms = torch._foreach_norm(
            [tensor.detach() for tensor in tensors if tensor.is_floating_point()], torch.inf
        )
        if norms and not torch.stack([norm.float().cpu() for norm in norms]).isfinite().all():
            raise NonFiniteError(
                f"weights are not finite at iteration {self.trainer.state.iteration}; no resume point was written. {NONFINITE_REMEDY}"
            )

    def require_taken_step(self) -> None:
        """At the end of a run: a last epoch without one step of finite loss and gradients is a failure, however few its steps were.

        Raises:
            NonFiniteError: on all processes, which have counted the same.
        """
        steps = self.train_loader.plan.steps_per_epoch
        # fp16 finds its scale by steps that are not taken
        if self.coordinator.not_taken >= steps and not self.scaler.is_enabled():
            raise NonFiniteError(
                f"the loss or the gradients were not finite in all {steps} optimizer steps of the last epoch (iteration "
                f"{self.trainer.state.iteration}). {NONFINITE_REMEDY}"
            )

    def report(self, engine: Engine) -> None:
        """EPOCH_COMPLETED, behind the users' handlers: what they logged belongs to this epoch's line."""
        self.trainer.fire_event(RunEvents.VALIDATED)
        # A collective: behind all handlers that log, and on every rank, although only the main process reports.
        self.running_metrics.reduce_across_ranks()
        self.trainer.fire_event(RunEvents.REPORT)

    def prepare_model(self, engine: Engine) -> None:
        """ITERATION_STARTED: training mode, except for what is frozen."""
        # In each iteration: a user's handler may run the evaluator, whose step puts the network
        # into evaluation mode.
        self.model.train()
        keep_frozen_in_eval(self.model)

    def reseed(self, engine: Engine) -> None:
        """ITERATION_STARTED: the network's own randomness (dropout) is a function of (seed, iteration, rank)."""
        # By iteration, so that a resumed run needs no stored random state; by rank, so that masks differ.
        draw = generator(self.config.seed, "model", engine.state.iteration, self.rank)
        torch.manual_seed(int(draw.integers(2**63)))

    def history_line(self) -> dict[str, Any]:
        """The epoch's line, as history.jsonl has it."""
        state, metrics = self.trainer.state, scalar_metrics(self.epoch_metrics)
        clock, best = self.epoch_clock, self.best_checkpoint
        return {
            "epoch": state.epoch,
            "iteration": state.iteration,
            "optimizer_steps": state.optimizer_steps,
            "lr": self.optimizer.param_groups[0]["lr"],
            **self.running_metrics.epoch(),
            **{f"val_{name}": value for name, value in metrics.items()},
            # This waits for the device; once per epoch.
            "skipped_steps": int(state.skipped_steps),
            "is_best": best is not None and best.best["epoch"] == state.epoch,
            "epoch_seconds": round(clock.seconds, 3),
            "elapsed_seconds": round(self.elapsed_s, 3),
            "images_per_second": round(clock.rate, 1),
        }


def versions() -> dict[str, str]:
    """Of Python and the libraries that a run's numbers depend on."""
    import ignite

    import fer_ignite

    return {
        "fer_ignite": fer_ignite.__version__,
        "python": sys.version.split()[0],
        "torch": str(torch.__version__),
        "torchvision": version("torchvision"),  # importing it takes half a second
        "ignite": ignite.__version__,
        "numpy": np.__version__,
    }


def global_random_state() -> dict[str, Any]:
    """The global random states as plain values; for user code only, nothing of ours draws from them."""
    # As lists of numbers: a checkpoint holds tensors and plain values only.
    # CUDA's generators are not among them: torch.manual_seed in reseed() seeds all devices in each
    # iteration.
    version, words, gauss = random.getstate()
    name, keys, *rest = np.random.get_state()
    return {
        "python": [version, list(words), gauss],
        "numpy": [
            str(name),
            [int(key) for key in keys],
            int(rest[0]),
            int(rest[1]),
            float(rest[2]),
        ],
        "torch": torch.get_rng_state(),
    }


def restore_global_random_state(state: Mapping[str, Any]) -> None:
    """Undoes :func:`global_random_state`."""
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words), gauss))
    name, keys, place, has_gauss, cached = state["numpy"]
    np.random.set_state((name, np.array(keys, dtype=np.uint32), place, has_gauss, cached))
    torch.set_rng_state(state["torch"])
