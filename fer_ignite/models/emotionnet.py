"""EmotionNet: convolution stem, CSP stages, area attention at strides 16 and 32, wide head.

Written from the published descriptions: CSPNet (Wang et al., 2019), ELAN (Wang et al., 2022) and area attention with
residual ELAN (Tian et al., "YOLOv12", 2025). The parts, with their papers, stand in :mod:`fer_ignite.models.blocks`.
"""

# Dimensions: B images, C channels, H W pixels, K expressions.

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from fer_ignite.errors import ConfigError
from fer_ignite.models.blocks import AttentionStage, ConvUnit, CspStage

__all__ = ["EmotionNet"]


class EmotionNet(nn.Module):
    """CNN with area attention in its two last stages; 1.77 M parameters at 7 classes.

    Takes any input side from 32 px: 48 px leaves maps of 3x3 and 2x2 to the attention, 224 px 14x14 (in four areas)
    and 7x7.

    Args:
        num_classes: K.
        in_channels: 1 gray, 3 colour.
        widths: channels at strides 2, 4, 8, 16 and 32; the two last multiples of 64.
        depths: depth of the four stages at strides 4, 8, 16 and 32.
        areas: areas wanted at strides 16 and 32.
        head_width: channels of the last convolution.
        dropout: rate in [0, 1) before the classifier.
        norm: ``batch`` or ``group``.
    Raises:
        ConfigError: widths, depths or areas of a wrong length, or widths that attention heads can't share.
    """

    def __init__(
        self,
        num_classes: int,
        in_channels: int = 1,
        *,
        widths: Sequence[int] = (16, 32, 64, 128, 256),
        depths: Sequence[int] = (2, 2, 2, 2),
        areas: Sequence[int] = (4, 1),
        head_width: int = 1280,
        dropout: float = 0.2,
        norm: str = "batch",
    ) -> None:
        super().__init__()
        # Attention works on half the width, in heads of 32 channels: hence multiples of 64.
        if (len(widths), len(depths), len(areas)) != (5, 4, 2) or any(
            width % 64 for width in widths[3:]
        ):
            raise ConfigError(
                f"emotionnet got widths {list(widths)}, depths {list(depths)} and areas {list(areas)}; give 5 widths "
                "(the two last multiples of 64), 4 depths and 2 areas."
            )
        first, second, third, fourth, fifth = widths
        self.stem = nn.Sequential(
            ConvUnit(in_channels, first, kernel=3, stride=2, norm=norm),
            ConvUnit(first, second, kernel=3, stride=2, norm=norm),
        )
        self.stage4 = CspStage(second, third, hidden=second // 2, depth=depths[0], norm=norm)
        self.down8 = ConvUnit(third, third, kernel=3, stride=2, norm=norm)
        self.stage8 = CspStage(third, fourth, hidden=third // 2, depth=depths[1], norm=norm)
        self.down16 = ConvUnit(fourth, fourth, kernel=3, stride=2, norm=norm)
        self.stage16 = AttentionStage(
            fourth, hidden=fourth // 2, depth=depths[2], areas=areas[0], norm=norm
        )
        self.down32 = ConvUnit(fourth, fifth, kernel=3, stride=2, norm=norm)
        self.stage32 = AttentionStage(
            fifth, hidden=fifth // 2, depth=depths[3], areas=areas[1], norm=norm
        )
        self.wide = ConvUnit(fifth, head_width, norm=norm)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(head_width, num_classes)

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """logits_BK of normalised images."""
        x_BCHW = self.stage8(self.down8(self.stage4(self.stem(images_BCHW))))
        x_BCHW = self.stage16(self.down16(x_BCHW))
        x_BCHW = self.stage32(self.down32(x_BCHW))
        # Not AdaptiveAvgPool2d, whose backward pass is not deterministic on CUDA.
        features_BC = torch.mean(self.wide(x_BCHW), dim=(2, 3))
        logits_BK: Tensor = self.head(self.dropout(features_BC))
        return logits_BK
