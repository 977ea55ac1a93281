"""Exponential moving average of the weights, updated after each optimizer step."""

from ignite.engine import Engine
from ignite.engine.events import RemovableEventHandle
from ignite.handlers import EMAHandler
from torch import nn

from fer_ignite.training.events import StepEvents

__all__ = ["attach_ema", "make_ema"]


def make_ema(model: nn.Module, *, decay: float) -> EMAHandler:
    """Ignite's EMA; ``.ema_model`` is what evaluation uses.

    Floating-point buffers (batch statistics) are averaged too: taken over as they are, they would not fit the averaged
    weights. ``handle_buffers="copy"`` would moreover let both networks share them (Ignite 0.5.5).

    Args:
        decay: share of the old average that is kept at each optimizer step, in (0, 1).
    """
    return EMAHandler(model, momentum=1.0 - decay, handle_buffers="update")


def attach_ema(trainer: Engine, ema: EMAHandler) -> RemovableEventHandle:
    """OPTIMIZER_STEPPED: the average takes its share of the new weights."""
    ema.attach(
        trainer, name="ema_momentum", warn_if_exists=False, event=StepEvents.OPTIMIZER_STEPPED
    )
    # a handle holds its handler weakly, and a method is a new object each time
    ema.update = ema._update_ema_model
    return RemovableEventHandle(StepEvents.OPTIMIZER_STEPPED, ema.update, trainer)
