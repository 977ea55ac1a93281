"""Optimizer step as handlers: backward, unscale, gradient norm, clip, step, zero_grad.

Each ``attach_*`` adds one behaviour and returns its handle; a user takes one off with ``handle.remove()`` and attaches
another in its place. Nothing here waits for the device, except where an optimizer can't skip a step by itself
(:func:`fer_ignite.training.optim.skips_on_device`).
"""

import torch
from ignite.engine import Engine, Events
from ignite.engine.events import RemovableEventHandle
from torch import Tensor, nn
from torch.amp.grad_scaler import OptState
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim import Optimizer

from fer_ignite.errors import ConfigError
from fer_ignite.training.events import StepEvents
from fer_ignite.training.optim import skips_on_device

__all__ = [
    "attach_backward",
    "attach_batchnorm_guard",
    "attach_clip",
    "attach_gradient_norm",
    "attach_optimizer_step",
    "attach_unscale",
    "attach_unused_parameter_check",
    "attach_zero_grad",
    "make_scaler",
]


def make_scaler(device: torch.device, precision: str) -> torch.amp.GradScaler:
    """A loss scaler, enabled for ``fp16`` only: bfloat16 has float32's range."""
    return torch.amp.GradScaler(device.type, enabled=precision == "fp16")


def attach_backward(trainer: Engine, scaler: torch.amp.GradScaler) -> RemovableEventHandle:
    """LOSS_READY: backward through ``state.loss``, scaled where the scaler is on."""

    def backward(engine: Engine) -> None:
        # A scaler that is off returns the loss itself, so that all precisions share this line.
        scaler.scale(engine.state.loss).backward()

    return trainer.add_event_handler(StepEvents.LOSS_READY, backward)


def attach_unused_parameter_check(trainer: Engine, model: nn.Module) -> RemovableEventHandle:
    """GRADIENTS_READY, first: refuses parameters without a gradient, for a network in DistributedDataParallel.

    DDP reduces a bucket of gradients when all of it are there: beside an unused parameter, used ones keep the gradients of
    their own process, and the next forward pass raises a RuntimeError.

    Args:
        model: the bare network.
    Raises:
        ConfigError: in the run, with the ``--freeze`` that helps.
    """
    trained = [(name, p) for name, p in model.named_parameters() if p.requires_grad]

    def check_gradients(engine: Engine) -> None:
        unused = [name for name, p in trained if p.grad is None]
        # None has one: the optimizer step has the sentence for that.
        if unused and len(unused) < len(trained):
            names = ",".join(_as_modules(unused, model))
            raise ConfigError(
                f"no gradient reached {names}, and several processes need one for every trained parameter: use these in every "
                f"forward pass, leave them out with --freeze {names}, or train in one process (--nproc 1)."
            )

    return trainer.add_event_handler(StepEvents.GRADIENTS_READY, check_gradients)


def _as_modules(unused: list[str], model: nn.Module) -> list[str]:
    """Names of the outermost modules whose parameters are all among ``unused``, and of the parameters beside these."""
    left, found = dict.fromkeys(unused), []
    for prefix, module in model.named_modules():
        own = [f"{prefix}.{name}" for name, p in module.named_parameters() if p.requires_grad]
        if own and all(name in left for name in own):
            found.append(prefix)
            for name in own:
                del left[name]
    return [*found, *left]


def attach_unscale(
    trainer: Engine, optimizer: Optimizer, *, scaler: torch.amp.GradScaler
) -> RemovableEventHandle:
    """GRADIENTS_READY: gradients in their true size, before any handler reads them.

    Raises:
        ConfigError: in the run, if the scaler was not updated after the last optimizer step.
    """

    def unscale(engine: Engine) -> None:
        if scaler.is_enabled() and not _is_scaled(optimizer, scaler):
            raise ConfigError(
                "the loss scaler was not updated after the last optimizer step: a handler that replaces optimizer_step has to "
                "call session.scaler.step(session.optimizer), then session.scaler.update()."
            )
        _unscale(optimizer, scaler)

    return trainer.add_event_handler(StepEvents.GRADIENTS_READY, unscale)


def _unscale(optimizer: Optimizer, scaler: torch.amp.GradScaler) -> None:
    # torch's own error for their absence names an internal of the scaler
    _require_gradients(optimizer)
    scaler.unscale_(optimizer)


def _require_gradients(optimizer: Optimizer) -> None:
    if all(p.grad is None for group in optimizer.param_groups for p in group["params"]):
        raise ConfigError(
            "no parameter has a gradient at the optimizer step: a handler that replaces backward has to call "
            "session.scaler.scale(engine.state.loss).backward() on StepEvents.LOSS_READY."
        )


def _is_scaled(optimizer: Optimizer, scaler: torch.amp.GradScaler) -> bool:
    """Whether the gradients still carry the scaler's factor, whichever handler may have unscaled them."""
    if not scaler.is_enabled():
        return False
    # torch has no public call for it
    return scaler._per_optimizer_states[id(optimizer)]["stage"] is OptState.READY


def attach_gradient_norm(
    trainer: Engine, model: nn.Module, *, optimizer: Optimizer, scaler: torch.amp.GradScaler
) -> RemovableEventHandle:
    """GRADIENTS_READY: ``state.grad_norm`` (2-norm over all gradients) and from it ``state.step_taken``, on the device.

    Gradients that are still scaled are unscaled first.
    """

    def gradient_norm(engine: Engine) -> None:
        if _is_scaled(optimizer, scaler):
            _unscale(optimizer, scaler)
        engine.state.grad_norm = _total_norm(model)
        # The norm is not finite as soon as one gradient is not, so one number is tested instead of all.
        engine.state.step_taken = torch.isfinite(engine.state.grad_norm)

    return trainer.add_event_handler(StepEvents.GRADIENTS_READY, gradient_norm)


def _total_norm(model: nn.Module) -> Tensor:
    # Stays on the device; clip_grad_norm_(error_if_nonfinite=True) would wait for it.
    return nn.utils.get_total_norm([p.grad for p in model.parameters() if p.grad is not None])


def attach_clip(
    trainer: Engine,
    model: nn.Module,
    *,
    limit: float,
    mode: str,
    optimizer: Optimizer,
    scaler: torch.amp.GradScaler,
) -> RemovableEventHandle:
    """GRADIENTS_READY: gradients clipped at ``limit`` by total ``norm`` or by ``value``.

    Takes ``state.grad_norm`` where it was measured in this optimizer step, and measures the norm itself where it was not.
    Gradients that are still scaled are unscaled first.
    """
    parameters = [p for p in model.parameters() if p.requires_grad]

    def clip(engine: Engine) -> None:
        if _is_scaled(optimizer, scaler):
            _unscale(optimizer, scaler)
        if mode == "norm":
            measured = engine.state.grad_norm
            # Not clip_grad_norm_, which would measure the norm a second time.
            nn.utils.clip_grads_with_norm_(
                parameters, limit, _total_norm(model) if measured is None else measured
            )
        else:
            nn.utils.clip_grad_value_(parameters, limit)

    return trainer.add_event_handler(StepEvents.GRADIENTS_READY, clip)


def attach_optimizer_step(
    trainer: Engine, optimizer: Optimizer, *, scaler: torch.amp.GradScaler
) -> RemovableEventHandle:
    """OPTIMIZER_STEP: one step, unless gradients are not finite; the scaler is updated in either case.

    Raises:
        ConfigError: in the run, if no parameter has a gradient.
    """

    def optimizer_step(engine: Engine) -> None:
        _require_gradients(optimizer)
        if scaler.is_enabled():
            # The scaler skips non-finite gradients by itself, and lowers its scale in update().
            scaler.step(optimizer)
            scaler.update()
        else:
            conditional_step(optimizer, engine.state.step_taken)
        # Both are tensors on the device: counting does not wait for it.
        engine.state.skipped_steps += ~engine.state.step_taken

    return trainer.add_event_handler(StepEvents.OPTIMIZER_STEP, optimizer_step)


def conditional_step(optimizer: Optimizer, taken: Tensor) -> None:
    """Steps where ``taken`` (a flag on the device) is true; parameters and state stay untouched otherwise.

    Source: torch's fused optimizers read ``found_inf`` inside the kernel; the others need the flag on the host.
    """
    if skips_on_device(optimizer):
        # The names under which torch's GradScaler passes them; fused kernels read found_inf on the device.
        optimizer.grad_scale = None  # type: ignore[attr-defined]
        optimizer.found_inf = (~taken).to(torch.float32)  # type: ignore[attr-defined]
        try:
            optimizer.step()
        finally:
            # Every step reads found_inf: left behind, a 1 would make a user's own optimizer.step()
            # do nothing.
            del optimizer.found_inf, optimizer.grad_scale  # type: ignore[attr-defined]
    elif bool(taken):
        optimizer.step()


def attach_batchnorm_guard(trainer: Engine, model: nn.Module) -> RemovableEventHandle:
    """OPTIMIZER_STEPPED: batch statistics that are not finite go back to what they were a step before.

    A forward pass that overflows leaves its mark in them although its step is not taken, and no later batch removes it.
    The statistics are joined into one tensor per type, so that the number of kernels does not grow with the network's depth.
    """
    statistics = [
        b
        for m in model.modules()
        if isinstance(m, _BatchNorm)
        for b in (m.running_mean, m.running_var)
        if b is not None
    ]
    by_type = [
        [b for b in statistics if b.dtype == dtype] for dtype in {b.dtype: None for b in statistics}
    ]
    sound: list[Tensor] = []

    def begin(engine: Engine) -> None:
        sound[:] = [torch.cat([buffer.flatten() for buffer in buffers]) for buffers in by_type]

    def keep_sound(engine: Engine) -> None:
        for number, buffers in enumerate(by_type):
            now = torch.cat([buffer.flatten() for buffer in buffers])
            # Element by element and without a branch: the host never learns whether anything was replaced.
            sound[number] = torch.where(now.isfinite(), now, sound[number])
            parts = sound[number].split([buffer.numel() for buffer in buffers])
            torch._foreach_copy_(
                buffers, [part.view_as(buffer) for part, buffer in zip(parts, buffers, strict=True)]
            )

    # At STARTED, when a resumed run has loaded its statistics.
    trainer.add_event_handler(Events.STARTED, begin)
    return trainer.add_event_handler(StepEvents.OPTIMIZER_STEPPED, keep_sound)


def attach_zero_grad(trainer: Engine, optimizer: Optimizer) -> RemovableEventHandle:
    """OPTIMIZER_STEPPED: gradients are released before the next accumulation group."""

    def zero_grad(engine: Engine) -> None:
        # None instead of zeros: the next backward writes instead of adding, and a missing backward is noticed.
        optimizer.zero_grad(set_to_none=True)

    return trainer.add_event_handler(StepEvents.OPTIMIZER_STEPPED, zero_grad)
