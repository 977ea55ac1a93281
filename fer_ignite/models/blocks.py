"""Shared building blocks: normalisation, convolution units, residual, CSP and attention blocks.

None of them uses adaptive pooling, whose backward pass is not deterministic on CUDA.
"""

# Dimensions: B images, C channels, H W pixels, N tokens in an area, A heads x areas, D channels of a head.

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from fer_ignite.errors import ConfigError

__all__ = [
    "ACTIVATIONS",
    "NORMS",
    "AreaAttention",
    "AttentionBlock",
    "AttentionStage",
    "Bottleneck",
    "ConvUnit",
    "CspStage",
    "ResidualBlock",
    "activation_layer",
    "check_choice",
    "initialise_convolutions",
    "norm_layer",
    "number_of_areas",
    "pool_whole_map",
]

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "silu": nn.SiLU,
    "gelu": nn.GELU,
}
NORMS = ("batch", "group")
_LEAST_TOKENS, _HEAD_CHANNELS = 32, 32


def check_choice(setting: str, value: object, *, allowed: tuple[str, ...]) -> None:
    """Raises ConfigError unless ``value`` is one of ``allowed``."""
    if value not in allowed:
        raise ConfigError(f"{setting} is {value!r}; choose one of {', '.join(allowed)}.")


def norm_layer(kind: str, channels: int) -> nn.Module:
    """Batch normalisation, or group normalisation with up to 8 groups, which no other image of a batch influences."""
    check_choice("norm", kind, allowed=NORMS)
    return (
        nn.BatchNorm2d(channels)
        if kind == "batch"
        # GroupNorm refuses a number of groups that does not divide the channels.
        else nn.GroupNorm(math.gcd(channels, 8), channels)
    )


def activation_layer(kind: str) -> nn.Module:
    """A new activation module by name."""
    check_choice("activation", kind, allowed=tuple(ACTIVATIONS))
    return ACTIVATIONS[kind]()


class ConvUnit(nn.Module):
    """Convolution without bias, normalisation, activation (unless None); sides are halved, rounding up, by stride 2."""

    def __init__(
        self,
        c_in: int,
        c_out: int,
        *,
        kernel: int = 1,
        stride: int = 1,
        groups: int = 1,
        norm: str = "batch",
        activation: str | None = "silu",
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(
            c_in, c_out, kernel, stride, padding=kernel // 2, groups=groups, bias=False
        )
        self.norm = norm_layer(norm, c_out)
        self.act = nn.Identity() if activation is None else activation_layer(activation)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        out: Tensor = self.act(self.norm(self.conv(x_BCHW)))
        return out


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions beside an identity; shape in = shape out.

    Source: He et al., "Deep Residual Learning for Image Recognition", 2015.
    """

    def __init__(self, channels: int, *, norm: str = "batch", activation: str = "relu") -> None:
        super().__init__()
        self.first = ConvUnit(channels, channels, kernel=3, norm=norm, activation=activation)
        self.second = ConvUnit(channels, channels, kernel=3, norm=norm, activation=None)
        self.act = activation_layer(activation)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        out: Tensor = self.act(x_BCHW + self.second(self.first(x_BCHW)))
        return out


class Bottleneck(nn.Module):
    """Two 3x3 convolutions, each activated, added to what came in."""

    def __init__(self, channels: int, *, norm: str) -> None:
        super().__init__()
        self.first = ConvUnit(channels, channels, kernel=3, norm=norm)
        self.second = ConvUnit(channels, channels, kernel=3, norm=norm)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        out: Tensor = x_BCHW + self.second(self.first(x_BCHW))
        return out


class CspStage(nn.Module):
    """Half the channels go straight to the output, the others through bottlenecks, each of which is kept as well.

    Source: Wang et al., "CSPNet", 2019 (the split); Wang et al., "Designing Network Design Strategies Through Gradient
    Path Analysis", 2022 (ELAN: concatenating every intermediate). C2f is the name of this combination.
    """

    def __init__(
        self, c_in: int, c_out: int, *, hidden: int, depth: int = 1, norm: str = "batch"
    ) -> None:
        super().__init__()
        self.split = ConvUnit(c_in, 2 * hidden, norm=norm)
        self.steps = nn.ModuleList(Bottleneck(hidden, norm=norm) for _ in range(depth))
        self.merge = ConvUnit((2 + depth) * hidden, c_out, norm=norm)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        kept = list(self.split(x_BCHW).chunk(2, dim=1))
        for step in self.steps:
            kept.append(step(kept[-1]))
        out: Tensor = self.merge(torch.cat(kept, dim=1))
        return out


def number_of_areas(tokens: int, wanted: int) -> int:
    """Largest number of equal areas, not above ``wanted``, that leaves each at least 32 tokens."""
    fitting = (n for n in range(wanted, 1, -1) if tokens % n == 0 and tokens // n >= _LEAST_TOKENS)
    return next(fitting, 1)


class AreaAttention(nn.Module):
    """Multi-head attention in which a pixel sees only the pixels of its own area, plus a convolution for position.

    The map is read row by row and cut into equal areas, so the cost falls by their number with no windows to shift.
    Small maps stay whole (:func:`number_of_areas`), which is what a 48-px face gives. Softmax attention is written out:
    the fused kernels have no deterministic backward pass in float32 on CUDA, and areas are short.

    Source: Tian et al., "YOLOv12: Attention-Centric Real-Time Object Detectors", 2025, section 3.2.
    """

    def __init__(self, channels: int, *, heads: int, areas: int, norm: str = "batch") -> None:
        super().__init__()
        self.heads, self.areas = heads, areas
        self.qkv = ConvUnit(channels, 3 * channels, norm=norm, activation=None)
        self.position = ConvUnit(
            channels, channels, kernel=7, groups=channels, norm=norm, activation=None
        )
        self.out = ConvUnit(channels, channels, norm=norm, activation=None)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        images, channels, height, width = x_BCHW.shape
        areas = number_of_areas(height * width, self.areas)
        query, key, value_BCHW = self.qkv(x_BCHW).chunk(3, dim=1)
        query_BAND, key_BAND, value_BAND = (
            self._to_areas(part, areas) for part in (query, key, value_BCHW)
        )
        scale = (channels // self.heads) ** -0.5
        # Scaled before the product, whose sums could otherwise leave float16's range.
        weights_BANN = (query_BAND * scale @ key_BAND.transpose(-2, -1)).softmax(dim=-1)
        # On CUDA autocast computes the softmax in float32.
        mixed_BAND = weights_BANN.to(value_BAND.dtype) @ value_BAND
        mixed = mixed_BAND.view(images, areas, self.heads, -1, channels // self.heads).transpose(
            2, 3
        )
        mixed_BCHW = mixed.reshape(images, height, width, channels).permute(0, 3, 1, 2)
        out: Tensor = self.out(mixed_BCHW + self.position(value_BCHW))
        return out

    def _to_areas(self, x_BCHW: Tensor, areas: int) -> Tensor:
        images, channels = x_BCHW.shape[:2]
        tokens = x_BCHW.permute(0, 2, 3, 1).reshape(
            images, areas, -1, self.heads, channels // self.heads
        )
        return tokens.transpose(2, 3).flatten(1, 2)


class AttentionBlock(nn.Module):
    """Area attention, then a two-layer perceptron on each pixel, each added to what came in."""

    def __init__(self, channels: int, *, heads: int, areas: int, norm: str) -> None:
        super().__init__()
        hidden = 2 * channels
        self.attention = AreaAttention(channels, heads=heads, areas=areas, norm=norm)
        self.mlp = nn.Sequential(
            ConvUnit(channels, hidden, norm=norm),
            ConvUnit(hidden, channels, norm=norm, activation=None),
        )

    def forward(self, x_BCHW: Tensor) -> Tensor:
        x_BCHW = x_BCHW + self.attention(x_BCHW)
        out: Tensor = x_BCHW + self.mlp(x_BCHW)
        return out


class AttentionStage(nn.Module):
    """Pairs of attention blocks, every pair's output kept and merged, then added, scaled per channel, to the input.

    Source: as :class:`AreaAttention`, section 3.3 (residual ELAN); scale: Touvron et al., "Going deeper with Image
    Transformers", 2021 (LayerScale).
    """

    def __init__(
        self, channels: int, *, hidden: int, depth: int, areas: int, norm: str = "batch"
    ) -> None:
        super().__init__()
        heads = max(1, hidden // _HEAD_CHANNELS)
        self.reduce = ConvUnit(channels, hidden, norm=norm)
        self.pairs = nn.ModuleList(
            nn.Sequential(
                *(AttentionBlock(hidden, heads=heads, areas=areas, norm=norm) for _ in range(2))
            )
            for _ in range(depth)
        )
        self.merge = ConvUnit((1 + depth) * hidden, channels, norm=norm)
        self.scale_C = nn.Parameter(torch.full((channels,), 0.1))

    def forward(self, x_BCHW: Tensor) -> Tensor:
        kept = [self.reduce(x_BCHW)]
        for pair in self.pairs:
            kept.append(pair(kept[-1]))
        merged_BCHW = self.merge(torch.cat(kept, dim=1))
        out: Tensor = x_BCHW + self.scale_C.view(1, -1, 1, 1) * merged_BCHW
        return out


def initialise_convolutions(model: nn.Module) -> None:
    """He initialisation by fan-out, for convolutions that a normalisation follows; residual blocks begin as identities.

    Source: the last scale of a residual branch at zero, Goyal et al., "Accurate, Large Minibatch SGD", 2017.
    """
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            # For SiLU and GELU too: torch's calculate_gain knows neither.
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(module, ResidualBlock):
            nn.init.zeros_(module.second.norm.weight)  # type: ignore[arg-type]


def pool_whole_map(x_BCHW: Tensor, pooling: str) -> Tensor:
    """Largest, mean, or both (concatenated) of each channel over the whole map: [B, C] or [B, 2C]."""
    if pooling == "max":
        return x_BCHW.amax(dim=(2, 3))
    if pooling == "avg":
        return x_BCHW.mean(dim=(2, 3))
    return torch.cat([x_BCHW.amax(dim=(2, 3)), x_BCHW.mean(dim=(2, 3))], dim=1)
