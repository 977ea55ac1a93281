"""What a network is built from: its name, numbers of classes and channels, and options."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = ["IMAGENET", "NetworkSpec"]

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
"""Mean and standard deviation per RGB channel that torchvision's published weights expect."""


@dataclass(frozen=True, kw_only=True)
class NetworkSpec:
    """Arguments of :func:`fer_ignite.models.build_model`.

    Args:
        name: ``fer48``, ``emotionnet``, a torchvision classifier, ``timm:NAME``, or ``package.module:Class``, which is called with
            ``num_classes``, ``in_channels`` and ``model_args``.
        num_classes: K.
        in_channels: 1 gray or 3 colour; a published network's first weights are summed over RGB for gray.
        image_px: side of the images; where it is given, one blank image is tried.
        pretrained: torchvision's best ImageNet weights, or timm's for the name, all but the classifier.
        dropout: rate in [0, 1) before the classifier; None = the network's own.
        norm: ``batch`` or ``group``; own networks only.
        model_args: further arguments of the network's constructor.
    """

    name: str
    num_classes: int
    in_channels: int
    image_px: int | None = None
    pretrained: bool = False
    dropout: float | None = None
    norm: str = "batch"
    model_args: Mapping[str, Any] = field(default_factory=dict)
