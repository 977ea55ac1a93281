"""Early stopping on the monitored metric."""

from collections.abc import Callable, Mapping
from typing import Any

from ignite.engine import Engine, Events
from ignite.handlers import EarlyStopping

from fer_ignite.training.trainer import Trainer

__all__ = ["attach_early_stopping", "has_patience_left", "stopped_by_patience"]


def attach_early_stopping(
    trainer: Trainer,
    evaluator: Engine,
    *,
    patience: int,
    min_delta: float,
    score: Callable[[Engine], float],
    event: Any = Events.COMPLETED,
) -> EarlyStopping:
    """Stops the trainer after ``patience`` evaluations without a gain of more than ``min_delta``.

    Args:
        event: of the evaluator; fires after each evaluation that counts.
    Source: not ``EarlyStopping.attach``, which resets the counter at every evaluation (Ignite 0.5.5).
    """
    stopper = EarlyStopping(patience, score, trainer, threshold=min_delta)
    # Ignite's own line would stand in the middle of the epoch table; the run's last lines say why
    # it ended.
    stopper.logger.setLevel("WARNING")
    evaluator.add_event_handler(event, stopper)
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
