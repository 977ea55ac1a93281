"""Stochastic weight averaging: the plain mean of the weights at the ends of the last epochs."""

import copy
import math
from collections.abc import Collection, Iterable
from dataclasses import replace

import numpy as np
import torch
from ignite.engine import Engine
from numpy.typing import NDArray
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from fer_ignite.data.loader import EvalBatch, EvalLoader
from fer_ignite.training.optim import frozen_modules
from fer_ignite.training.precision import autocast

__all__ = ["WeightAverage", "recompute_batch_statistics", "statistics_loader"]

_STATISTICS_FACES = 8192  # FER2013's train split has 3.5 times as many


class WeightAverage:
    """The mean of the weights at the ends of the epochs from ``start`` on; before that, the newest weights.

    Its only state is the averaged network: how many epochs are in it follows from the trainer's epoch.

    Source: Izmailov et al., Averaging weights leads to wider optima and better generalization (2018).

    Attributes:
        model: the averaged network, which evaluation uses.

    Args:
        start: share of the run's epochs after which averaging begins.
        images: see :func:`statistics_loader`.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        start: float,
        epochs: int,
        images: Iterable[EvalBatch],
        device: torch.device,
        precision: str,
    ) -> None:
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self._source, self._first = model, min(epochs, math.floor(start * epochs) + 1)
        self._images, self._device, self._precision = images, device, precision

    @torch.no_grad()
    def update(self, engine: Engine) -> None:
        """EPOCH_COMPLETED, before the validation."""
        # The running mean: the k-th of the averaged epochs has the share 1 / k.
        count = engine.state.epoch - self._first + 1
        share = 1.0 if count <= 1 else 1.0 / count
        own, source = self.model.state_dict(), self._source.state_dict()
        for name, tensor in own.items():
            # num_batches_tracked is an integer, which lerp_ refuses.
            if share == 1.0 or not tensor.is_floating_point():
                tensor.copy_(source[name])
            else:
                tensor.lerp_(source[name], share)
        if count > 1:
            # Of the trained network: all parameters of the average are without gradients.
            frozen = frozen_modules(self._source)
            recompute_batch_statistics(
                self.model,
                self._images,
                device=self._device,
                precision=self._precision,
                keep={name for name, module in self._source.named_modules() if module in frozen},
            )


@torch.no_grad()
def recompute_batch_statistics(
    model: nn.Module,
    images: Iterable[EvalBatch],
    *,
    device: torch.device,
    precision: str,
    keep: Collection[str] = (),
) -> None:
    """Sets the batch statistics of a network to their mean over batches; averaged weights have others than any of their parts.

    Args:
        images: see :func:`statistics_loader`.
        keep: names of normalisations whose statistics stay as they are: frozen ones.
    """
    norms = [
        module
        for name, module in model.named_modules()
        if isinstance(module, _BatchNorm) and name not in keep
    ]
    if not norms:
        return
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # torch's sign for a cumulative mean
        # Only the normalisations: dropout stays off.
        norm.train()
    try:
        with autocast(device, precision):
            for batch in images:
                model(batch.images_BCHW)
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
            norm.eval()


def statistics_loader(like: EvalLoader, indices_N: NDArray[np.int64]) -> EvalLoader:
    """Batches of up to 8,192 train images as the evaluation sees them, not augmented; the same ones on every process.

    Args:
        like: gives the images, their preprocessing and the batch size.
        indices_N: the train split.
    """
    # Evenly spaced over the sorted places, so that data sets in sequence all have their share.
    step = max(1, len(indices_N) // _STATISTICS_FACES)
    chosen = np.sort(indices_N)[::step][:_STATISTICS_FACES]
    # All of them on every process: the statistics agree without a collective.
    return replace(like, indices_N=chosen, rank=0, world=1)
