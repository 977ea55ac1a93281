"""Sharpness-aware minimisation (SAM): the gradient of the step is taken at the worst point nearby."""

from collections.abc import Callable
from typing import Any

import torch
from ignite.engine import Engine
from ignite.engine.events import RemovableEventHandle
from torch import Tensor, nn

from fer_ignite.training.events import StepEvents
from fer_ignite.training.trainer import Trainer

__all__ = ["attach_sam"]


def attach_sam(
    trainer: Trainer, model: nn.Module, *, rho: float, reseed: Callable[[Engine], Any]
) -> RemovableEventHandle:
    """GRADIENTS_READY, first: replaces the gradients by those of a second pass at weights + rho * gradient / norm.

    The weights and the buffers (batch statistics) are put back bit for bit. The second pass draws the same dropout masks. Twice
    the work per step. The gradients are summed over processes in both passes, so each process moves the same way.

    Source: Foret et al., Sharpness-aware minimization for efficiently improving generalization (2021).

    Args:
        model: the bare network.
        rho: length of the way to the worst point, as 2-norm over all weights.
        reseed: sets the random state of the iteration's forward pass.
    """

    def sharpness_aware(engine: Engine) -> None:
        moved: list[Tensor] = [p for p in model.parameters() if p.grad is not None]
        if not moved:  # the optimizer step has the sentence for that
            return
        gradients = [p.grad for p in moved if p.grad is not None]
        with torch.no_grad():
            # Copies instead of subtracting the step again, which rounding would not undo exactly.
            weights = [p.detach().clone() for p in moved]
            buffers = [b.clone() for b in model.buffers()]
            # Gradients that are not finite make the second pass's NaN, and gradient_norm then
            # leaves the step out.
            scale = rho / nn.utils.get_total_norm(gradients).clamp_min(1e-12)
            for parameter, gradient in zip(moved, gradients, strict=True):
                parameter.addcmul_(gradient, scale)
        # The gradients of the first pass must not be added to those of the second.
        for parameter in moved:
            parameter.grad = None
        reseed(engine)
        # Without the loss scaler and for one batch: the configuration refuses SAM with fp16 and
        # with accumulation.
        trainer.compute_loss(engine.state.batch)[0].backward()
        with torch.no_grad():
            torch._foreach_copy_(moved, weights)
            for buffer, kept in zip(model.buffers(), buffers, strict=True):
                buffer.copy_(kept)

    return trainer.add_event_handler(StepEvents.GRADIENTS_READY, sharpness_aware)
