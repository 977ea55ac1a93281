"""An average of the weights, updated after each optimizer step, with its handle in the user's hand."""

from ignite.engine import Engine
from ignite.handlers import EMAHandler
from torch import nn

from fer_ignite.training.events import StepEvents

__all__ = ["attach_ema"]


def attach_ema(trainer: Engine, model: nn.Module, *, decay: float) -> EMAHandler:
    """Ignite's EMA on OPTIMIZER_STEPPED; ``.ema_model`` is what evaluation uses.

    Floating-point buffers (batch statistics) are averaged too: taken over as they are, they would not fit the averaged
    weights. ``handle_buffers="copy"`` would moreover let both networks share them (Ignite 0.5.5).

    Args:
        decay: share of the old average that is kept at each optimizer step, in (0, 1).
    """
    ema = EMAHandler(model, momentum=1.0 - decay, handle_buffers="update")
    ema.attach(trainer, name="ema_momentum", warn_if_exists=False, event=StepEvents.OPTIMIZER_STEPPED)
    return ema
