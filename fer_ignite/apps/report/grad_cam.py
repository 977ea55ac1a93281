"""Grad-CAM at the deepest layer whose map has spatial extent.

Source: Selvaraju et al., "Grad-CAM: Visual Explanations from Deep Networks via Gradient-based Localization", ICCV 2017:
the channels of a map are added up, each weighted by the mean of its gradient over the places, and what speaks against
the class is cut at zero. The paper takes the last convolution; here the layer is found by trying, so that attention
networks, whose maps come as rows of tokens, and unknown networks of users are explained as well.
"""

# Dimensions: B images, C channels, H W places of a map or pixels, N tokens, K expressions.

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fer_ignite.errors import ConfigError
from fer_ignite.models.evaluation_mode import evaluation_mode

__all__ = ["Layer", "attention_maps", "find_layer", "mask_brightest"]

LEAST_SIDE = 4  # a map of fewer places than 4 x 4 is too coarse
_PROBES = 3  # images in the trial: rarely the first dimension of a window partition


@dataclass(frozen=True)
class Layer:
    """Which call of which module gives the map, and the map's height and width."""

    module: str
    call: int
    height: int
    width: int


def find_layer(model: nn.Module, images_BCHW: Tensor) -> Layer:
    """The last module whose output is a map of at least 4 x 4 places that all classes' scores depend on.

    Where a network has none so large, the last map of at least 2 x 2. A map whose places get no gradient doesn't count:
    after the last attention layer of a transformer only the class token does.

    Args:
        images_BCHW: normalised; the first ones are tried.
    Raises:
        ConfigError: no module's output is a map.
    """
    # Several copies: the first dimension of a map is then 3, which separates images from windows.
    images_BCHW = images_BCHW[:1].expand(_PROBES, -1, -1, -1).contiguous()
    seen: list[tuple[str, int, Tensor]] = []
    with evaluation_mode(model), torch.enable_grad(), _watching(model, seen):
        logits_BK = model(images_BCHW.requires_grad_())
        # Of all classes: the gradient of a single one may happen to be zero.
        score = logits_BK.abs().sum()
    maps = [(name, call, out, as_map(out, _PROBES)) for name, call, out in seen]
    maps = [entry for entry in maps if entry[3] is not None]
    grads = _gradients(score, [entry[2] for entry in maps])
    usable = [
        Layer(name, call, *found.shape[2:])
        for (name, call, _, found), grad in zip(maps, grads, strict=True)
        if found is not None and _reaches_places(grad)
    ]
    for least in (LEAST_SIDE, 2):
        for layer in reversed(usable):
            # A map of the images' own size comes before any pooling: it shows pixels.
            if min(layer.height, layer.width) >= least and (layer.height, layer.width) != tuple(
                images_BCHW.shape[2:]
            ):
                return layer
    raise ConfigError(
        f"no layer of {type(model).__name__} gives a map that its scores depend on; Grad-CAM needs one."
    )


def attention_maps(
    model: nn.Module, images_BCHW: Tensor, *, targets_B: Tensor, layer: Layer
) -> Tensor:
    """Regions that raise a class's score: float32 [B, H, W] in [0, 1] at the images' size, on the CPU.

    Each map's largest value is 1; it is all 0 where no place raises the class's score.

    Args:
        images_BCHW: normalised.
        targets_B: int64, the class that each map explains.
        layer: from :func:`find_layer`.
    """
    seen: list[tuple[str, int, Tensor]] = []
    # so that frozen networks have gradients too
    images_BCHW = images_BCHW.detach().clone().requires_grad_()
    with evaluation_mode(model), torch.enable_grad(), _watching(model, seen, only=layer):
        logits_BK = model(images_BCHW)
        score = logits_BK.gather(1, targets_B[:, None].to(logits_BK.device)).sum()
    out = seen[0][2]
    (grad,) = _gradients(score, [out])
    values_BCHW = as_map(out.detach(), len(images_BCHW))
    grads_BCHW = None if grad is None else as_map(grad, len(images_BCHW))
    assert values_BCHW is not None and grads_BCHW is not None
    maps_BHW = (
        (grads_BCHW.mean(dim=(2, 3), keepdim=True) * values_BCHW)
        .sum(dim=1)
        .clamp_min(0)  # what lowers the score is cut, as in the paper
        .float()
        .detach()
    )
    large_BHW = F.interpolate(
        maps_BHW[:, None], images_BCHW.shape[2:], mode="bilinear", align_corners=False
    )[:, 0]
    top_B11 = large_BHW.amax(dim=(1, 2), keepdim=True)
    # The bound keeps a map without positive places at 0, where 0 / 0 would be NaN.
    return (large_BHW / top_B11.clamp_min(1e-12)).cpu()


def mask_brightest(images_BCHW: Tensor, maps_BHW: Tensor, *, share: float) -> Tensor:
    """The images with that share of pixels, where the maps are brightest, set to 0: the train split's mean, normalised."""
    pixels = maps_BHW[0].numel()
    order_BP = maps_BHW.flatten(1).argsort(dim=1, descending=True)[:, : round(share * pixels)]
    keep_BP = torch.ones(len(maps_BHW), pixels).scatter_(1, order_BP, 0.0)
    return images_BCHW * keep_BP.view(len(maps_BHW), 1, *maps_BHW.shape[1:]).to(images_BCHW.device)


def as_map(out: Tensor, images: int) -> Tensor | None:
    """A module's output as [B, C, H, W], or None where it is no map of that many images.

    Taken are [B, C, H, H], [B, H, H, C] (as torchvision's Swin has it), and tokens [B, N, C] whose number is a square,
    or one more: the class token then comes first.
    """
    if out.shape[0] != images or not out.is_floating_point():
        return None
    if out.ndim == 4 and out.shape[2] == out.shape[3]:
        return out
    if out.ndim == 4 and out.shape[1] == out.shape[2]:
        return out.permute(0, 3, 1, 2)
    if out.ndim == 3:
        side = math.isqrt(out.shape[1])
        extra = out.shape[1] - side * side
        if extra in (0, 1) and side > 1:
            return out[:, extra:].transpose(1, 2).unflatten(2, (side, side))
    return None


def _reaches_places(grad: Tensor | None) -> bool:
    found = None if grad is None else as_map(grad, _PROBES)
    return found is not None and bool((found != 0).any())


def _gradients(score: Tensor, outs: list[Tensor]) -> tuple[Tensor | None, ...]:
    # Not backward(): parameters get no gradients; outputs that don't reach the score give None.
    return torch.autograd.grad(score, outs, allow_unused=True) if outs else ()


@contextmanager
def _watching(
    model: nn.Module, seen: list[tuple[str, int, Tensor]], *, only: Layer | None = None
) -> Iterator[None]:
    """Notes (module, call, output) of every call of every module, or of one call of one."""
    calls: dict[str, int] = {}
    handles = []

    def watch(name: str) -> Any:
        def note(_module: nn.Module, _inputs: Any, out: Any) -> None:
            # Counted for every output, so that find_layer and attention_maps give one call one number.
            calls[name] = calls.get(name, -1) + 1
            wanted = only is None or (only.module, only.call) == (name, calls[name])
            # autograd.grad refuses a tensor that needs no gradient, such as a position embedding from a buffer.
            if wanted and isinstance(out, Tensor) and out.requires_grad:
                seen.append((name, calls[name], out))

        return note

    for name, module in model.named_modules():
        if name and (only is None or only.module == name):
            handles.append(module.register_forward_hook(watch(name)))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
