"""Ensembles: the average of several checkpoints' probabilities, as one network."""

# Dimensions: B images of a batch, C channels, H W pixels, K expressions.

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fer_ignite.data.classes import match_classes
from fer_ignite.data.loader import Preprocessing
from fer_ignite.errors import CheckpointError, DataError

if TYPE_CHECKING:
    from fer_ignite.inference.loaded_model import LoadedModel

__all__ = ["EnsembleModule", "combine"]

# Weights of red, green and blue in a gray image (ITU-R BT.601), as Pillow has them.
_GRAY = (0.299, 0.587, 0.114)
_LEAST = 1e-12


class EnsembleModule(nn.Module):
    """Normalised images [B, C, H, W] -> logarithm of the weighted mean of the members' probabilities [B, K].

    A member's logits are divided by its own temperature first; where views are averaged too, that comes last. Its input is
    the given one where it was trained on such; otherwise the images are brought to its side, channels and normalisation.

    Args:
        members: loaded checkpoints with one set of classes.
        weights: of the members; they add up to 1.
        preprocessing: of the images that are given.
        classes: in the order of the outputs.
    Raises:
        CheckpointError: a member has other classes, sees another part of the picture, or takes finished tensors.
    """

    def __init__(
        self,
        members: "Sequence[LoadedModel]",
        weights: Sequence[float],
        *,
        preprocessing: Preprocessing,
        classes: Sequence[str],
    ) -> None:
        super().__init__()
        self.members = nn.ModuleList(member.model for member in members)
        self.weights = tuple(weights)
        self.temperatures = tuple(member.temperature for member in members)
        self.given = preprocessing
        self.inputs = tuple(member.preprocessing for member in members)
        for number, member in enumerate(members):
            # A buffer, as that moves with the module; not saved, as it follows from the classes.
            self.register_buffer(f"order_{number}", _class_order(member, classes), persistent=False)
            if member.preprocessing.finished_tensors != preprocessing.finished_tensors:
                raise CheckpointError(
                    "one network of the ensemble was trained on float tensors that its data set made, another on images, and no data "
                    "fits both; leave one out."
                )
            if _crop_share(member.preprocessing) != _crop_share(preprocessing):
                raise CheckpointError(
                    "an ensemble's networks have to see the same part of a face: one crops to "
                    f"{_crop_share(member.preprocessing):.2f} of its side, another to {_crop_share(preprocessing):.2f} (--resize)."
                )

    def forward(self, images_BCHW: Tensor) -> Tensor:
        total_BK: Tensor | None = None
        for number, member in enumerate(self.members):
            # float32: autocast may give bfloat16, and a softmax over it has 8 bits of precision.
            logits_BK = member(self._adapted(images_BCHW, self.inputs[number])).float()
            # Probabilities are averaged, not logits: a member's scale would otherwise be a hidden weight.
            shares_BK = (logits_BK / self.temperatures[number]).softmax(dim=1)
            shares_BK = shares_BK[:, getattr(self, f"order_{number}")] * self.weights[number]
            total_BK = shares_BK if total_BK is None else total_BK + shares_BK
        assert total_BK is not None
        # log(0) would be -inf, and an evaluation refuses outputs that are not finite.
        return total_BK.clamp_min(_LEAST).log()

    def _adapted(self, images_BCHW: Tensor, wanted: Preprocessing) -> Tensor:
        given = self.given
        side = images_BCHW.shape[-1]
        if side != wanted.image_px:
            # smaller faces are only enlarged, which needs no antialiasing; larger ones are
            images_BCHW = F.interpolate(
                images_BCHW,
                (wanted.image_px, wanted.image_px),
                mode="bilinear",
                antialias=side > wanted.image_px,
            )
        if (given.channels, given.mean, given.std) == (wanted.channels, wanted.mean, wanted.std):
            return images_BCHW
        images_BCHW = given.unnormalise(images_BCHW)
        if given.channels > wanted.channels:
            gray_C = torch.tensor(_GRAY, device=images_BCHW.device).view(1, -1, 1, 1)
            images_BCHW = (images_BCHW * gray_C).sum(dim=1, keepdim=True)
        mean, std = (
            torch.tensor(values, device=images_BCHW.device).view(1, -1, 1, 1)
            for values in (wanted.mean, wanted.std)
        )
        return (images_BCHW - mean) / std  # one channel becomes three


def combine(members: "Sequence[LoadedModel]", weights: Sequence[float]) -> "LoadedModel":
    """Several loaded checkpoints as one; faces are prepared as the first one's were.

    The result's temperature is 1: each member's own is applied before the average.

    Raises:
        CheckpointError: the members do not fit together.
    """
    first = members[0]
    module = EnsembleModule(
        members, weights, preprocessing=first.preprocessing, classes=first.classes
    )
    # One uncalibrated member leaves the mean uncalibrated; the entry is what says that it is.
    calibrated = all(member.calibrated for member in members)
    content = {name: value for name, value in first.checkpoint.items() if name != "temperature"}
    if calibrated:
        content["temperature"] = 1.0
    return replace(
        first, model=module.to(first.device).eval(), checkpoint=content, members=tuple(members)
    )


def _class_order(member: "LoadedModel", classes: Sequence[str]) -> Tensor:
    """int64 [K]: the place of each of ``classes`` among the member's."""
    try:
        match = match_classes(classes, member.classes)
    except DataError as error:
        raise CheckpointError(f"the ensemble's classes don't fit: {error}") from None
    if match.unknown or len(member.classes) != len(classes):
        raise CheckpointError(
            f"an ensemble needs the same classes in every network: one has {', '.join(classes)}, another "
            f"{', '.join(member.classes)}."
        )
    return torch.from_numpy(match.places_K)


def _crop_share(preprocessing: Preprocessing) -> float:
    return round(preprocessing.image_px / preprocessing.resize_px, 3)
