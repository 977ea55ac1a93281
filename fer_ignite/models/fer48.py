"""Fer48, the default network: a small residual CNN for 48-px gray faces.

Every stage is convolution, 2x2 maximum, normalisation, activation, residual blocks. Pooling comes before the
normalisation because there it leaves a quarter of the pixels to the cheap, memory-bound layers; the stem, whose map is
the largest, has no residual block.
"""

# Dimensions: B images, C channels, H W pixels, K expressions.

from collections.abc import Sequence

from torch import Tensor, nn

from fer_ignite.errors import ConfigError
from fer_ignite.models.blocks import (
    ResidualBlock,
    activation_layer,
    check_choice,
    initialise_convolutions,
    norm_layer,
    pool_whole_map,
)

__all__ = ["Fer48"]

POOLINGS = ("max", "avg", "avgmax")
STEMS = ("full", "pool")


class Stage(nn.Module):
    """Convolution to ``c_out`` channels, halving the side with ``pool``, then residual blocks."""

    def __init__(
        self, c_in: int, c_out: int, *, blocks: int, pool: bool, norm: str, activation: str
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(c_in, c_out, 3, padding=1, bias=False)
        # ceil_mode: a map of odd side keeps its last row and column.
        self.pool = nn.MaxPool2d(2, ceil_mode=True) if pool else nn.Identity()
        self.norm = norm_layer(norm, c_out)
        self.act = activation_layer(activation)
        self.blocks = nn.Sequential(
            *(ResidualBlock(c_out, norm=norm, activation=activation) for _ in range(blocks))
        )

    def forward(self, x_BCHW: Tensor) -> Tensor:
        out: Tensor = self.blocks(self.act(self.norm(self.pool(self.conv(x_BCHW)))))
        return out


class Fer48(nn.Module):
    """Residual CNN with one stage per width; 0.49 M parameters at the default widths and 7 classes.

    Args:
        num_classes: K.
        in_channels: 1 gray, 3 colour.
        widths: channels of each stage; each stage after the first halves the side.
        blocks: residual blocks of each stage, as many numbers as widths.
        width_factor: multiplies all widths, rounded to multiples of 8.
        dropout: rate in [0, 1) before the classifier.
        norm: ``batch``, or ``group`` where an image's result must not depend on the others in its batch.
        pooling: what becomes of the last map: ``max``, ``avg`` or both, ``avgmax``.
        stem: ``full`` keeps the first stage at the input's side, ``pool`` halves it at once: about three times faster,
            less accurate.
        activation: ``relu``, ``silu`` or ``gelu``.
    Raises:
        ConfigError: widths and blocks of different lengths, or an unknown name.
    """

    def __init__(
        self,
        num_classes: int,
        in_channels: int = 1,
        *,
        widths: Sequence[int] = (16, 32, 64, 128),
        blocks: Sequence[int] = (0, 1, 1, 1),
        width_factor: float = 1.0,
        dropout: float = 0.0,
        norm: str = "batch",
        pooling: str = "max",
        stem: str = "full",
        activation: str = "relu",
    ) -> None:
        super().__init__()
        check_choice("pooling", pooling, allowed=POOLINGS)
        check_choice("stem", stem, allowed=STEMS)
        if not widths or len(widths) != len(blocks) or min(widths) < 1 or min(blocks) < 0:
            raise ConfigError(
                f"fer48 got widths {list(widths)} and blocks {list(blocks)}; give one positive width and one number of "
                "residual blocks (0 or more) per stage."
            )
        if width_factor != 1.0:
            widths = [max(8, round(width * width_factor / 8) * 8) for width in widths]
        options = {"norm": norm, "activation": activation}
        stages = []
        for index, (width, count) in enumerate(zip(widths, blocks, strict=True)):
            c_in = in_channels if index == 0 else widths[index - 1]
            stages.append(
                Stage(c_in, width, blocks=count, pool=index > 0 or stem == "pool", **options)
            )
        self.stages = nn.Sequential(*stages)
        self.pooling = pooling
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(widths[-1] * (2 if pooling == "avgmax" else 1), num_classes)
        initialise_convolutions(self)
        # The largest of many features is far from zero: torch's own initialisation would begin with logits of several.
        nn.init.normal_(self.head.weight, std=0.01)
        nn.init.zeros_(self.head.bias)

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """logits_BK of normalised images with a side of at least 2 ** (stages - 1) pixels."""
        features_BC = pool_whole_map(self.stages(images_BCHW), self.pooling)
        logits_BK: Tensor = self.head(self.dropout(features_BC))
        return logits_BK
