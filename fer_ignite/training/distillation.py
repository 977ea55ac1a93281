"""Knowledge distillation: the loss against a teacher's probabilities on the same augmented images."""

# Dimensions: B images, C channels, H W pixels, K expressions.

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from fer_ignite.training.precision import autocast

__all__ = ["Distillation"]


class Distillation:
    """Mixes the loss of the labels with the divergence from a teacher.

    The teacher sees the batch as the network does, with its augmentation and mixing: probabilities that were stored once
    would be of other images.

    Source: Hinton et al., Distilling the knowledge in a neural network (2015); the same views for both by Beyer et al.,
    Knowledge distillation: a good teacher is patient and consistent (2022).

    Args:
        teacher: normalised images [B, C, H, W] -> log-probabilities [B, K]; in evaluation mode, on the device.
        weight: share of the teacher's term, in [0, 1].
        temperature: softens both distributions; the term is multiplied by its square, so that its gradients keep their size.
    """

    def __init__(
        self,
        teacher: nn.Module,
        *,
        weight: float,
        temperature: float,
        device: torch.device,
        precision: str,
    ) -> None:
        self._teacher, self._weight, self._temperature = teacher, weight, temperature
        self._device, self._precision = device, precision

    def __call__(
        self, losses: Mapping[str, Tensor], logits_BK: Tensor, *, images_BCHW: Tensor
    ) -> dict[str, Tensor]:
        """``losses`` with a new ``loss``, and its two parts as ``label_loss`` and ``distill_loss``; each [B]."""
        with torch.no_grad(), autocast(self._device, self._precision):
            known_BK = self._teacher(images_BCHW)
        # Logarithms on both sides: a probability of 0 would make the divergence infinite.
        # log_softmax again: at another temperature log-probabilities give what logits would, as
        # they differ by a constant.
        soft_BK = (known_BK.float() / self._temperature).log_softmax(dim=1)
        own_BK = (logits_BK / self._temperature).log_softmax(dim=1)
        distance_B = (soft_BK.exp() * (soft_BK - own_BK)).sum(dim=1) * self._temperature**2
        labels_B = losses["loss"]
        total_B = (1 - self._weight) * labels_B + self._weight * distance_B
        return {**losses, "loss": total_B, "label_loss": labels_B, "distill_loss": distance_B}
