"""Early stopping on the monitored metric."""

from collections.abc import Callable, Mapping
from typing import Any

from ignite.engine import Engine, Events
from ignite.handlers import EarlyStopping

from fer_ignite.errors import ConfigError
from fer_ignite.training.trainer import Trainer

__all__ = [
    "attach_early_stopping",
    "finite_score",
    "has_patience_left",
    "lower_is_better",
    "stopped_by_patience",
]


# Ends of names by which `--monitor-mode auto` decides what is better.
_FALLING = ("loss", "error")
_RISING = ("accuracy", "uar", "f1", "recall", "precision", "auc", "kappa")


def finite_score(value: float, *, lower_is_better: bool) -> float:
    """The value as a score to maximise; what is not finite is the worst score there is, never a gain."""
    # Every comparison with NaN is false: Ignite's EarlyStopping would take it for a gain and keep
    # it as the best score.
    if (
        not isinstance(value, (int, float))
        or value != value
        or value in (float("inf"), float("-inf"))
    ):
        return float("-inf")
    return -float(value) if lower_is_better else float(value)


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


def attach_early_stopping(
    trainer: Trainer,
    evaluator: Engine,
    *,
    patience: int,
    min_delta: float,
    score: Callable[[Engine], float],
) -> EarlyStopping:
    """Stops the trainer after ``patience`` evaluations without a gain of more than ``min_delta``.

    Source: not ``EarlyStopping.attach``, which resets the counter at every evaluation (Ignite 0.5.5).
    """
    stopper = EarlyStopping(patience, score, trainer, threshold=min_delta)
    # Ignite's own line would stand in the middle of the epoch table; the run's last lines say why
    # it ended.
    stopper.logger.setLevel("WARNING")
    evaluator.add_event_handler(Events.COMPLETED, stopper)
    return stopper


def stopped_by_patience(checkpoint: Mapping[str, Any]) -> bool:
    """Whether the run of a resume point was stopped by its early stopping, and not by a handler of its user's."""
    patience, state = checkpoint["config"].get("patience", 0), checkpoint["early_stopping"]
    return (
        checkpoint["outcome"] == "early_stopped"
        and state is not None
        and 0 < patience <= state["counter"]
    )


def has_patience_left(checkpoint: Mapping[str, Any], patience: int) -> bool:
    """Whether a run that its early stopping ended continues under another patience.

    Args:
        patience: evaluations without a gain that are allowed now; 0 for any number.
    """
    return (
        stopped_by_patience(checkpoint)
        and not 0 < patience <= checkpoint["early_stopping"]["counter"]
    )
