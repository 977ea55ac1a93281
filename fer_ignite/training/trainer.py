"""Trainer and evaluator engines; the process function computes the loss, handlers do the rest."""

# Dimensions: B images of this process's slice, C channels, H W pixels, K expressions, V views.

import contextlib
import logging
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import torch
from ignite.engine import Engine, Events, State
from torch import Tensor, nn

from fer_ignite.data.augment.tta import iter_tta_views
from fer_ignite.data.loader import Batch, EvalBatch
from fer_ignite.errors import ConfigError
from fer_ignite.training.distillation import Distillation
from fer_ignite.training.events import EVENT_TABLE, StepEvents
from fer_ignite.training.precision import autocast

__all__ = ["Trainer", "create_evaluator", "create_trainer", "share_of_mean_loss"]

AnyEngine = TypeVar("AnyEngine", bound=Engine)
Terms = Callable[[Tensor, Tensor], Mapping[str, Tensor]]


class Trainer(Engine):
    """An Ignite engine whose :meth:`terminate` requests a stop; all ranks stop at the same iteration.

    A process that left alone would leave the others waiting in their next collective. Handlers call ``terminate()``
    as on any engine; :mod:`fer_ignite.training.coordination` reduces the requests and calls :meth:`stop_now` on every
    process at the same iteration.
    """

    inside_epoch = False  # set by whoever resumes in the middle of an epoch
    compute_loss: Callable[
        [Batch], tuple[Tensor, dict[str, Any]]
    ]  # a micro-batch's loss with its graph, and the output

    def terminate(self, skip_completed: bool = False) -> None:
        self.state.stop_requested = True

    def terminate_epoch(self) -> None:
        """Refused: the epochs of all processes have the same length, so that a run can continue from any iteration.

        Raises:
            ConfigError: always.
        """
        raise ConfigError(
            "terminate_epoch() and interrupt() would leave the other processes waiting; call session.stop()."
        )

    def interrupt(self) -> None:
        """Refused, as :meth:`terminate_epoch` is."""
        self.terminate_epoch()

    def stop_now(self) -> None:
        """Leave after the current event; to be called by all processes at the same iteration."""
        super().terminate()

    def _fire_event(self, event_name: Any, *event_args: Any, **event_kwargs: Any) -> None:
        # An epoch that continues after a resume has had its EPOCH_STARTED; once-per-epoch handlers must not run twice.
        # Ignite fires it again (engine.py, _internal_run_as_gen) and offers no way to say so.
        if event_name == Events.EPOCH_STARTED and self.inside_epoch:
            self.inside_epoch = False
            return
        super()._fire_event(event_name, *event_args, **event_kwargs)


def quiet(engine: AnyEngine) -> AnyEngine:
    """The engine with its own log off: every error is reported once, by whoever started the run."""
    # A logger of its own: Ignite's has the class's name, and is that of every other Engine of the process.
    engine.logger = logging.getLogger("fer_ignite.engines")
    engine.logger.setLevel(logging.CRITICAL)
    return engine


def create_trainer(
    model: nn.Module,
    terms: Terms,
    *,
    device: torch.device,
    precision: str,
    world: int = 1,
    distillation: Distillation | None = None,
) -> Trainer:
    """A trainer that computes the loss of each :class:`Batch` and fires the step's events.

    Args:
        model: in training mode, wrapped for several processes where there are any.
        terms: (logits_BK, targets_BK) -> {name: losses_B}; the entry ``"loss"`` is what is minimised.
        precision: fp32, fp16 or bf16.
        world: processes; DistributedDataParallel averages gradients over them, so the sum is scaled back.
        distillation: adds a teacher's term to the loss.
    Returns:
        An engine with ``state.loss`` (scalar with graph) while the step runs, and as output the dict
        ``{"y_pred": logits [B, K] float32, "y": labels [B] int64, "targets": [B, K] float32, "losses": {name: [B]},
        "loss": mean over this process's slice, "count": B, "criterion_kwargs": {}}``, detached; the last is for Ignite's
        ``Loss``. A mixed image has the label of its larger part.
        ``state.optimizer_steps`` counts accumulation groups, ``state.skipped_steps`` those not taken. From GRADIENTS_READY on,
        ``state.grad_norm`` is None until a handler has measured it, and ``state.step_taken`` is true until one has found
        gradients that are not finite.
    """

    # One tensor for all steps, so that no step fills a new one; handlers replace state.step_taken
    # and never write into it.
    taken = torch.ones((), dtype=torch.bool, device=device)

    def compute_loss(batch: Batch) -> tuple[Tensor, dict[str, Any]]:
        with autocast(device, precision):
            logits_BK = model(batch.images_BCHW)
        # The loss in float32: softmax over bfloat16 logits has 8 bits of precision.
        logits_BK = logits_BK.float()
        losses = terms(logits_BK, batch.targets_BK)
        if distillation is not None:
            losses = distillation(losses, logits_BK, images_BCHW=batch.images_BCHW)
        # Divided by the images of the whole optimizer step, so that neither accumulation nor uneven slices change it.
        loss = (losses["loss"] * batch.weights_B).sum() * (world / batch.step_size)
        return loss, _output(batch, logits_BK, losses=losses)

    def train_step(engine: Engine, batch: Batch) -> dict[str, Any]:
        # DDP reduces gradients in each backward; within an accumulation group once, in the last, is enough.
        waits = isinstance(model, nn.parallel.DistributedDataParallel) and not batch.is_last_micro
        # The forward pass too: outside of no_sync() DDP would prepare the reduction there, and
        # reduce all the same.
        with model.no_sync() if waits else contextlib.nullcontext():  # type: ignore[operator]
            engine.state.loss, output = compute_loss(batch)
            # Ignite sets it after the process function has returned; the handlers of the step read
            # it before.
            engine.state.output = output
            engine.fire_event(StepEvents.LOSS_READY)
        # Without its graph: state.loss would otherwise keep the activations until the next step.
        engine.state.loss = engine.state.loss.detach()
        if batch.is_last_micro:
            engine.state.optimizer_steps += 1
            # of this step, never of an earlier one
            engine.state.grad_norm, engine.state.step_taken = (None, taken)
            engine.fire_event(StepEvents.GRADIENTS_READY)
            engine.fire_event(StepEvents.OPTIMIZER_STEP)
            engine.fire_event(StepEvents.OPTIMIZER_STEPPED)
        return output

    trainer = quiet(Trainer(train_step))
    trainer.compute_loss = compute_loss
    # Ignite needs a counter for each event: without one, the first filtered handler (every=, once=)
    # raises when it fires.
    counters: dict[Any, str] = {facts.event: facts.counter for facts in EVENT_TABLE}
    trainer.register_events(*counters, event_to_attr=counters)
    trainer.state.optimizer_steps = 0
    trainer.state.stop_requested = False
    # stop_requested too: where a signal outranks a stop request, the resumed run has to find the
    # request and end at once.
    trainer.state_dict_user_keys.extend(
        ["optimizer_steps", "skipped_steps", "grad_norm", "stop_requested"]
    )
    trainer.state.skipped_steps = torch.zeros((), dtype=torch.int64, device=device)
    trainer.state.step_taken = taken
    trainer.state.grad_norm = None
    return trainer


def _output(batch: Batch, logits_BK: Tensor, *, losses: Mapping[str, Tensor]) -> dict[str, Any]:
    count = batch.count
    # Cut at count: an empty slice carries stand-ins, which weigh 0 in the loss but would count in
    # accuracy.
    terms = {name: values_B[:count].detach() for name, values_B in losses.items()}
    return {
        # The mean of no values is NaN, their sum 0.
        "loss": terms["loss"].mean() if count else terms["loss"].sum(),
        "losses": terms,
        "y_pred": logits_BK[:count].detach(),
        "y": batch.labels_B[:count],
        "targets": batch.targets_BK[:count],
        "criterion_kwargs": {},
        "count": count,
    }


def share_of_mean_loss(state: State, world: int) -> Tensor:
    """This process's part of the micro-batch's mean loss: its own sum, so scaled that the processes' mean is the mean loss.

    The slices need not be of one length; one may be empty.
    """
    total: Tensor = state.output["losses"]["loss"].sum() * (world / state.batch.micro_count)
    return total


def create_evaluator(
    model: nn.Module, terms: Terms, *, device: torch.device, precision: str, tta: str = "none"
) -> Engine:
    """An evaluator over :class:`EvalBatch`; metrics are attached to it.

    Args:
        model: not wrapped: a wrapped model's forward pass broadcasts buffers, and slices may be of unequal length.
        tta: views whose probabilities are averaged: none, flip, shift10, shift18.
    Returns:
        An engine with the output ``{"y_pred": logits [B, K] float32, "y": labels [B] int64, "targets": [B, K] float32,
        "losses": {name: [B]}, "indices": [B] int64, "criterion_kwargs": {}}``; B is 0 where this process has no share of
        the batch. With several views, the logits are the logarithm of the views' mean probabilities, so their softmax is
        that mean.
    """

    def evaluate_step(engine: Engine, batch: EvalBatch) -> dict[str, Any]:
        model.eval()
        with torch.inference_mode():
            # Without a share of this batch a process gives empty outputs; it meets the others when
            # the metrics are reduced.
            logits_BK = batch.targets_BK.new_zeros(batch.targets_BK.shape)
            if len(batch.labels_B):
                logits_BK = tta_logits(
                    model, batch.images_BCHW, device=device, precision=precision, tta=tta
                )
            losses = terms(logits_BK, batch.targets_BK)
        return {
            "y_pred": logits_BK,
            "y": batch.labels_B,
            "targets": batch.targets_BK,
            "criterion_kwargs": {},
            "losses": dict(losses),
            "indices": batch.indices_B,
        }

    return quiet(Engine(evaluate_step))


def tta_logits(
    model: nn.Module, images_BCHW: Tensor, *, device: torch.device, precision: str, tta: str
) -> Tensor:
    """float32 [B, K]: logits for one view; for several, the logarithm of the views' mean probabilities."""
    with autocast(device, precision):
        logits = [model(view_BCHW).float() for view_BCHW in iter_tta_views(images_BCHW, tta)]
    if len(logits) == 1:
        return logits[0]
    return (
        torch.stack([view_BK.softmax(dim=1) for view_BK in logits])
        .mean(dim=0)
        .clamp_min(1e-12)  # log(0) would make the loss infinite
        .log()
    )
