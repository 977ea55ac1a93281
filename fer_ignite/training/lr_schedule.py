"""Learning-rate schedules as pure functions of the optimizer step.

``build_schedule`` gives ``factor(step)``, by which every parameter group's own rate is multiplied; step 0 is the first.
Warm-up is a factor in front of it. Two things are not pure: plateau, whose factor follows a validation metric and
multiplies too, and the count of steps, which the handler holds.
"""

import bisect
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from ignite.engine import Engine
from ignite.engine.events import RemovableEventHandle
from ignite.handlers import LRScheduler
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, ReduceLROnPlateau

from fer_ignite.errors import ConfigError
from fer_ignite.metrics.scalars import as_number
from fer_ignite.training.monitor import monitored_value

__all__ = ["SCHEDULES", "PlateauFactor", "StepSchedule", "attach_schedule", "build_schedule"]

Schedule = Callable[[int], float]
SCHEDULES = (
    "constant",
    "cosine",
    "cyclic",
    "exponential",
    "multistep",
    "onecycle",
    "plateau",
    "step",
)


def build_schedule(
    name: str,
    *,
    steps_per_epoch: int,
    epochs: int,
    warmup_steps: int = 0,
    warmup_start_factor: float = 0.01,
    min_factor: float = 0.0,
    decay_epochs: float = 30.0,
    decay_rate: float = 0.1,
    milestones: Sequence[float] = (),
    pct_start: float = 0.3,
    div_factor: float = 25.0,
    final_div_factor: float = 1e4,
) -> Schedule:
    """The factor of the learning rate at each optimizer step.

    Args:
        name: one of :data:`SCHEDULES`. step: ``decay_rate`` every ``decay_epochs``; multistep: at each of
            ``milestones``; exponential: after every epoch; cosine: to ``min_factor`` over the whole run, and there it
            stays; onecycle: up from 1 / ``div_factor`` during ``pct_start`` of the run, then down to that over
            ``final_div_factor``, both along a cosine; cyclic: between ``min_factor`` and 1, up during ``decay_epochs``, down
            as long; plateau: 1, see :class:`PlateauFactor`.
        steps_per_epoch: optimizer steps of an epoch.
        warmup_steps: steps that a straight line from ``warmup_start_factor`` to 1 takes, multiplied on.
        min_factor: lowest factor, of all but constant, onecycle and plateau, in [0, 1].
        milestones: epochs, rising.
    Raises:
        ConfigError: an unknown name, or settings that contradict each other.
    Source: the formulas of torch.optim.lr_scheduler.
    """
    total = max(1, steps_per_epoch * epochs)
    if name == "onecycle":
        if warmup_steps:
            raise ConfigError(
                "one-cycle has a ramp of its own; leave the warm-up out, or set --pct-start."
            )
        return _one_cycle(
            total, pct_start, div_factor=div_factor, final_div_factor=final_div_factor
        )
    if name in ("constant", "plateau"):
        base: Schedule = _constant
    elif name == "step":
        every = max(1, round(decay_epochs * steps_per_epoch))
        base = _floored(lambda step: decay_rate ** (step // every), min_factor)
    elif name == "multistep":
        base = _floored(_multistep(milestones, steps_per_epoch, rate=decay_rate), min_factor)
    elif name == "exponential":
        base = _floored(lambda step: decay_rate ** (step // max(1, steps_per_epoch)), min_factor)
    elif name == "cosine":
        base = _cosine(total, min_factor)
    elif name == "cyclic":
        base = _cyclic(decay_epochs * steps_per_epoch, min_factor)
    else:
        raise ConfigError(
            f"--sched: there is no schedule {name!r}; choose one of {', '.join(SCHEDULES)}."
        )
    return _warmed(base, warmup_steps, start=warmup_start_factor)


class StepSchedule(LRScheduler):
    """Ignite's scheduler handler whose saved state is the number of steps and nothing else.

    The rates come from the configuration of the run that loads it, so a resumed run may change them.
    """

    def state_dict(self) -> dict[str, Any]:
        # Not LambdaLR's own state: it holds base_lrs, and loading it would undo a changed --lr.
        return {"step": int(self.lr_scheduler.last_epoch)}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        self.lr_scheduler.last_epoch = int(state_dict["step"])


def attach_schedule(
    trainer: Engine,
    optimizer: Optimizer,
    *,
    schedule: Schedule,
    event: Any,
    plateau: "PlateauFactor | None" = None,
) -> tuple[StepSchedule, RemovableEventHandle]:
    """Sets every group's rate to its own times ``schedule(step)`` whenever ``event`` fires, then counts one step.

    Attach it before a saved optimizer state is loaded: the groups' own rates are read here.

    Args:
        event: fires once before each optimizer step: Events.ITERATION_STARTED, filtered where a step accumulates
            several micro-batches.
        plateau: its current value is multiplied on.
    Source: Ignite 0.5.5's LRScheduler agrees with torch for LambdaLR, and not for the cosine and exponential ones.
    """

    def factor(step: int) -> float:
        # Read in every step, as the plateau's value falls during the run.
        return schedule(step) * (1.0 if plateau is None else plateau.value)

    handler = StepSchedule(LambdaLR(optimizer, factor))
    # LambdaLR has applied the first factor; without the handler the rates stay as set
    for group in optimizer.param_groups:
        group["lr"] = group["initial_lr"]
    return handler, trainer.add_event_handler(event, handler)


# Of torch's ReduceLROnPlateau, beside its best value.
_PLATEAU_COUNTS = ("num_bad_epochs", "cooldown_counter", "last_epoch")


class PlateauFactor:
    """A factor that falls when a validation metric stops improving; call it with the evaluator after each evaluation.

    torch's ReduceLROnPlateau does the deciding, on a dummy rate of 1: it would set the groups' rates, which the
    warm-up multiplies too. A metric that isn't finite counts as no improvement.

    Args:
        metric_name: in ``engine.state.metrics``.
        mode: ``max`` or ``min``.
        factor: by which it falls, in (0, 1).
        patience: evaluations without improvement before the rate is lowered.
        threshold: least change that counts, absolute.
        min_factor: it doesn't fall below.
    """

    def __init__(
        self,
        metric_name: str,
        *,
        mode: str,
        factor: float = 0.1,
        patience: int = 10,
        threshold: float = 0.0,
        min_factor: float = 0.0,
    ) -> None:
        if mode not in ("max", "min"):
            raise ConfigError(f"the plateau's mode is {mode!r}; choose max or min.")
        if not 0 < factor < 1:
            raise ConfigError(f"--decay-rate is {factor}; for plateau it must lie between 0 and 1.")
        self.metric_name = metric_name
        self._optimizer = torch.optim.SGD([torch.zeros(1)], lr=1.0)
        self._scheduler = ReduceLROnPlateau(
            self._optimizer,
            mode,  # type: ignore[arg-type]
            factor=factor,
            patience=patience,
            threshold=threshold,
            threshold_mode="abs",
            min_lr=float(min_factor),
            # torch's default leaves out a fall below 1e-8: a floor under that would not be reached.
            eps=0.0,
        )

    @property
    def value(self) -> float:
        return float(self._optimizer.param_groups[0]["lr"])

    @value.setter
    def value(self, value: float) -> None:
        self._optimizer.param_groups[0]["lr"] = float(value)

    def __call__(self, engine: Engine) -> None:
        metric = as_number(monitored_value(engine, self.metric_name))
        if metric is None or not math.isfinite(metric):
            # An infinite score could never be improved on; NaN compares as worse than everything.
            metric = math.nan
        self._scheduler.step(metric)

    def state_dict(self) -> dict[str, float | int]:
        # Not torch's state_dict: it also holds factor and patience, which belong to the
        # configuration.
        counts = {name: int(getattr(self._scheduler, name)) for name in _PLATEAU_COUNTS}
        return {"value": self.value, "best": float(self._scheduler.best), **counts}

    def load_state_dict(self, state: Mapping[str, float | int]) -> None:
        self.value = state["value"]
        self._scheduler.best = float(state["best"])
        for name in _PLATEAU_COUNTS:
            setattr(self._scheduler, name, int(state[name]))


def _constant(step: int) -> float:
    return 1.0


def _floored(schedule: Schedule, least: float) -> Schedule:
    return lambda step: max(least, schedule(step))


def _warmed(schedule: Schedule, warmup_steps: int, *, start: float) -> Schedule:
    if warmup_steps <= 0:
        return schedule
    return lambda step: schedule(step) * (start + (1 - start) * min(1.0, step / warmup_steps))


def _multistep(milestones: Sequence[float], steps_per_epoch: int, *, rate: float) -> Schedule:
    marks = [round(epoch * steps_per_epoch) for epoch in milestones]
    if not marks or marks != sorted(marks) or marks[0] < 0:
        raise ConfigError(
            f"--milestones are {list(milestones)}; multistep needs one or more epochs in rising order."
        )
    # To the right: the rate falls in the milestone's own step, as in torch's MultiStepLR.
    return lambda step: float(rate ** bisect.bisect_right(marks, step))


def _cosine(total: int, least: float) -> Schedule:
    return lambda step: least + (1 - least) * (1 + math.cos(math.pi * min(step, total) / total)) / 2


def _cyclic(up: float, least: float) -> Schedule:
    if up <= 0:
        raise ConfigError(f"a cycle rises for {up:g} steps; it must rise for more than 0.")

    def factor(step: int) -> float:
        at = step % (2 * up)
        return least + (1 - least) * (at if at <= up else 2 * up - at) / up

    return factor


def _one_cycle(
    total: int, pct_start: float, *, div_factor: float, final_div_factor: float
) -> Schedule:
    low, end = 1 / div_factor, 1 / div_factor / final_div_factor
    # Counted as torch.optim.lr_scheduler.OneCycleLR does, whose step numbers begin at 0.
    peak, last = max(0.0, pct_start * total - 1), max(1.0, total - 1.0)

    def slope(start: float, stop: float, *, share: float) -> float:
        return stop + (start - stop) / 2 * (1 + math.cos(math.pi * share))

    def factor(step: int) -> float:
        if step <= peak and peak > 0:
            return slope(low, 1.0, share=step / peak)
        return slope(
            1.0, end, share=min(1.0, (step - peak) / (last - peak)) if last > peak else 1.0
        )

    return factor
