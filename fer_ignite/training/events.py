"""Events of a run beyond Ignite's own: when each fires, its payload, counter and built-in listeners.

The documentation's event map is made from :data:`EVENT_TABLE`; nothing else lists these facts.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from ignite.engine import EventEnum

__all__ = ["EVENT_TABLE", "REMOVAL_EFFECTS", "EventFacts", "RunEvents", "StepEvents"]


# Ignite 0.5.5 compares events by name, so no event here may be called as one of Ignite's own.
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
        "state.loss (scalar with its graph, weighted by the accumulation group's count), state.output (y_pred: logits, y: labels, targets, "
        "losses), state.batch",
        "iteration",
        ("backward",),
    ),
    EventFacts(
        StepEvents.GRADIENTS_READY,
        "after the last micro-batch of an accumulation group, the short last group too; gradients are summed over processes",
        "parameters' .grad; listeners leave state.grad_norm (None before) and state.step_taken (true before) on the device",
        "optimizer_steps",
        ("unused_parameters", "sam", "unscale", "gradient_norm", "clip"),
    ),
    EventFacts(
        StepEvents.OPTIMIZER_STEP,
        "then, also for a group whose gradients are not finite",
        "state.step_taken (device flag, 0 or 1)",
        "optimizer_steps",
        ("optimizer_step",),
    ),
    EventFacts(
        StepEvents.OPTIMIZER_STEPPED,
        "after the optimizer",
        "state.step_taken, state.grad_norm, state.skipped_steps (device counts)",
        "optimizer_steps",
        ("batchnorm_guard", "ema", "zero_grad", "record_step_taken"),
    ),
    EventFacts(
        RunEvents.VALIDATED,
        "behind the validation and all other handlers of EPOCH_COMPLETED, when all metrics stand in session.val_metrics",
        "session.val_metrics",
        "epoch",
        (),
    ),
    EventFacts(
        RunEvents.REPORT,
        "then, when all that was logged in the epoch is reduced over processes",
        "session.history_line(), session.running_metrics.epoch()",
        "epoch",
        (
            "history",
            "plots",
            "tensorboard_val",
            "tensorboard_train",
            "tensorboard_recall",
            "tensorboard_curves",
            "tensorboard_confusion",
            "tensorboard_lr",
        ),
    ),
    EventFacts(
        RunEvents.RESUME_POINT,
        "every save_epochs epochs, save_minutes minutes or save_iterations iterations, and before a run stops; always "
        "after an accumulation group",
        "none",
        "iteration",
        ("reduce_metrics", "tensorboard_flush", "resume_points"),
    ),
)

# What a run does differently without each handler of ``session.handles``; nothing else changes.
REMOVAL_EFFECTS: Mapping[str, str] = {
    "reseed": "Dropout and other randomness of the network depend on the global random state, so a resumed run differs.",
    "scheduler": "Learning rates stay as set, by --lr, --backbone-lr and --head-lr; a resumed run has the checkpoint's.",
    "plateau": "The plateau schedule never lowers the rate.",
    "train_mode": "Nothing sets the training mode: the network stays in the mode it is in, frozen batch normalisations too.",
    "backward": "No gradients: unless your own handler computes them, the optimizer step raises a ConfigError.",
    "unused_parameters": "With several processes, a parameter that the loss does not depend on ends the run with torch's RuntimeError; "
    "gradients beside it are not summed over processes.",
    "sam": "The gradient is taken at the weights themselves, as without --sam-rho.",
    "unscale": "None without fp16. With fp16, the first handler that needs the gradients unscales them.",
    "gradient_norm": "`state.grad_norm` is None and not logged; non-finite gradients are not found (fp16's scaler still skips them, "
    "not counted in `skipped_steps`). Clipping measures its own norm.",
    "clip": "Gradients are not clipped.",
    "optimizer_step": "Weights do not change. With fp16, your own handler has to step and update the scaler, or the next step raises "
    "a ConfigError.",
    "batchnorm_guard": "Batch statistics that became non-finite stay so.",
    "ema": "Refused: the evaluation uses the average of the weights.",
    "swa": "Refused: the evaluation uses the average of the weights.",
    "zero_grad": "Gradients add up over optimizer steps. Refused with fp16.",
    "clear_metrics": "The epoch's sums continue over the whole run.",
    "log_step": "`step_loss` and `grad_norm` are not logged.",
    "update_metrics": "The epoch's line has no `train_` columns.",
    "flush_metrics": "Logged values are handed on at the epoch's end only.",
    "reduce_metrics": "None for a run without resume points; refused while the handler resume_points is attached.",
    "validate": "No validation: no `val_` columns, no best.pt, no early stopping, no plateau.",
    "history": "history.jsonl and results.csv are not written, nor the epoch's line on the terminal.",
    "plots": "No pictures are drawn during the run.",
    "tensorboard_val": "No scalars under `val/`.",
    "tensorboard_train": "No scalars under `train/`.",
    "tensorboard_recall": "No scalars under `recall/`.",
    "tensorboard_curves": "No precision-recall curves in TensorBoard.",
    "tensorboard_confusion": "No confusion matrices in TensorBoard.",
    "tensorboard_lr": "No scalars under `lr/`.",
    "tensorboard_flush": "Scalars may be lost when the process is killed.",
    "top": "No checkpoints of further good epochs (--keep-best).",
    "best": "No best.pt; the last network is scored at the end.",
    "early_stopping": "The run does not stop early.",
    "resume_points": "No resume points and no last.pt.",
    "report": "VALIDATED and REPORT do not fire: nothing of the epoch is written or shown.",
    "record_step_taken": "Steps that were not taken do not end the run (--nonfinite-patience).",
    "sync_iteration": "The run is saved and stopped at the ends of epochs only.",
    "sync_epoch": "The run is saved and stopped within epochs only; no resume point at an epoch's end.",
}
