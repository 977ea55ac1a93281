"""The events of a run beyond Ignite's own, in one table: event, when it fires, payload, counter, built-in listeners.

The documentation's event map is made from :data:`EVENT_TABLE`; nothing else lists these facts.
"""

from dataclasses import dataclass

from ignite.engine import EventEnum

__all__ = ["EVENT_TABLE", "EventFacts", "RunEvents", "StepEvents"]


class StepEvents(EventEnum):
    """The parts of an optimizer step. The process function computes the loss; all the rest are handlers."""

    LOSS_READY = "loss_ready"
    GRADIENTS_READY = "gradients_ready"
    OPTIMIZER_STEP = "optimizer_step"
    OPTIMIZER_STEPPED = "optimizer_stepped"


class RunEvents(EventEnum):
    """What happens to a run as a whole."""

    VALIDATED = "validated"
    REPORT = "report"
    RESUME_POINT = "resume_point"


@dataclass(frozen=True)
class EventFacts:
    """One row of the event map."""

    event: EventEnum
    fires: str
    payload: str
    counter: str
    built_in: tuple[str, ...]


EVENT_TABLE = (
    EventFacts(
        StepEvents.LOSS_READY,
        "after each micro-batch's forward pass",
        "state.loss (scalar with its graph, weighted by the window's count), state.output, state.batch",
        "iteration",
        ("backward",),
    ),
    EventFacts(
        StepEvents.GRADIENTS_READY,
        "when an accumulation window closes, the short last one too; gradients are summed over processes",
        "parameters' .grad; listeners leave state.grad_norm and state.step_taken on the device",
        "optimizer_steps",
        ("unscale", "gradient_norm", "clip"),
    ),
    EventFacts(
        StepEvents.OPTIMIZER_STEP,
        "then, also for a window whose gradients are not finite",
        "state.step_taken (device flag, 0 or 1)",
        "optimizer_steps",
        ("optimizer_step",),
    ),
    EventFacts(
        StepEvents.OPTIMIZER_STEPPED,
        "after the optimizer",
        "state.step_taken, state.grad_norm, state.skipped_steps (device counts)",
        "optimizer_steps",
        ("sound_statistics", "ema", "zero_grad", "note_step"),
    ),
    EventFacts(
        RunEvents.VALIDATED,
        "behind the validation and all other handlers of EPOCH_COMPLETED, when all metrics stand in evaluator.state.metrics",
        "evaluator.state.metrics",
        "epoch",
        (),
    ),
    EventFacts(
        RunEvents.REPORT,
        "then, when all that was logged in the epoch is reduced over processes",
        "session.history_line(), session.records.epoch()",
        "epoch",
        ("history", "plots", "tensorboard_val", "tensorboard_train"),
    ),
    EventFacts(
        RunEvents.RESUME_POINT,
        "every save_epochs epochs, save_minutes minutes or save_iterations iterations, and before a run stops; always "
        "on a closed window",
        "none",
        "iteration",
        ("fold", "tensorboard_flush", "resume_points"),
    ),
)
