"""The monitored metric (``--monitor``): its direction, its value, and the score that is maximised."""

import math
from collections.abc import Callable
from typing import Any

from ignite.engine import Engine

from fer_ignite.errors import ConfigError
from fer_ignite.metrics.scalars import as_number, scalar_metrics

__all__ = ["finite_score", "lower_is_better", "monitor_score", "monitored_value"]


# Ends of names by which `--monitor-mode auto` decides what is better.
_FALLING = ("loss", "error")
_RISING = ("accuracy", "uar", "f1", "recall", "precision", "auc", "kappa")


def lower_is_better(metric: str, mode: str = "auto") -> bool:
    """Whether less of a metric is better.

    Args:
        mode: ``min`` or ``max`` say so; ``auto`` goes by the name: a loss or an error, or one of the scores that grow.
    Raises:
        ConfigError: the name alone doesn't tell.
    """
    if mode != "auto":
        return mode == "min"
    if metric.endswith(_FALLING):
        return True
    if metric.endswith(_RISING):
        return False
    raise ConfigError(
        f"--monitor {metric!r}: its name doesn't tell whether more of it is better; add --monitor-mode max, or min."
    )


def finite_score(value: Any, *, lower_is_better: bool) -> float:
    """The value as a score to maximise; what is not one finite number is the worst score there is, never a gain."""
    number = as_number(value)
    # Every comparison with NaN is false: Ignite's EarlyStopping would take it for a gain and keep
    # it as the best score.
    if number is None or not math.isfinite(number):
        return -math.inf
    return -number if lower_is_better else number


def monitored_value(engine: Engine, name: str) -> Any:
    """The metric of that name after a run of the evaluator.

    Raises:
        ConfigError: the evaluation has no such metric.
    """
    metrics = engine.state.metrics
    if name not in metrics:
        raise ConfigError(
            f"--monitor {name!r} is no metric of the evaluation; there are {', '.join(scalar_metrics(metrics))}."
        )
    return metrics[name]


def monitor_score(monitor: str, mode: str) -> Callable[[Engine], float]:
    """(evaluator after a run) -> the monitored metric as a score to maximise.

    Args:
        mode: see :func:`lower_is_better`.
    """
    falls = lower_is_better(monitor, mode)
    return lambda engine: finite_score(monitored_value(engine, monitor), lower_is_better=falls)
